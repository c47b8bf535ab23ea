"""What `pyro-sri bench` measures, and the unit that its figures are quoted in."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pyro_sri.presets import PRESETS
from pyro_sri.scripts import bench
from pyro_sri.scripts.main import run
from pyro_sri.scripts.unit import NUM_SLOTS, plain_decoder, unit
from pyro_sri.system.errors import UserError
from pyro_sri.training import step as step_module
from pyro_sri.training.step import Stepper
from support.systems import each_system

STEP_KEYS = ["best_step_ms", "median_step_ms", "images_per_second", "peak_memory_mb"]
INFERENCE_KEYS = ["inference_images_per_second", "infer_one_ms"]
SAMPLING_KEYS = ["sampling_images_per_second", "sample_one_ms"]
LOADER_KEYS = ["loader_memory_images_per_second", "loader_disk_images_per_second"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little to load, few repetitions."""
    monkeypatch.setattr(bench, "LOADER_BYTES", 2**16)
    monkeypatch.setattr(bench, "PASSES", 1)
    monkeypatch.setattr(bench, "LATENCIES", 1)


def tiny(preset: str, **fields: Any) -> Any:
    return dataclasses.replace(PRESETS[preset].config.tiny(), **{"steps": 1, "device": "cpu"} | fields)


@pytest.mark.parametrize("preset", each_system())
def test_every_preset_can_be_measured(preset: str) -> None:
    result = bench.measure(tiny(preset))
    numbers = {name: result[name] for name in (*STEP_KEYS, *INFERENCE_KEYS, *SAMPLING_KEYS, *LOADER_KEYS)}
    if preset.startswith("slot_attention"):
        for name in SAMPLING_KEYS:
            assert numbers.pop(name) is None
            assert "no prior" in result[f"{name}_reason"]
    assert all(number > 0 for number in numbers.values())
    stages = result["stages"]
    assert all(ms >= 0 for ms in stages.values()), "networks that overlap would leave less than nothing outside them"
    assert {"forward", "backward", "optimiser", "outside the networks, forward"} < set(stages)
    assert any("decoder" in name for name in stages)


def test_the_command_prints_a_table_and_one_line_of_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = "bench sri-quick --batch 2 --steps 2 --device cpu --precision bf16 --recompute-decoder --json"
    run(words.split())
    *table, line = capsys.readouterr().out.strip().splitlines()
    result = json.loads(line)
    names = ["preset", "batch", "device", "precision", *STEP_KEYS, *INFERENCE_KEYS, *SAMPLING_KEYS, *LOADER_KEYS]
    assert list(result) == [*names, "stages"]
    assert (result["preset"], result["batch"], result["precision"]) == ("sri-quick", 2, "bf16")
    assert result["device"] == f"cpu, {torch.get_num_threads()} threads"
    assert 0 < result["best_step_ms"] <= result["median_step_ms"]
    text = "\n".join(table)
    for words in ("sri-quick, batch 2, bf16", "loading, from memory", "loading, from disk", "inferring one image"):
        assert words in text
    for name in result["stages"]:
        assert name in text
    assert not any(tmp_path.iterdir()), "the loader's file is gone"


def test_a_system_without_a_prior_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    bench._print_table(bench.measure(tiny("slot_attention-tetrominoes")))
    assert "no samples: the system has no prior" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 0", "--steps is 0"),
        ("--batch 0", "--batch-size is 0"),
        ("--batch=0", "--batch-size is 0"),
        ("--batch many", "many"),
        ("--num-slots 0", "--num-slots is 0"),
        ("--image-size 37", "--image-size is 37"),
        ("--precision half", "float32"),
        ("--data stacks.h5", "--data"),
        ("--start-from sri-quick", "--start-from"),
        ("--devices 2", "--devices"),
        ("--nodes 2", "--nodes"),
        ("--num-slot 3", "did you mean --num-slots?"),
    ],
)
def test_mistakes_are_one_plain_line(words: str, said: str) -> None:
    with pytest.raises(UserError) as mistake:
        run(["bench", "sri-quick", *words.split()])
    assert said in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    run(["bench", "--help"])
    assert "--recompute-decoder" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        run(["bench", "sri-quick", "--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    for option in ("--batch is short", "--batch-size", "--steps", "--json", "--precision", "--capture", "--num-slots"):
        assert option in text
    with pytest.raises(UserError, match="which preset"):
        run(["bench"])


@pytest.mark.parametrize("capture", [False, True])
def test_the_timed_steps_are_those_of_training(capture: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(Stepper):
        def __call__(self, images: torch.Tensor, step: int) -> None:
            validates = torch.distributions.Distribution._validate_args
            seen.append((images.dtype, tuple(images.shape), validates, self.work is not None))
            super().__call__(images, step)

    monkeypatch.setattr(step_module, "Stepper", Watched)
    config = tiny("sri-quick", steps=3, batch_size=5, capture=capture)
    bench.measure(config)
    timed = (4 if capture else 2) + 3  # warm-up (with capture until the recording is done) and steps
    assert seen[:timed] == timed * [(torch.uint8, (5, 32, 32, 3), False, capture)]
    assert seen[timed:] == 2 * [(torch.uint8, (5, 32, 32, 3), False, False)], "the step that is taken apart"


def ticks() -> bench.Clock:
    """A clock that goes by one whenever it is read."""
    return itertools.count().__next__


def test_the_stages_make_up_the_step() -> None:
    """Read by ticks, a network that is called once takes one, and nothing but readings takes time."""
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    stages = bench._stage_times(tiny("sri-mog-shapestacks"), images, ticks())
    assert stages["model decoder, forward"] == stages["segregation model decoder, forward"] == 1
    assert stages["model slot prior, forward"] > 3, "its methods are called, not itself"
    networks = [ms for name, ms in stages.items() if name not in (*bench.WHOLE_STEP, bench.OUTSIDE)]
    calls = int(sum(networks))  # each one tick inside, and one from there to the next
    assert stages["forward"] == 2 * calls + 1
    assert stages[bench.OUTSIDE] == calls + 1
    assert stages["backward"] == stages["optimiser"] == 1


def test_decoding_again_in_the_backward_pass_is_no_part_of_the_forward_pass() -> None:
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    kept, again = (
        bench._stage_times(tiny("sri-mog-shapestacks", recompute_decoder=recompute), images, ticks())
        for recompute in (False, True)
    )
    assert kept == again


class _Sleeper(nn.Module):
    """A network that takes some time, on a clock of its own."""

    def __init__(self, clock: list[float], ms: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.clock, self.ms, self.inner = clock, ms, inner

    def forward(self) -> None:
        self.clock[0] += self.ms
        if self.inner is not None:
            self.inner()


def test_time_inside_networks_is_counted_once() -> None:
    clock = [0.0]
    shared = _Sleeper(clock, 1.0)
    first, second = _Sleeper(clock, 10.0, shared), _Sleeper(clock, 100.0, shared)
    with bench._watching({"first": first, "second": second}, lambda: clock[0]) as inside:
        first()
        clock[0] += 1000.0
        second()
        shared()
    first()
    assert inside == {"first": 10 + 1 + 1, "second": 100 + 1}


def test_throughput_is_that_of_whole_batches_and_latency_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PASSES", 3)
    monkeypatch.setattr(bench, "LATENCIES", 5)
    durations: dict[int, Iterator[float]] = {8: iter([99, 4, 2, 5]), 1: iter([99, 7, 1, 3, 9, 2])}  # the first: warm-up
    clock = [0.0]

    def work(count: int) -> None:
        clock[0] += next(durations[count])

    assert bench._rates("rate", "latency", 8, lambda: clock[0], work) == {"rate": 1000 * 8 / 2, "latency": 3}


def test_the_unit_is_the_work_it_is_said_to_be() -> None:
    with FlopCounterMode(display=False) as counter:
        images = plain_decoder()(torch.randn(1, 66, 4, 4))
        images.square().sum().backward()
    assert images.shape == (1, 4, 64, 64)
    # Multiply-adds at every pixel: forward, the weights' gradient and, but for the given maps, that of the inputs.
    upsampling = 25 * 64 * (2 * 66 * 4**2 + 3 * 64 * (8**2 + 16**2 + 32**2))
    assert counter.get_total_flops() == 2 * (upsampling + 3 * 64 * 4 * 64**2)
    assert round(NUM_SLOTS * counter.get_total_flops() / 1e9, 1) == 60.4


def test_the_unit_is_a_time() -> None:
    assert unit(repeats=1, num_slots=1) > 0
