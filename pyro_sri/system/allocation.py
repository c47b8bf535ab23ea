"""How a process of ours keeps its memory."""

import contextlib
import ctypes
import os
from pathlib import Path

# Parameters of mallopt(3), by their numbers in glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
GROWTH = 64 * 1024**2  # bytes that the heap grows by at least
HDF5_BYTES = 16 * 1024**2  # more than HDF5 needs to open a file
MUCH = 8 * 1024**3  # bytes that a process keeps from step to step without giving what is free of them back


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, in huge pages, for the next training step.

    By default the C library gives every large tensor back to the system, which then hands out its pages anew, one fault
    for each 4 KB: 250,000 in a step at 64x64, a quarter of its time. Call this before the first tensor is made. Where
    the C library is not glibc, and on GPUs, whose memory PyTorch keeps by itself, it changes nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch asks for it once, at its first allocation
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, GROWTH)):
            mallopt(parameter, value)


def limit_kept_memory() -> None:
    """Gives freed memory back to the system if this process holds much (8 GiB); call it between training steps.

    The gaps between tensors of a gigabyte seldom fit the next one: at 128x128, where a step needs 14 GiB, a process
    that keeps all it frees holds 19 after two steps, 21 after three, and more later. Where the C library is not glibc
    it changes nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > MUCH:
            ctypes.CDLL(None).malloc_trim(0)


def require_memory_for_hdf5() -> None:
    """Checks that HDF5 can open a file: it crashes the process if it runs out of memory there.

    Raises:
        MemoryError: If there is not enough memory.
    """
    bytearray(HDF5_BYTES)
