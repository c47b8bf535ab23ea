"""How the threads of this process wait for each other."""

import os


def wait_passively() -> None:
    """Lets threads sleep instead of spin while they wait. Call it before torch is imported.

    If another program uses one of the cores, spinning threads block the thread that they wait for. With two threads, a
    step then takes 4 to 20 times as long. A setting in the environment is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
