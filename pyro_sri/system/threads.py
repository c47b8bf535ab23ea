"""How the threads of a process of ours wait for each other."""

import os


def wait_passively() -> None:
    """Lets threads that wait for others sleep instead of spin; call it before torch is loaded.

    Where another program has one of the cores, spinning threads keep the one they wait for from running: with two
    threads a step takes 4 to 20 times as long. A choice made in the environment stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
