"""Soaks of every system: training stays finite, its controllers stay in their range, its memory stays where it is."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_sri.config import AIRConfig, EMORLConfig, RunConfig
from pyro_sri.objectives.geco import EMORL_FLOOR
from pyro_sri.presets import find_preset
from support.soak import Summary, soak, summarise, tiny
from support.soaked import HEAVY, OTHERS, PRESETS, SRI

SEEDS = range(5)
STRESSED = 3  # seeds from here on train at ten times the preset's learning rate
FEW = ("sri-g-shapestacks",)  # the others are slow
GROWTH_MB = 4  # memory that may come on top once a run has settled: what an allocator does, not what a leak does


def check(summary: Summary, config: RunConfig, steps: int) -> None:
    """What must hold of a soak, whatever the system."""
    assert summary.steps == steps
    assert all(map(math.isfinite, (summary.largest_loss, summary.final_loss, summary.final_nll)))
    assert summary.largest_nll <= summary.first_nll + abs(summary.first_nll)
    if steps >= 1_000:  # before, the images of a line say more about its NLL than what was learnt
        assert summary.final_nll <= summary.first_nll
    for least, largest, last in summary.betas.values():
        if isinstance(config, AIRConfig):  # no controller: the annealing falls to 1
            assert 1 <= last <= largest < math.inf
        elif isinstance(config, EMORLConfig) or config.geco == "emorl":  # its one clamp is where it starts
            assert EMORL_FLOOR <= least <= largest < math.inf
        else:
            assert config.beta_min <= least <= largest <= config.beta_max
            assert config.beta_min < last < config.beta_max  # it still moves


@pytest.mark.parametrize(
    "preset", [pytest.param(preset, marks=[pytest.mark.slow] * (preset not in FEW)) for preset in PRESETS]
)
def test_sixty_steps(preset: str, tetrominoes: Path, tmp_path: Path) -> None:
    """One image at a time; 20 steps for the heaviest."""
    steps = 20 if preset in HEAVY else 60
    config = tiny(preset, tetrominoes, steps=steps, log_every=steps // 4, batch_size=1)
    soak(config, tmp_path / "run", tmp_path / "log.jsonl")
    check(summarise(tmp_path / "log.jsonl"), config, steps)


def soak_alone(preset: str, steps: int, seed: int, folder: Path, *options: str) -> None:
    """A soak in a process of its own, and what must hold of it."""
    script = [sys.executable, "-m", "support.soak"]
    arguments = [preset, "--steps", str(steps), "--seed", str(seed), "--out", str(folder), *options]
    subprocess.run([*script, *arguments], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    summary = summarise(folder / f"{preset}-{seed}.jsonl")
    print(preset, seed, summary)
    check(summary, find_preset(preset).config.tiny(), steps)
    assert summary.growth_mb < GROWTH_MB


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("preset", SRI)
def test_ten_thousand_steps(preset: str, seed: int, tmp_path: Path) -> None:
    rate = find_preset(preset).config.learning_rate
    soak_alone(preset, 10_000, seed, tmp_path, "--learning-rate", str(10 * rate if seed >= STRESSED else rate))


@pytest.mark.slow
@pytest.mark.parametrize("preset", OTHERS)
def test_two_thousand_steps(preset: str, tmp_path: Path) -> None:
    soak_alone(preset, 2_000, 0, tmp_path)
