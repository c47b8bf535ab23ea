"""The scene model as a Pyro program: its sites, its handlers, its samples."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.scene import SceneModel
from support.programs import build_sri

SRI = tuple[SceneModel, SRIGuide]

SITES = {
    "scene": (12,),
    "slot_0": (8,),
    "slot_1": (8,),
    "slot_2": (8,),
    "slot_rgb": (3, 3, 32, 32),
    "slot_masks": (3, 1, 32, 32),
    "reconstruction": (3, 32, 32),
    "image": (3, 32, 32),
}


def test_sites_in_order(sri: SRI, images: torch.Tensor) -> None:
    trace = poutine.trace(sri[0]).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}
    assert list(sites) == list(SITES)
    for name, shape in SITES.items():
        assert sites[name]["value"].shape == (4, *shape)
        assert sites[name]["fn"].batch_shape == (4,)
        assert [frame.name for frame in sites[name]["cond_indep_stack"]] == ["scenes"]
    assert sites["image"]["is_observed"]
    assert not sites["scene"]["is_observed"]
    trace.compute_log_prob()
    assert "slot_masks" in trace.format_shapes()


def test_deterministic_sites_agree(sri: SRI) -> None:
    value = {
        name: site["value"]
        for name, site in poutine.trace(sri[0]).get_trace(num_scenes=2).nodes.items()
        if "value" in site
    }
    torch.testing.assert_close(value["slot_masks"].sum(1), torch.ones(2, 1, 32, 32))
    torch.testing.assert_close((value["slot_masks"] * value["slot_rgb"]).sum(1), value["reconstruction"])
    assert 0 <= value["slot_rgb"].min() <= value["slot_rgb"].max() <= 1


def test_predictive_samples_scenes(sri: SRI) -> None:
    drawn = Predictive(sri[0], num_samples=3)(num_scenes=2)
    assert drawn["image"].shape == (3, 2, 3, 32, 32)
    assert drawn["slot_masks"].shape == (3, 2, 3, 1, 32, 32)
    assert drawn["slot_2"].shape == (3, 2, 8)


@pytest.mark.parametrize("num_slots", [1, 2, 5])
def test_any_number_of_slots(sri: SRI, num_slots: int) -> None:
    trace = poutine.trace(sri[0]).get_trace(num_scenes=2, num_slots=num_slots)
    assert trace.nodes["slot_rgb"]["value"].shape == (2, num_slots, 3, 32, 32)
    assert f"slot_{num_slots}" not in trace


def test_temperature_scales_every_prior(sri: SRI) -> None:
    warm = poutine.trace(sri[0]).get_trace(num_scenes=2)
    latents = {name: warm.nodes[name]["value"] for name in ("scene", "slot_0", "slot_1", "slot_2")}
    cold = poutine.trace(poutine.condition(sri[0], data=latents)).get_trace(num_scenes=2, temperature=0.5)
    for name in latents:
        torch.testing.assert_close(cold.nodes[name]["fn"].stddev, 0.5 * warm.nodes[name]["fn"].stddev)
        torch.testing.assert_close(cold.nodes[name]["fn"].mean, warm.nodes[name]["fn"].mean)


def test_slots_depend_on_scene_and_on_earlier_slots(sri: SRI) -> None:
    model, _ = sri
    trace = poutine.trace(model).get_trace(num_scenes=2)
    latents = {name: trace.nodes[name]["value"] for name in ("scene", "slot_0", "slot_1", "slot_2")}

    def means(**changes: torch.Tensor) -> list[torch.Tensor]:
        conditioned = poutine.condition(model, data=latents | changes)
        nodes = poutine.trace(conditioned).get_trace(num_scenes=2).nodes
        return [nodes[f"slot_{k}"]["fn"].mean for k in range(3)]

    before = means()
    after = means(slot_1=latents["slot_1"] + 1)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])
    assert not torch.equal(before[0], means(scene=latents["scene"] + 1)[0])


def test_condition_keeps_slots_and_imagines_the_rest(sri: SRI) -> None:
    kept = torch.ones(2, 8)
    trace = poutine.trace(poutine.condition(sri[0], data={"slot_0": kept})).get_trace(num_scenes=2)
    assert torch.equal(trace.nodes["slot_0"]["value"], kept)
    assert not trace.nodes["slot_1"]["is_observed"]


def test_block_hides_sites(sri: SRI) -> None:
    trace = poutine.trace(poutine.block(sri[0], hide=["scene"])).get_trace(num_scenes=2)
    assert "scene" not in trace
    assert "slot_0" in trace


def test_one_scene_without_arguments(sri: SRI) -> None:
    assert sri[0]().shape == (1, 3, 32, 32)


@pytest.mark.parametrize("kind", ["mog", "gaussian"])
def test_images_are_sampled_from_the_likelihood(kind: str) -> None:
    model, _ = build_sri(likelihood=ImageLikelihood(kind=kind, pixel_std=0.01))
    trace = poutine.trace(model).get_trace(num_scenes=3)
    image, site = trace.nodes["image"]["value"], trace.nodes["image"]
    assert (image - site["fn"].mean).abs().mean() < (0.02 if kind == "gaussian" else 0.5)
    assert not site["is_observed"]


def test_same_seed_same_scene(sri: SRI) -> None:
    pyro.set_rng_seed(5)
    first = sri[0](num_scenes=2)
    pyro.set_rng_seed(5)
    assert torch.equal(first, sri[0](num_scenes=2))


def test_render_model(sri: SRI, images: torch.Tensor) -> None:
    graph = pyro.render_model(sri[0], model_args=(images,))
    assert "scene -> slot_0" in graph.source
    assert "slot_0 -> slot_1" in graph.source
    assert "slot_2 -> image" in graph.source
