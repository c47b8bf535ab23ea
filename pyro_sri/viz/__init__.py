"""Pictures of scenes, slots and training; every picture is a uint8 array [h, w, 3].

Slots have the same colours everywhere (`PALETTE`), and stand in the order of the sequence.
"""

from pyro_sri.viz.boxes import box_corners, boxes
from pyro_sri.viz.logs import curves
from pyro_sri.viz.motion import (
    Traversals,
    gif,
    has_scene,
    has_slots,
    scene_walk,
    traversal_frames,
    traversal_sheet,
    traverse,
)
from pyro_sri.viz.scenes import (
    mask_pictures,
    reconstructions,
    samples_by_slot,
    slot_pictures,
    temperatures,
    tensorboard_images,
    to_uint8,
)
from pyro_sri.viz.sheets import PALETTE, Header, Picture, enlarge, grid, png, sheet, slot_colour

__all__ = [
    "PALETTE",
    "Header",
    "Picture",
    "Traversals",
    "box_corners",
    "boxes",
    "curves",
    "enlarge",
    "gif",
    "grid",
    "has_scene",
    "has_slots",
    "mask_pictures",
    "png",
    "reconstructions",
    "samples_by_slot",
    "scene_walk",
    "sheet",
    "slot_colour",
    "slot_pictures",
    "temperatures",
    "tensorboard_images",
    "to_uint8",
    "traversal_frames",
    "traversal_sheet",
    "traverse",
]
