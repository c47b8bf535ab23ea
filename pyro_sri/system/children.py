"""Processes that this one starts and that do not outlive it."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO

PR_SET_PDEATHSIG = 1  # prctl(2), Linux alone
PARENT = "PYRO_SRI_PARENT"  # the process that a process is to end with, in its environment


def start_child(
    words: Sequence[str], output: IO[bytes], environment: Mapping[str, str | None], cores: Collection[int] = ()
) -> subprocess.Popen[bytes]:
    """Starts a process that gets SIGTERM when this one ends, in whatever way; on Linux, elsewhere it lives on.

    It is in a process group of its own, so that Ctrl-C on a terminal is for this process to pass on. Call it from the
    main thread: the kernel takes the end of the thread that started a process for the end of its parent.

    Args:
        words: The program and its arguments.
        output: Where its standard output and error go.
        environment: What to change in this process's environment variables; None takes one away.
        cores: The cores that it may run on; all of this process's if there are none, or where they cannot be chosen.
    """
    parent = os.getpid()

    def prepare() -> None:  # in the child, before the program starts
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it could be noticed
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
    """Processes that libraries start inside end with this one if they call `end_with_parent`."""
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]


def end_with_parent() -> None:
    """Has this process killed when the one ends that started it to share its work; on Linux, elsewhere it lives on."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if str(os.getppid()) != parent:  # it ended before it could be noticed
        os._exit(1)


def usable_cores() -> list[int]:
    """The cores that this process may use, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
