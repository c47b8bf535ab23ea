"""What `--fast` chooses on which device."""

import contextlib
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS
from pyro_sri.scripts.main import run
from pyro_sri.scripts.preset_options import given_fields
from pyro_sri.training import fast
from pyro_sri.training.fast import CHOSEN, fastest

GPU = torch.device("cuda", 0)
CONFIG = PRESETS["sri-mog-shapestacks"].config


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU on which more is faster, and what was tried on it."""
    tried: list[str] = []

    def seconds(config: RunConfig, device: torch.device) -> float:
        tried.append(fast._options(config))
        return 1 / len(tried[-1])

    monkeypatch.setattr(fast, "can_compile", lambda device: True)
    monkeypatch.setattr(fast, "_seconds_per_step", seconds)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return tried


def test_on_a_cpu_nothing_changes_and_it_is_said() -> None:
    config, said = fastest(CONFIG, torch.device("cpu"))
    assert config == CONFIG
    assert said.startswith("--fast changes nothing on a CPU")


def test_the_fastest_way_is_taken(tried: list[str]) -> None:
    config, said = fastest(CONFIG, GPU)
    assert (config.precision, config.capture, config.compile) == ("bf16", True, True)
    assert tried == ["--precision bf16 --capture --compile", "--precision bf16 --capture", "--precision bf16"] + [
        "--precision float32"
    ]
    assert said.startswith("--fast on cuda:0 (NVIDIA H100): --precision bf16 --capture --compile is the fastest of 4")


def test_what_fails_is_not_taken(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_seconds_per_step", lambda way, device: float("inf") if way.compile else 1.0)
    config, said = fastest(CONFIG, GPU)
    assert (config.capture, config.compile) == (True, False)
    assert "(1 did not work)" in said
    monkeypatch.setattr(fast, "_seconds_per_step", lambda way, device: float("inf"))
    assert fastest(CONFIG, GPU) == (
        CONFIG,
        "--fast changes nothing: none of 4 ways works on cuda:0 (NVIDIA H100)",
    )


@pytest.mark.usefixtures("tried")
def test_what_the_run_cannot_do_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hungarian = dataclasses.replace(CONFIG, matching="hungarian")
    assert not fastest(hungarian, GPU)[0].capture
    two = dataclasses.replace(CONFIG, devices=2)
    config, said = fastest(two, GPU)
    assert (config.precision, config.capture, config.compile) == ("bf16", False, True)
    assert "untested" in said
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(fast, "can_compile", lambda device: False)
    config = fastest(CONFIG, GPU)[0]
    assert (config.precision, config.capture, config.compile) == ("float32", True, False)


@pytest.mark.usefixtures("tried")
def test_what_a_user_gives_stays() -> None:
    assert given_fields(["--precision", "tf32", "--no-compile", "--steps=3"], CHOSEN) == {"precision", "compile"}
    config, _ = fastest(CONFIG, GPU, fixed={"precision", "compile"})
    assert (config.precision, config.capture, config.compile) == ("float32", True, False)


def test_ways_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, for real; a way that raises takes forever."""
    config = PRESETS["air-multi_digits"].config.tiny()
    before = torch.get_rng_state()
    assert 0 < fast._seconds_per_step(config, torch.device("cpu")) < 60
    assert torch.equal(torch.get_rng_state(), before)

    def fail(*_: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(fast, "new_stepper", fail)
    assert fast._seconds_per_step(config, torch.device("cpu")) == float("inf")


def test_the_commands_say_what_was_chosen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_sri.scripts import bench, train

    seen = []
    monkeypatch.setattr(bench, "measure", lambda config: seen.append(config) or {})
    monkeypatch.setattr(bench, "_print_table", lambda result: None)
    run(["bench", "sri-quick", "--fast", "--device", "cpu"])
    assert seen == [dataclasses.replace(PRESETS["sri-quick"].config, steps=bench.TIMED_STEPS, device="cpu")]
    monkeypatch.setattr(train, "with_data", lambda config, *_: config)
    monkeypatch.setattr(train, "_train_with_progress", lambda config, *_: seen.append(config))
    monkeypatch.setattr(train, "_say_what_next", lambda run: None)
    monkeypatch.setattr(train, "fastest", lambda config, device, fixed: (SimpleNamespace(fixed=fixed), "chosen"))
    with contextlib.chdir("/"):
        run(["train", "sri-quick", "--fast", "--capture", "--device", "cpu", "--out", "/nonexistent/run"])
    assert seen[-1].fixed == {"capture"}
    assert capsys.readouterr().err.splitlines() == [
        "--fast changes nothing on a CPU: on a GPU it chooses --precision, --capture and --compile",
        "chosen",
    ]
