"""How many kernels a step starts: on a GPU, most of them take as long to start as to run."""

import subprocess
import sys

import pytest

from support.fake_gpu import AVAILABLE

MOST = 2_000


@pytest.mark.skipif(not AVAILABLE, reason="this PyTorch has no devices that are made in Python")
def test_a_step_of_sri_has_few_kernels() -> None:
    """At the paper's size: 64x64, 9 slots."""
    command = [sys.executable, "-m", "support.kernels", "sri-mog-shapestacks"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1_000 < int(done.stdout) <= MOST
