"""The recorded cases of the authors' networks, and how they are compared with."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger

GOLDEN = Path(__file__).parents[1] / "golden"


class Golden:
    """A recorded case: weights, inputs, draws and results of the authors' networks, as float64 tensors."""

    def __init__(self, case: str) -> None:
        self.arrays = np.load(GOLDEN / f"{case}.npz")
        self.names = self.arrays.files

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = torch.from_numpy(np.asarray(self.arrays[name]))
        return tensor.double() if tensor.is_floating_point() else tensor

    def config(self, name: str) -> Any:
        return self.arrays[f"config/{name}"].item()

    def state(self, prefix: str = "") -> dict[str, torch.Tensor]:
        start = f"state/{prefix}"
        return {name.removeprefix(start): self[name] for name in self.names if name.startswith(start)}

    def starting(self, prefix: str) -> list[str]:
        return [name for name in self.names if name.startswith(prefix)]


def assert_relative(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    """Equal relative to the largest entry; where all of it is zero in exact arithmetic, absolute 1e-9. NaN fails."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double(), expected.double()
    scale = expected.abs().max().item()
    allowed = 1e-9 if scale < 1e-9 else tolerance * scale
    difference = (actual - expected).abs().max().item()
    assert difference <= allowed, f"{difference} > {allowed}"


class RecordedNoise(Messenger):
    """Draws mean + std * recorded eps, and recorded uniforms; leaves Deltas and settled sites alone."""

    def __init__(self, eps: dict[str, torch.Tensor], uniforms: torch.Tensor | None = None) -> None:
        super().__init__()
        self.eps, self.uniforms = eps, uniforms

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        if msg["name"] == "segregation_seeds":
            msg["value"], msg["done"] = self.uniforms, True
        elif msg["name"] in self.eps:
            msg["value"], msg["done"] = msg["fn"].mean + msg["fn"].stddev * self.eps[msg["name"]], True


def slots_first(trace: Trace, prefix: str, read: Any) -> torch.Tensor:
    """A quantity of the sites PREFIX0, PREFIX1, ..: [K, B, ..]."""
    names = itertools.takewhile(lambda name: name in trace.nodes, (f"{prefix}{k}" for k in itertools.count()))
    return torch.stack([read(trace.nodes[name]) for name in names])


def mean(site: Any) -> torch.Tensor:
    return site["fn"].mean


def std(site: Any) -> torch.Tensor:
    return site["fn"].stddev


def value(site: Any) -> torch.Tensor:
    return site["value"]
