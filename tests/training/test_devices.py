"""What is said of GPUs, and what commands that run on the CPU leave alone."""

import contextlib
import logging
import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import pyro_sri
from pyro_sri.inference import sample_scenes
from pyro_sri.models.scene import SceneModel
from pyro_sri.system.seeds import keeping_random_state
from pyro_sri.training import capture, devices, launching
from pyro_sri.training.execution import set_precision

ADVICE = "You are using a CUDA device ('H100') that has Tensor Cores. To properly utilize them, you should set .."
NEW_SETTINGS = "Please use the new API settings to control TF32 behavior, such as .."


@pytest.mark.skipif("PYRO_SRI_TEST_GPU" in os.environ, reason="a GPU is asked for")
def test_tests_are_of_the_cpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


def test_advice_on_precision_is_not_printed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("lightning_fabric.utilities.rank_zero")

    def fabric(**_: Any) -> Any:
        logger.info(ADVICE)
        logger.info("anything else")
        warnings.warn(NEW_SETTINGS, stacklevel=1)
        return SimpleNamespace(launch=lambda: logger.info(ADVICE), world_size=1)

    monkeypatch.setattr(launching, "Fabric", fabric)
    with caplog.at_level(logging.INFO):
        launching.new_fabric()
        assert caplog.messages == ["anything else"]
        logger.info(ADVICE)
    assert caplog.messages == ["anything else", ADVICE]  # others may say it


def test_the_library_gives_its_advice_through_that_logger(caplog: pytest.LogCaptureFixture) -> None:
    """What is filtered above is what it says."""
    from lightning_fabric.accelerators import cuda

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        patch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
        cuda._check_cuda_matmul_precision.cache_clear()
        with devices.without_advice():
            cuda._check_cuda_matmul_precision(torch.device("cuda", 0))
        assert not caplog.messages
        cuda._check_cuda_matmul_precision.cache_clear()
        cuda._check_cuda_matmul_precision(torch.device("cuda", 0))
        assert devices.ADVICE in caplog.messages[0]


def test_setting_the_precision_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(precision: str) -> None:
        warnings.warn(NEW_SETTINGS, stacklevel=1)

    monkeypatch.setattr(torch, "set_float32_matmul_precision", warn)
    set_precision(nn.Linear(1, 1), "float32")  # a warning would be an error


def test_several_processes_expect_gradients_from_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    name = "set_warn_on_accumulate_grad_stream_mismatch"
    monkeypatch.setattr(torch.autograd.graph, name, said.append, raising=False)
    for processes, expected in ((1, []), (2, [False])):
        fabric = SimpleNamespace(launch=lambda: None, world_size=processes)
        monkeypatch.setattr(launching, "Fabric", lambda fabric=fabric: fabric)
        launching.new_fabric()
        assert said == expected


def test_a_device_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert devices.device_name(torch.device("cpu")) == "cpu"
    assert devices.device_name(torch.device("cuda")) == "cuda (NVIDIA H100)"


def test_what_runs_on_the_cpu_starts_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as PyTorch knows: keeping the state of all of them would start them, and warn."""

    def started(*_: Any) -> Any:
        raise AssertionError("a GPU was started")

    for name in ("get_rng_state", "set_rng_state", "current_device"):
        monkeypatch.setattr(torch.cuda, name, started)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    before = torch.get_rng_state()
    model, _ = pyro_sri.load("sri-quick")
    assert len(sample_scenes(model, 0)[0]) == 0
    with keeping_random_state():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_of_a_gpu_that_is_drawn_from_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(str(device)))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(str(device)))
    with keeping_random_state("cuda:1"):
        pass
    assert asked == ["cuda:1", "cuda:1"]


def test_recording_goes_on_where_the_first_calls_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[Any] = []

    @contextlib.contextmanager
    def graph(graph: Any, stream: Any) -> Any:
        streams.append(stream)
        yield

    fakes = {
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": graph,
        "device": lambda device: contextlib.nullcontext(),
        "Stream": lambda device: SimpleNamespace(wait_stream=lambda other: None),
        "current_stream": lambda device: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: contextlib.nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    captured = capture.Captured(lambda inputs: None, torch.device("cuda", 0))
    captured.device = torch.device("cpu")  # of the inputs
    monkeypatch.setattr(capture, "records", lambda device: True)
    for _ in range(capture.WARM_UP + 2):
        captured(torch.zeros(1))
    assert streams == [captured.stream]


def test_a_model_says_where_it_is() -> None:
    from pyro_sri.programs import device_of

    model = SceneModel(image_size=32, num_slots=2, slot_size=8, scene_size=4)
    assert device_of(model) == torch.device("cpu")
    assert device_of(model.to("meta")) == torch.device("meta")
    assert device_of(lambda: None) == torch.device("cpu")
