"""Pictures of scenes, slots and training. Every picture is a uint8 array [h, w, 3].

Slots have the same colours everywhere (`PALETTE`), and are shown in the order of the sequence.
"""

from pyro_sri.viz.boxes import box_corners, boxes
from pyro_sri.viz.film import FRAME_MILLISECONDS, FilmError, find_ffmpeg, gif, mp4
from pyro_sri.viz.graph import graphviz, plate_diagram
from pyro_sri.viz.latents import SlotBeliefs, has_scene, has_slots, infer_beliefs
from pyro_sri.viz.logs import curves
from pyro_sri.viz.masks import canvases, mask_pictures, mask_tiles, slot_pictures, to_uint8
from pyro_sri.viz.scenes import (
    imaginations,
    reconstructions,
    samples_by_slot,
    samples_in_order,
    slot_details,
    temperatures,
    tensorboard_images,
)
from pyro_sri.viz.sheets import PALETTE, Header, Picture, enlarge, grid, png, sheet, slot_colour
from pyro_sri.viz.traversals import Traversals, traversal_frames, traversal_sheet, traverse
from pyro_sri.viz.vector import VECTORS, Vector, draw_vector
from pyro_sri.viz.walks import scene_walk

__all__ = [
    "FRAME_MILLISECONDS",
    "PALETTE",
    "VECTORS",
    "FilmError",
    "Header",
    "Picture",
    "SlotBeliefs",
    "Traversals",
    "Vector",
    "box_corners",
    "boxes",
    "canvases",
    "curves",
    "draw_vector",
    "enlarge",
    "find_ffmpeg",
    "gif",
    "graphviz",
    "grid",
    "has_scene",
    "has_slots",
    "imaginations",
    "infer_beliefs",
    "mask_pictures",
    "mask_tiles",
    "mp4",
    "plate_diagram",
    "png",
    "reconstructions",
    "samples_by_slot",
    "samples_in_order",
    "scene_walk",
    "sheet",
    "slot_colour",
    "slot_details",
    "slot_pictures",
    "temperatures",
    "tensorboard_images",
    "to_uint8",
    "traversal_frames",
    "traversal_sheet",
    "traverse",
]
