"""What a seed determines: the same bits from one process to the next, whatever does not belong to the run."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyro_sri.data.generators import GENERATORS
from pyro_sri.data.loading import training_batches
from pyro_sri.training.loop import train
from support.repeat import fingerprints, hash_weights
from support.soak import tiny
from support.soaked import PRESETS

FEW = ("sri-mog-shapestacks",)
FAMILIES = ("tetrominoes", "multi_digits")


def in_another_process(folder: Path, environment: Mapping[str, str], *arguments: str) -> Any:
    """What `repeat.py` prints, run from another folder and in another environment."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "support.repeat", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment).stdout)


@pytest.mark.slow
def test_another_process_repeats_to_the_bit(tmp_path: Path) -> None:
    arguments = ["--presets", *FEW, "--families", *FAMILIES, "--steps", "2"]
    there = in_another_process(tmp_path, {"PYTHONHASHSEED": "1"}, *arguments)
    here = fingerprints(FEW, FAMILIES, 2)
    assert here == there
    assert len({str(value) for value in here.values()}) == len(here)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_hundred_steps_repeat_to_the_bit(preset: str, tmp_path: Path) -> None:
    arguments = ["--presets", preset, "--steps", "100"]
    first, second = (in_another_process(tmp_path, {"PYTHONHASHSEED": seed}, *arguments) for seed in ("1", "2"))
    assert first[preset]["log"][-1]["step"] == 100
    assert first == second


@pytest.mark.slow
def test_every_family_repeats_to_the_bit(tmp_path: Path) -> None:
    arguments = ["--families", *GENERATORS]
    first, second = (in_another_process(tmp_path, {"PYTHONHASHSEED": seed}, *arguments) for seed in ("1", "2"))
    assert first == second


def test_when_a_run_is_looked_at_does_not_matter(tetrominoes: Path, tmp_path: Path) -> None:
    """Log lines, validation, pictures and checkpoints come and go without a trace in the weights."""
    preset = "sri-mog-shapestacks"
    names = ("log_every", "validate_every", "picture_every", "checkpoint_every")
    often, never = ({"steps": 2, **dict.fromkeys(names, every)} for every in (1, 1_000))
    looked_at = train(tiny(preset, tetrominoes, **often, validation_images=3), tmp_path / "often")
    left_alone = train(tiny(preset, tetrominoes, **never), tmp_path / "never")
    assert hash_weights(looked_at) == hash_weights(left_alone)
    other = train(tiny(preset, tetrominoes, **never, seed=1), tmp_path / "other")
    assert hash_weights(other) != hash_weights(left_alone)


def test_who_reads_the_data_does_not_matter(tetrominoes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With data that is read from disk, no worker and two give the same run."""
    from_disk = partial(training_batches, in_memory_limit_bytes=0)
    monkeypatch.setattr("pyro_sri.training.loop.training_batches", from_disk)
    runs = [
        train(tiny("air-multi_digits", tetrominoes, steps=5, num_workers=workers), tmp_path / str(workers))
        for workers in (0, 2)
    ]
    assert hash_weights(runs[0]) == hash_weights(runs[1])
