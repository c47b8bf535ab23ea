"""The GPU that is none refuses what a GPU would, and takes what it would take."""

import json
import subprocess
import sys

import pytest

from support.fake_gpu import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this PyTorch has no devices that are made in Python")

# By expression: what comes of it on the device, where nothing may wait.
OUTCOMES = {
    "x + torch.ones(3)": "OtherDevice",
    "torch.cat([x, torch.ones(3)])": "OtherDevice",
    "x @ torch.ones(3, 3)": "OtherDevice",
    "x.numpy()": "OtherDevice",
    "x.cpu()": "CannotRecord",
    "x.copy_(torch.ones(3))": "CannotRecord",
    "x.sum().item()": "CannotRecord",
    "x.tolist()": "CannotRecord",
    "bool(x.any())": "CannotRecord",
    "x[x > 0]": "CannotRecord",
    "x.nonzero()": "CannotRecord",
    "x[torch.tensor([0, 1])]": "CannotRecord",
    "x * torch.ones(())": "[1.0, 1.0, 1.0]",
    "x.add_(1)": "[2.0, 2.0, 2.0]",
    "torch.full((3,), 2.0, device=x.device) * x": "[2.0, 2.0, 2.0]",
    "torch.where(x > 0, x, 0.0)": "[1.0, 1.0, 1.0]",
    "x[:2]": "[1.0, 1.0]",
    "nn.Linear(3, 1).to(x.device).requires_grad_(False).weight.fill_(1) @ x": "[3.0]",
    "torch.autograd.grad((y := x.clone().requires_grad_()).square().sum(), y)[0]": "[2.0, 2.0, 2.0]",
}

SCRIPT = """
import json, sys, torch
from torch import nn
from support import fake_gpu, kernels
fake_gpu.install()
outcomes = {}
for expression in json.load(sys.stdin):
    x = torch.ones(3, device=fake_gpu.fake_gpu())
    try:
        with fake_gpu.unawaited():
            value = eval(expression)
        outcomes[expression] = str(value.tolist() if isinstance(value, torch.Tensor) else value)
    except Exception as error:
        outcomes[expression] = type(error).__name__
print(json.dumps([outcomes, {preset: kernels.count_kernels(preset).total() for preset in json.loads(sys.argv[1])}]))
"""
# The fewest that are credible, and the most. At 64x64 and 9 slots, most kernels take as long to start as to run.
KERNELS = {
    "sri-mog-shapestacks": (1_000, 2_000),
    "genesis_v2-mog-shapestacks": (500, 1_000),
    "genesis-shapestacks": (1_000, 1_500),
}


@pytest.fixture(scope="module")
def found() -> tuple[dict[str, str], dict[str, int]]:
    """What came of the expressions, and the kernels of a step, from one process: imports take the longest."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(KERNELS))]
    done = subprocess.run(command, input=json.dumps(list(OUTCOMES)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes, kernels = json.loads(done.stdout)
    return outcomes, kernels


def test_what_a_gpu_refuses_is_refused(found: tuple[dict[str, str], dict[str, int]]) -> None:
    assert found[0] == OUTCOMES


@pytest.mark.parametrize("preset", KERNELS)
def test_a_step_has_few_kernels(preset: str, found: tuple[dict[str, str], dict[str, int]]) -> None:
    fewest, most = KERNELS[preset]
    assert fewest < found[1][preset] <= most
