import platform
import subprocess
import sys

import pytest

only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import resource, sys
from pyro_sri.system.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import torch
def use():
    for _ in range(4):
        torch.ones(4_000_000)  # 16 MB, freed at once
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HOLDING = """
import sys
from pathlib import Path
from pyro_sri.system import allocation
allocation.keep_freed_memory()
allocation.MUCH = int(sys.argv[1])
import torch
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
first, last = torch.ones(64_000_000), torch.ones(1000)  # 256 MB, and what keeps the heap from shrinking
del first
before = resident()
allocation.limit_kept_memory()
print((before - resident()) * 4096)
"""


def faults(how: str) -> int:
    """Page faults of filling 64 MB, 16 at a time, for the second time in a new process."""
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def given_back(much: int) -> int:
    """Bytes that a new process gives back after 256 MB were freed, if `much` may be kept."""
    command = [sys.executable, "-c", HOLDING, str(much)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@only_glibc
def test_freed_memory_is_used_again() -> None:
    assert faults("keep") < 1000 < faults("give back")


@pytest.mark.slow
@only_glibc
def test_a_process_that_holds_much_gives_back_what_is_free() -> None:
    assert given_back(much=10**12) == 0
    assert given_back(much=10**8) > 200_000_000
