"""Fixtures: recorded cases of the authors' networks, a clean parameter store, small models and data."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch

from pyro_sri.data.generators.making import make_dataset
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.genesis_v2 import IndependentSlotModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import InstanceColours

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; commands under test obey it
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PYRO_SRI_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()


def build_sri(**fields: Any) -> tuple[SceneModel, SRIGuide]:
    """A small scene model and SRI guide."""
    shape = {"image_size": 32, "num_slots": 3, "slot_size": 8} | {
        name: fields.pop(name) for name in ("image_size", "num_slots", "slot_size", "likelihood") if name in fields
    }
    model = SceneModel(**shape, scene_size=fields.pop("scene_size", 12))
    likelihood = shape.pop("likelihood", None)
    model_shape = shape | ({} if likelihood is None else {"likelihood": likelihood})
    colours = InstanceColours(gate=0.5, kernel=fields.pop("kernel", "gaussian"), start=fields.pop("start", "position"))
    segregation = SegregationPair(IndependentSlotModel(**model_shape), GenesisV2Guide(**shape, colours=colours))
    return model, SRIGuide(model, segregation, **{"num_layers": 2} | fields)


@pytest.fixture
def sri() -> tuple[SceneModel, SRIGuide]:
    return build_sri()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32)


@pytest.fixture(scope="session")
def tetrominoes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated dataset file of 32x32 images."""
    path = tmp_path_factory.mktemp("data") / "tetrominoes.h5"
    make_dataset("tetrominoes", path, size=32, train=48, val=16, test=16, seed=3)
    return path
