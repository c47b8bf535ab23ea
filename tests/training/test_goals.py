"""What train says about GECO's goal before it starts."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import pytest

from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS
from pyro_sri.training.goals import goal_warnings, mean_image_error

WITH_GECO = ("sri-mog-shapestacks", "sri_emorl-clevr6", "genesis_v2-mog-shapestacks", "genesis-shapestacks")
WITH_GECO += ("recurrent-mog-shapestacks", "emorl-clevr6")


def warnings_of(name: str, data: Path, **fields: Any) -> list[str]:
    preset: RunConfig = PRESETS[name].config
    return goal_warnings(dataclasses.replace(preset, data=data, **fields), preset)


def test_the_mean_image_is_one_picture_for_all(tetrominoes: Path) -> None:
    with h5py.File(tetrominoes) as file:
        images = file["train/imgs"][:] / 255
    expected = ((images - images.mean(0)) ** 2).mean()
    assert mean_image_error(tetrominoes) == pytest.approx(expected)


@pytest.mark.parametrize("name", WITH_GECO)
def test_a_goal_that_the_mean_image_meets(name: str, tetrominoes: Path) -> None:
    error = mean_image_error(tetrominoes)
    assert not warnings_of(name, tetrominoes)
    (warning,) = warnings_of(name, tetrominoes, geco_mse=1.05 * error)
    assert "met by the data's mean image" in warning
    assert not warnings_of(name, tetrominoes, geco_mse=0.95 * error)


@pytest.mark.parametrize("name", WITH_GECO)
def test_a_goal_that_lost_its_meaning(name: str, tetrominoes: Path) -> None:
    preset = PRESETS[name].config
    target = preset.image_likelihood().nll_floor + 0.2
    preset = dataclasses.replace(preset, geco_target=target, data=tetrominoes)
    wider = dataclasses.replace(preset, pixel_std=0.9 * preset.pixel_std)
    if preset.system == "genesis":
        wider = dataclasses.replace(wider, first_pixel_std=wider.pixel_std)
    (warning, *_) = goal_warnings(wider, preset)
    assert f"--geco-mse {preset.goal_mse:.2g} keeps it" in warning
    kept = dataclasses.replace(wider, geco_mse=preset.goal_mse)
    assert not any("keeps it" in warning for warning in goal_warnings(kept, preset))


def test_a_goal_that_can_never_be_met(tetrominoes: Path) -> None:
    (warning,) = warnings_of("emorl-tetrominoes", tetrominoes)
    assert "can never be met (the NLL is above -1.204)" in warning


def test_runs_without_a_goal(tetrominoes: Path) -> None:
    assert not warnings_of("emorl-multi_dsprites", tetrominoes)
    assert not warnings_of("slot_attention-tetrominoes", tetrominoes)
    assert not warnings_of("sri-mog-shapestacks", tetrominoes, geco="none", pixel_std=1.0)
