"""The generative story, read off the models."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch

from pyro_sri.models.air import AIRModel
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.models.genesis import GenesisModel
from pyro_sri.viz import graphviz, plate_diagram
from pyro_sri.viz.graph import Node, read_story
from support.programs import build_sri


def air() -> Any:
    return AIRModel(image_size=32, num_slots=2, window_size=8, code_size=4)


def genesis() -> Any:
    return GenesisModel(image_size=32, num_slots=3, mask_slot_size=4, component_slot_size=2, scene_size=4).eval()


def emorl() -> Any:
    return EMORLModel(image_size=32, num_slots=2, slot_size=8, num_layers=2)


def test_the_story_of_sri(sri: Any) -> None:
    story = read_story(sri[0], 32)
    assert story.nodes == [
        Node("scene", "Normal", 0, False, ""),
        Node("slot", "Normal", 3, False, "< k"),
        Node("image", "MixtureImage", 0, True, ""),
    ]
    assert story.edges == [(0, 1), (1, 2)]
    assert story.plates == ["scenes"]


@pytest.mark.parametrize(
    ("build", "nodes", "edges"),
    [
        (
            air,
            [("z_pres", 2, "k - 1"), ("z_where", 2, ""), ("z_what", 2, ""), ("image", 0, "")],
            [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)],
        ),
        (
            genesis,  # log_masks follows from the mask latents: the image hangs on these
            [("scene", 0, ""), ("mask_slot", 3, "< k"), ("component_slot", 3, ""), ("image", 0, "")],
            [(0, 1), (1, 2), (1, 3), (2, 3)],
        ),
        (emorl, [("layer_1_slots", 0, ""), ("layer_0_slots", 0, ""), ("image", 0, "")], [(0, 1), (0, 2)]),
    ],
)
def test_the_stories_of_others(build: Any, nodes: list[Any], edges: list[Any]) -> None:
    model = build()
    story = read_story(model, 32)
    assert [(node.name, node.sites, node.loop) for node in story.nodes] == nodes
    assert story.edges == edges
    picture = plate_diagram(model, 32)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert (picture == [212, 212, 218]).all(-1).any()  # the observed image


def test_graphviz_has_every_site_and_nothing_that_follows() -> None:
    source = graphviz(genesis(), 32).source
    assert "mask_slot_1 -> mask_slot_2" in source
    assert "mask_slot_0 -> image" in source
    assert "log_masks" not in source
    assert "reconstruction" not in source


@pytest.mark.parametrize("matching", ["greedy", "hungarian"])
def test_the_order_follows_from_what_was_imagined(matching: str, images: torch.Tensor) -> None:
    _, guide = build_sri(matching=matching)
    edges = [line for line in pyro.render_model(guide, model_args=(images,)).source.splitlines() if "->" in line]
    assert sum("-> order" in edge for edge in edges) == 4  # three imagined slots, and the masks behind the others
    assert sum("imagined" in edge and "-> slot_" in edge for edge in edges) == 6


@pytest.mark.parametrize("build", [air, emorl, lambda: build_sri()[0]])
def test_a_model_is_drawn_where_it_is(build: Any) -> None:
    model = build()
    drawn = plate_diagram(model, 32)
    model.to("meta")  # another device, on which nothing can be mixed with the CPU's
    with pyro.validation_enabled(False):
        assert np.array_equal(plate_diagram(model, 32), drawn)
        assert graphviz(model, 32) is not None
