"""Fixtures: a clean parameter store, small models and data."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

if "PYRO_SRI_TEST_GPU" not in os.environ:  # before anything looks for one
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pyro
import pytest
import torch

from pyro_sri.data.making import make_dataset
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.scene import SceneModel
from support.programs import build_sri

TESTS = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])  # for `support`

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; commands under test obey it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.pop("COLUMNS", None)  # pytest's workers have it; output of commands under test goes to no terminal


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
