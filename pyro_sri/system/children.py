"""Child processes that do not outlive this one."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO

PR_SET_PDEATHSIG = 1  # prctl(2), only on Linux
PARENT = "PYRO_SRI_PARENT"  # environment variable: the process that a child ends with


def start_child(
    words: Sequence[str], output: IO[bytes], environment: Mapping[str, str | None], cores: Collection[int] = ()
) -> subprocess.Popen[bytes]:
    """Starts a process that gets SIGTERM when this one ends, for whatever reason (only on Linux).

    It has its own process group, so this process must pass on a Ctrl-C from the terminal. Call it from the main thread,
    because the kernel sends the signal when the thread that started the process ends.

    Args:
        words: The program and its arguments.
        output: Where its standard output and error go.
        environment: Changes to this process's environment variables. None removes one.
        cores: The cores that it may use. If empty, or if cores cannot be chosen, all cores of this process.
    """
    parent = os.getpid()

    def prepare() -> None:  # in the child, before the program starts
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before the line above
            os._exit(1)
        if cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, cores)

    return subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
        preexec_fn=prepare,
        process_group=0,
    )


@contextlib.contextmanager
def bound_to_this_process() -> Iterator[None]:
    """Makes processes that libraries start inside end with this one, if they call `end_with_parent`."""
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]


def end_with_parent() -> None:
    """Kills this process when the one that started it to share its work ends (only on Linux)."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if str(os.getppid()) != parent:  # the parent ended before the line above
        os._exit(1)


def usable_cores() -> list[int]:
    """The cores that this process may use, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
