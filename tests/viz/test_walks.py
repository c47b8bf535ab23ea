"""Walks through the scene variable."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from pyro_sri.models.genesis import GenesisModel
from pyro_sri.viz import has_scene, scene_walk
from pyro_sri.viz.sheets import GAP, MARGIN, TILE_SIDE
from pyro_sri.viz.walks import closed_walks


def test_closed_walks_are_smooth_closed_and_fair() -> None:
    walks = closed_walks(2000, 12, torch.zeros(1, 3))
    assert walks.shape == (2000, 12, 3)
    torch.testing.assert_close(walks.std(0), torch.ones(12, 3), rtol=0, atol=0.08)
    steps = (walks.roll(-1, 1) - walks).norm(dim=-1).mean(0)
    torch.testing.assert_close(steps, steps.mean().expand(12), rtol=0.1, atol=0)


@pytest.mark.parametrize("system", ["sri", "genesis"])
def test_scene_walk_keeps_the_noise_of_slots(sri: Any, system: str) -> None:
    genesis = GenesisModel(image_size=32, num_slots=2, mask_slot_size=4, component_slot_size=4, scene_size=4)
    model = sri[0] if system == "sri" else genesis.eval()
    assert has_scene(model)
    frames = scene_walk(model, num=2, frames=20, seed=5)
    assert len(frames) == 20
    assert frames[0].shape[0] == 2 * TILE_SIDE + GAP + 2 * MARGIN
    for first, second in zip(frames, scene_walk(model, num=2, frames=20, seed=5), strict=True):
        assert_array_equal(first, second)
    neighbours = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(frames)]
    others = np.abs(frames[0].astype(int) - scene_walk(model, num=2, frames=20, seed=6)[0]).mean()
    assert 0 < max(neighbours) < others  # fresh noise in every frame would jump as far as another seed


def test_scene_walk_needs_a_scene(sri: Any) -> None:
    segregation = sri[1].segregation.model
    assert not has_scene(segregation)
    with pytest.raises(ValueError, match="scene"):
        scene_walk(segregation)
