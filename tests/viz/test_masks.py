"""Pictures of masks: colours, and what can be read without any."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from pyro_sri.viz import PALETTE, canvases, enlarge, mask_pictures, mask_tiles, slot_pictures, to_uint8
from pyro_sri.viz.masks import CHECKER_DARK, CHECKER_LIGHT, NO_REGION, UNSURE, checkerboard, owner_maps
from pyro_sri.viz.sheets import INK


def one_hot(labels: Any, num_slots: int) -> torch.Tensor:
    """[H, W] -> [1, K, 1, H, W]."""
    return torch.nn.functional.one_hot(torch.as_tensor(labels), num_slots).permute(2, 0, 1)[None, :, None].float()


def halves(side: int = 32) -> torch.Tensor:
    """Slot 0 on the left, slot 1 on the right, [side, side]."""
    return (torch.arange(side) >= side // 2).long().expand(side, -1)


def test_to_uint8_rounds_and_clips() -> None:
    pictures = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])[:, None, None, None].expand(-1, 3, 1, 1)
    assert to_uint8(pictures)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(torch.zeros(2, 4, 3, 5, 6)).shape == (2, 4, 5, 6, 3)


def test_mask_pictures_use_the_palette() -> None:
    sure = mask_pictures(one_hot([[0, 1], [2, 17]], 18))[0]
    assert_array_equal(sure.reshape(4, 3), PALETTE[[0, 1, 2, 1]])
    assert_array_equal(mask_pictures(torch.full((4, 1, 1, 1), 0.25)), np.full((1, 1, 3), UNSURE))
    halfway = mask_pictures(torch.tensor([0.75, 0.25])[:, None, None, None])[0, 0]
    assert_array_equal(halfway, np.round((PALETTE[0].astype(float) + UNSURE) / 2))
    assert_array_equal(mask_pictures(torch.ones(1, 1, 1, 1))[0, 0], PALETTE[0])


def test_owners_have_more_than_all_others() -> None:
    masks = torch.tensor([0.5, 0.3, 0.2])[None, :, None, None, None].expand(1, 3, 1, 10, 10).clone()
    masks[0, :, 0, :5] = torch.tensor([0.2, 0.2, 0.6])[:, None, None]
    assert_array_equal(owner_maps(masks)[0], [[2] * 10] * 5 + [[NO_REGION] * 10] * 5)


def test_specks_have_no_owner() -> None:
    labels = torch.zeros(10, 10).long()
    labels[2, 2] = 1  # 1% of the picture
    labels[6, 6:8] = 1  # 2%
    expected = np.zeros((10, 10))
    expected[2, 2], expected[6, 6:8] = NO_REGION, 1
    assert_array_equal(owner_maps(one_hot(labels, 2))[0], expected)


def test_regions_are_outlined_and_keep_their_colour() -> None:
    tile = mask_tiles(one_hot(halves(), 2), side=96)[0]
    plain = enlarge(mask_pictures(one_hot(halves(), 2))[0], 96)
    assert tile.shape == (96, 96, 3)
    assert_array_equal(tile[:, 48], np.broadcast_to(INK, (96, 3)))
    assert_array_equal(tile[:5, :48], plain[:5, :48])
    assert_array_equal(tile[:5, 49:], plain[:5, 49:])


def test_regions_of_equal_colour_are_told_apart_by_their_numbers() -> None:
    """Slots 0 and 16 share a colour, and in grey many slots do: the numbers differ all the same."""
    masks = one_hot(16 * halves(), 17)
    left, right = mask_tiles(masks)[0, :, :47], mask_tiles(masks)[0, :, 49:96]
    assert (left != PALETTE[0]).any(-1).sum() > 20
    assert (right != PALETTE[0]).any(-1).sum() > 20
    assert not np.array_equal(left, right[:, :47])
    assert_array_equal(mask_pictures(masks)[0, :, :16], mask_pictures(masks)[0, :, 16:])


@pytest.mark.parametrize("width", [3, 12])
def test_numbers_stand_only_where_there_is_room(width: int) -> None:
    labels = torch.zeros(32, 32).long()
    labels[:, 10 : 10 + width] = 1
    stripe = mask_tiles(one_hot(labels, 2), side=96)[0][:, 31 : 3 * (10 + width)]
    assert (stripe == PALETTE[1]).all() == (width == 3)


def test_unsure_masks_stay_plain() -> None:
    masks = torch.full((2, 4, 1, 32, 32), 0.25)
    assert (mask_tiles(masks) == UNSURE).all()


def test_slot_pictures_show_a_checkerboard_where_nothing_is_painted() -> None:
    masks = one_hot([[0] * 8 + [1] * 24] * 32, 2)
    slots = slot_pictures(torch.eye(3)[None, :2, :, None, None].expand(1, 2, 3, 32, 32), masks)
    assert slots.shape == (1, 2, 32, 32, 3)
    assert_array_equal(slots[0, 0, :, :8], np.broadcast_to([255, 0, 0], (32, 8, 3)))
    assert set(np.unique(slots[0, 0, :, 8:])) == {CHECKER_LIGHT, CHECKER_DARK}
    assert checkerboard(32, 32)[0, 0] != checkerboard(32, 32)[0, 2]
    assert checkerboard(32, 32)[0, 0] == checkerboard(32, 32)[1, 1]


def test_canvases_fill_up_slot_by_slot() -> None:
    rgb, masks = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 1, 8, 8).softmax(1)
    steps = canvases(rgb, masks)
    assert_array_equal(steps[:, 0], slot_pictures(rgb, masks)[:, 0])
    assert np.abs(steps[:, 2].astype(int) - to_uint8((masks * rgb).sum(1))).max() <= 1
    expected = (masks[:, :2] * rgb[:, :2]).sum(1) + masks[:, 2] * checkerboard(8, 8)
    assert np.abs(steps[:, 1].astype(int) - to_uint8(expected)).max() <= 1
