"""How this process keeps its memory."""

import contextlib
import ctypes
import os
from pathlib import Path

# Parameters of mallopt(3), by their numbers in glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
GROWTH = 64 * 1024**2  # bytes, the least growth of the heap
HDF5_BYTES = 16 * 1024**2  # more than HDF5 needs to open a file
MUCH = 8 * 1024**3  # bytes; a process with less keeps its free memory between steps


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, in huge pages, for the next training step.

    By default, the C library returns the memory of every large tensor to the system. Getting it back costs a page fault
    for each 4 KB: 250,000 in a step at 64x64, a quarter of its time. Call this before the first tensor is created. It
    has no effect if the C library is not glibc, or on GPUs, whose memory PyTorch keeps by itself.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it once, at its first allocation
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, GROWTH)):
            mallopt(parameter, value)


def limit_kept_memory() -> None:
    """Returns freed memory to the system if this process has more than 8 GiB. Call it between training steps.

    The gaps between tensors of a gigabyte seldom fit the next one. At 128x128, a step needs 14 GiB, but a process that
    keeps all freed memory has 19 GiB after two steps, 21 after three, and more later. If the C library is not glibc,
    this has no effect.
    """
    with contextlib.suppress(OSError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > MUCH:
            ctypes.CDLL(None).malloc_trim(0)


def require_memory_for_hdf5() -> None:
    """Checks that HDF5 has enough memory to open a file. Otherwise, it would crash the process.

    Raises:
        MemoryError: If there is not enough memory.
    """
    bytearray(HDF5_BYTES)
