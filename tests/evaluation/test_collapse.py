import numpy as np
import pytest
import torch

from pyro_sri.evaluation.measures import Truth
from pyro_sri.evaluation.measures.collapse import ALL_IN_ONE, NO_OBJECTS, NO_SCENE, NOTHING, REGIONS, TRY, Collapse
from pyro_sri.inference import Codes, Explanation

SIZE, SLOTS, NUM = 16, 3, 24


def scenes(seed=0):
    """Two coloured squares on grey, and the slot of each pixel, 0 being the background."""
    rng = np.random.default_rng(seed)
    images, slots = np.full((NUM, 3, SIZE, SIZE), 0.5), np.zeros((NUM, SIZE, SIZE), int)
    for image, slot in zip(images, slots, strict=True):
        for number in (1, 2):
            row, column = rng.integers(0, SIZE - 6, 2)
            slot[row : row + 6, column : column + 6] = number
            image[:, slot == number] = rng.random((3, 1))
    return torch.tensor(images), slots


def explanation(images, slots, means=None, kl_scene=None):
    """A slot of -1 is the background of a system whose slots hold objects only."""
    masks = torch.tensor(np.stack([slots == slot for slot in range(SLOTS)], axis=1)).double()[:, :, None]
    means = torch.randn(len(images), SLOTS, 4) if means is None else means
    return Explanation(
        images=images,
        reconstruction=images,
        slot_rgb=images[:, None].expand(-1, SLOTS, -1, -1, -1),
        slot_masks=masks,
        attention_masks=None,
        imagination=None,
        terms={} if kl_scene is None else {"kl_scene": kl_scene},
        kl=torch.zeros(len(images)),
        log_normaliser=0.0,
        codes=Codes(means, torch.ones_like(means)),
    )


def found(images, slots, masks=None, batch=8, **fields):
    collapse = Collapse()
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        some = {name: value[part] for name, value in fields.items()}
        collapse.update(
            explanation(images[part], slots[part], **some), Truth(None if masks is None else masks[part], (0,))
        )
    return collapse.sentence()


BATCHES = pytest.mark.parametrize("batch", [1, 8, 23])  # the last of 23 is alone


@BATCHES
@pytest.mark.parametrize("background", [0, -1])
def test_objects_in_slots_of_their_own_are_no_collapse(batch, background):
    images, slots = scenes()
    assert found(images, np.where(slots == 0, background, slots), batch=batch) is None


def test_slots_in_another_order_for_each_image_are_no_collapse():
    images, slots = scenes()
    orders = np.stack([np.random.default_rng(index).permutation(SLOTS) for index in range(NUM)])
    assert found(images, np.take_along_axis(orders, slots.reshape(NUM, -1), axis=1).reshape(slots.shape)) is None


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_slots_that_hold_nothing(position):
    """Also where the prior gives each place in the sequence a mean of its own."""
    means = position * torch.arange(SLOTS)[:, None].expand(NUM, SLOTS, 4) + 0.01 * torch.randn(NUM, SLOTS, 4)
    assert found(*scenes(), means=means) == f"{NOTHING}; {TRY[NOTHING]}"


def test_one_slot_for_all():
    images, slots = scenes()
    assert found(images, np.ones_like(slots)) == f"{ALL_IN_ONE}; {TRY[ALL_IN_ONE]}"
    everything = np.zeros((NUM, 2, SIZE, SIZE, 1), np.uint8)
    everything[:, 0] = 255
    assert found(images, np.ones_like(slots), everything) is None  # there is nothing else to find


@BATCHES
@pytest.mark.parametrize("background", [0, -1])
def test_regions_of_the_image(batch, background):
    images, _ = scenes()
    thirds = np.broadcast_to(np.arange(SIZE) * SLOTS // SIZE, (NUM, SIZE, SIZE))
    thirds = np.where(thirds == 0, background, thirds)
    assert found(images, thirds, batch=batch) == f"{REGIONS}; {TRY[REGIONS]}"
    moving = np.stack([np.roll(scene, index % 2, axis=1) for index, scene in enumerate(thirds)])
    assert found(images, moving, batch=batch) == f"{REGIONS}; {TRY[REGIONS]}"


def test_no_objects_found():
    """By a system whose slots hold objects only; to find few is no collapse."""
    images, slots = scenes()
    none, few = np.full_like(slots, -1), np.where(slots == 1, 1, -1)
    truth = np.stack([slots == entity for entity in range(3)], axis=1)[..., None].astype(np.uint8)
    for masks in (None, truth):
        assert found(images, none, masks) == f"{NO_OBJECTS}; {TRY[NO_OBJECTS]}"
        assert found(images, few, masks) is None
    assert found(images, none, np.ones_like(truth[:, :1])) is None  # there is nothing to find
    assert found(images, np.ones_like(slots)) == f"{ALL_IN_ONE}; {TRY[ALL_IN_ONE]}"


@pytest.mark.parametrize(("nats", "sentence"), [(0.01, f"{NO_SCENE}; {TRY[NO_SCENE]}"), (2.5, None)])
def test_a_scene_variable_that_holds_nothing(nats, sentence):
    assert found(*scenes(), kl_scene=torch.full((NUM,), nats)) == sentence


def test_a_few_images_say_nothing():
    images, slots = scenes()
    assert found(images[:8], np.ones_like(slots)[:8]) is None
