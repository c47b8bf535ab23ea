import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pyro_sri.allocation import keep_freed_memory
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


def faults(how: str) -> int:
    """Page faults of filling 64 MB, 16 at a time, for the second time in a new process."""
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    assert faults("keep") < 1000 < faults("give back")
