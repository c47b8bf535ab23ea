"""The latents of slots, and traversals of them, by hand and for every kind of system."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from pyro_sri.guides.air import AIRGuide
from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.guides.genesis import GenesisGuide
from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.inference import SCENES_AT_ONCE
from pyro_sri.models.air import AIRModel
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.models.genesis import GenesisModel
from pyro_sri.models.slot_attention import SlotAttentionModel
from pyro_sri.viz import enlarge, has_slots, infer_beliefs, to_uint8, traversal_frames, traversal_sheet, traverse
from pyro_sri.viz.sheets import TILE_SIDE

SIDE = 4


def toy_model(num_scenes: int = 1, **_: Any) -> None:
    """Two slots of three dimensions. Slot k paints half k in the colour of its latents."""
    with pyro.plate("scenes", num_scenes):
        slots = [pyro.sample(f"slot_{k}", dist.Normal(torch.zeros(3), 1.0).to_event(1)) for k in range(2)]
        rgb = torch.stack(slots, 1)[..., None, None].expand(-1, -1, -1, SIDE, SIDE)
        left = (torch.arange(SIDE) < SIDE // 2).float().expand(num_scenes, 1, SIDE, -1)
        masks = torch.stack([left, 1 - left], 1)
        pyro.deterministic("slot_rgb", rgb, event_dim=4)
        pyro.deterministic("slot_masks", masks, event_dim=4)
        pyro.deterministic("reconstruction", (rgb * masks).sum(1), event_dim=3)


def toy_guide(images: Tensor) -> None:
    """The mean of slot k is k + 1 times the image's first pixel; the scale of dimension d is 2^-d."""
    scales = 2.0 ** -torch.arange(3)
    with pyro.plate("scenes", len(images)):
        for k in range(2):
            pyro.sample(f"slot_{k}", dist.Normal((k + 1) * images[:, :, 0, 0], scales).to_event(1))


def test_traversal_by_hand() -> None:
    images = torch.full((2, 3, SIDE, SIDE), 0.2)
    images[1, :2] = 0.4  # the third dimension never changes
    posterior = infer_beliefs(toy_guide, images)
    assert_allclose(posterior.means[1], [[0.4, 0.4, 0.2], [0.8, 0.8, 0.4]], rtol=1e-6)
    assert_allclose(posterior.scales[0, 1], [1, 0.5, 0.25])
    assert posterior.present.all()
    traversals = traverse(toy_model, posterior, num=2, steps=1)
    assert traversals.slots == [0, 1]
    assert traversals.names == ["dim 1", "dim 0"]
    deviation = np.std([0.2, 0.4], ddof=1)
    assert_allclose(traversals.activeness, deviation * np.array([[2, 1], [4, 2]]), rtol=1e-5)
    assert traversals.offsets == [-2, 0, 2]
    assert traversals.pictures.shape == (2, 2, 3, SIDE, SIDE, 3)
    still = [[0.2] * 3, [0.4] * 3]
    spreads = 0.1, 0.2  # of the means of slots 0 and 1 over the images
    for slot in range(2):
        for column, dimension in enumerate((1, 0)):
            for step, offset in enumerate((-2, 0, 2)):
                colours = np.array(still)
                colours[slot, dimension] += offset * spreads[slot]
                shown = traversals.pictures[slot, column, step]
                assert np.abs(shown[0, [0, -1]] - 255 * colours.clip(0, 1)).max() <= 0.51
    assert_array_equal(traversals.alone[0, :, 0], np.full((SIDE, 3), 51))


def test_pictures_of_a_traversal() -> None:
    images = torch.rand(3, 3, SIDE, SIDE) / 4
    traversals = traverse(toy_model, infer_beliefs(toy_guide, images), steps=2)
    sheet = traversal_sheet(traversals, caption="images")
    most = int(traversals.activeness.sum(1).argmax())
    last = enlarge(traversals.pictures[most, 2, 4])
    below = 19  # the caption
    assert_array_equal(sheet[-10 - below - TILE_SIDE : -10 - below, -10 - TILE_SIDE : -10], last)
    frames = traversal_frames(traversals)
    assert len(frames) == 8  # five values to and fro
    for i in range(1, 4):
        assert_array_equal(frames[4 - i], frames[4 + i])
    assert_array_equal(frames[4][-10 - 64 : -10, -10 - 64 : -10], enlarge(traversals.pictures[1, 2, 4], 64))


def test_posteriors_do_not_depend_on_how_many_are_inferred_at_once() -> None:
    images = torch.rand(SCENES_AT_ONCE + 2, 3, SIDE, SIDE)
    means = infer_beliefs(toy_guide, images).means
    assert_array_equal(means[:, 1], 2 * images[:, :, 0, 0])


def genesis() -> tuple[Any, Any]:
    model = GenesisModel(image_size=32, num_slots=3, mask_slot_size=4, component_slot_size=2)
    return model.eval(), GenesisGuide(model).eval()


def emorl() -> tuple[Any, Any]:
    model = EMORLModel(image_size=32, num_slots=3, slot_size=8, num_layers=2)
    return model, EMORLGuide(model)


@pytest.mark.parametrize(
    ("build", "sites"),
    [
        (genesis, {"mask": (["mask_slot_0", "mask_slot_1", "mask_slot_2"], 4), "comp.": (["component_slot_0"], 2)}),
        (emorl, {"dim": (["layer_1_slots"], 8)}),
    ],
)
def test_slots_of_every_system(build: Any, sites: dict[str, Any], images: Tensor) -> None:
    model, guide = build()
    assert has_slots(model)
    posterior = infer_beliefs(guide, images)
    names = [f"{word} {i}" for word, (_, size) in sites.items() for i in range(size)]
    assert [posterior.name(i) for i in range(len(names))] == names
    given = posterior.values(posterior.means[:1], 0)
    start = 0
    for where, size in sites.values():
        part = posterior.means[:1, :, start : start + size]
        for k, site in enumerate(where):
            assert_array_equal(given[site], part if len(given) == 1 else part[:, k])
        start += size
    traversals = traverse(model, posterior, steps=1)
    assert sorted(traversals.names) == sorted(names)
    assert traversals.pictures.shape == (3, len(names), 3, 32, 32, 3)
    with torch.no_grad():
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data=given)).get_trace(num_scenes=1)
    assert_array_equal(traversals.pictures[1, 1, 1], to_uint8(trace.nodes["reconstruction"]["value"])[0])


def test_air_moves_the_objects_that_are_there(images: Tensor) -> None:
    model = AIRModel(image_size=32, num_slots=3, window_size=8, code_size=4, decoder_bias=1.0)
    guide = AIRGuide(model)
    present = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]])
    with pyro.poutine.condition(data={f"z_pres_{t}": present[:, t] for t in range(3)}):
        posterior = infer_beliefs(guide, images)
    assert_array_equal(posterior.present, present.bool())
    traversals = traverse(model, posterior, steps=1)
    assert traversals.slots == [0, 1]
    assert {"scale", "x", "y", "what 0"} <= set(traversals.names)
    assert (traversals.activeness > 0).all()
    assert np.ptp(traversals.pictures.astype(int), 2).any()


def test_slots_that_are_no_random_variables_stay_out(images: Tensor) -> None:
    shape: dict[str, Any] = {"image_size": 32, "num_slots": 2, "slot_size": 8}
    assert not has_slots(SlotAttentionModel(**shape))
    with pytest.raises(ValueError, match="slot_0"):
        infer_beliefs(SlotAttentionGuide(**shape), images)
