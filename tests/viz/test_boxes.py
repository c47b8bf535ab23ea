"""Boxes over images, by hand."""

import numpy as np
import torch

from pyro_sri.nn import place_windows
from pyro_sri.viz import PALETTE, box_corners, boxes


def test_corners_by_hand() -> None:
    where = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 1.0, -1.0], [-2.0, -1.0, 1.0]])
    expected = [[0, 0, 40, 40], [10, 10, 30, 30], [0, 20, 20, 40], [0, 20, 20, 40]]
    assert box_corners(where, 40).tolist() == expected


def test_corners_hold_the_window() -> None:
    where = torch.tensor([2.5, 0.6, -0.4])
    inside = place_windows(torch.ones(10, 10), where, 50) > 0.5
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    left, top, right, bottom = box_corners(where, 50).round().int().tolist()
    assert [left, top, right, bottom] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_boxes_of_present_objects_only() -> None:
    images = torch.zeros(2, 3, 20, 20)
    where = torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]]).expand(2, 2, 3)
    pictures = boxes(images, where, torch.tensor([[1, 1], [0, 0]]), side=40)
    assert pictures.shape == (2, 40, 40, 3)
    assert pictures.dtype == np.uint8
    assert not pictures[1].any()
    assert pictures[0, 10, 10:30].tolist() == [PALETTE[0].tolist()] * 20
    assert pictures[0, 15, 15:25].tolist() == [PALETTE[1].tolist()] * 10
    assert not pictures[0, 20, 20].any()
    assert not pictures[0, 9].any()


def test_window_beyond_the_border_is_cut() -> None:
    pictures = boxes(torch.zeros(1, 3, 20, 20), torch.tensor([[[2.0, 2.0, 0.0]]]), torch.ones(1, 1), side=20)
    assert pictures[0].any()
    assert not pictures[0, :, 6:].any()
