import math

import numpy as np
import pytest

from pyro_sri.config.own import FEWEST_STEPS, GPU_STEPS, reasons, suited, target
from pyro_sri.data.look import Look, look_at
from pyro_sri.data.making import make_dataset
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError

OWN, QUICK = PRESETS["sri-own"].config, PRESETS["sri-quick"].config
FLAT = Look(
    image_size=32,
    num_images=20_000,
    variance=0.035,
    colours=5,
    regions=4,
    entities=5,
    background_share=0.8,
    num_backgrounds=1,
    alike=0.0,
    dark=None,
)


@pytest.mark.parametrize(("family", "quick"), [("towers", "sri-quick"), ("tetrominoes", "sri-quick-tetrominoes")])
def test_on_the_data_of_the_quick_presets_it_finds_about_what_they_have(tmp_path, family, quick):
    make_dataset(family, tmp_path / "a.h5", size=32, train=256, val=0, test=0)
    found, expected = suited(OWN, look_at(tmp_path / "a.h5"), gpu=False), PRESETS[quick].config
    for name in ("image_size", "num_slots", "likelihood", "pixel_std", "colour_start", "learn_masks", "mask_kl"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.position_weight == expected.position_weight
    if family == "towers":
        assert found.geco_target == pytest.approx(expected.geco_target, abs=0.05)
        assert (found.steps, found.schedule()) == (expected.steps, expected.schedule())


def test_the_target_is_the_nll_of_an_image_painted_with_that_error():
    error = np.random.default_rng(0).normal(0, 0.02, 200_000)
    nll = 0.5 * np.log(2 * math.pi * 0.05**2) + error**2 / (2 * 0.05**2)
    assert target(0.05, 0.02**2) == pytest.approx(nll.mean(), abs=1e-3)


@pytest.mark.parametrize("change", [{"variance": 0.0, "num_images": 1}, {"variance": 1e-8}])
def test_images_that_do_not_differ_are_refused(change):
    with pytest.raises(UserError, match="use more images"):
        suited(OWN, FLAT._replace(**change), gpu=False)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({}, {"num_slots": 5, "learn_masks": False, "colour_start": "picture", "threads": 1}),
        ({"entities": None, "alike": None, "num_backgrounds": None}, {"num_slots": 4, "learn_masks": False}),
        ({"entities": None, "alike": None, "colours": 90}, {"num_slots": 7, "learn_masks": False, "pixel_std": 0.1}),
        ({"entities": 200}, {"num_slots": 16}),
        ({"alike": 0.5}, {"colour_start": "contrast", "learn_masks": True}),
        ({"alike": 0.5, "num_backgrounds": 2}, {"colour_start": "picture"}),
        ({"variance": 1e-5}, {"pixel_std": 0.03}),
        ({"num_images": 5}, {"batch_size": 5}),
        ({"image_size": 128, "entities": 11}, {"steps": FEWEST_STEPS, "image_size": 128, "threads": 0}),
        ({"image_size": 48}, {"image_size": OWN.image_size}),
    ],
)
def test_what_follows_from_what(change, fields):
    found = suited(OWN, FLAT._replace(**change), gpu=False)
    for name, value in fields.items():
        assert getattr(found, name) == value, name
    assert found.schedule().keys() == OWN.schedule().keys()  # none is lost by stretching
    assert all(value for row in reasons(found, FLAT._replace(**change), gpu=False) for value in row)


def test_a_gpu_affords_more_steps():
    found = suited(OWN, FLAT, gpu=True)
    assert found.steps == GPU_STEPS
    assert ("steps", f"{GPU_STEPS}", "for the GPU here") in reasons(found, FLAT, gpu=True)
