"""The SRI guide as a Pyro program: its sites, their order, what is scored, what gradients may pass."""

import copy

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO

from pyro_sri.guides.sri import SRIGuide
from pyro_sri.matching import greedy_matching, hungarian_matching, slot_distances
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import SRI_ELBO
from support.programs import build_sri

SRI = tuple[SceneModel, SRIGuide]

SITES = {
    "segregation_seeds": (32, 32),
    "attention_masks": (3, 1, 32, 32),
    "segregated_slots": (3, 8),
    "scene": (12,),
    "imagined_slot_0": (8,),
    "imagined_slot_1": (8,),
    "imagined_slot_2": (8,),
    "order": (3,),
    "slot_0": (8,),
    "slot_1": (8,),
    "slot_2": (8,),
}
SCORED = {"scene", "slot_0", "slot_1", "slot_2"}


def test_sites_in_order(sri: SRI, images: torch.Tensor) -> None:
    trace = poutine.trace(sri[1]).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}
    assert list(sites) == list(SITES)
    for name, shape in SITES.items():
        assert sites[name]["value"].shape == (4, *shape), name
        scored = name in SCORED
        assert bool(sites[name]["infer"].get("is_auxiliary")) is not scored
        assert (sites[name]["mask"] is False) is not scored
    assert sites["order"]["value"].dtype == torch.long
    trace.compute_log_prob()
    scores = {name: site["log_prob_sum"].item() for name, site in sites.items()}
    assert all((scores[name] != 0) == (name in SCORED) for name in sites)


def test_segregation_guide_stands_alone(sri: SRI, images: torch.Tensor) -> None:
    pair = sri[1].segregation
    trace = poutine.trace(pair.guide).get_trace(images)
    assert trace.nodes["segregated_slots"]["mask"] is None
    assert trace.nodes["attention_masks"]["mask"] is False
    model_trace = poutine.trace(pair.model).get_trace(images)
    assert model_trace.nodes["segregated_slots"]["value"].shape == (4, 3, 8)
    loss = Trace_ELBO().loss(pair.model, pair.guide, images)
    assert loss == pytest.approx(loss)  # not NaN


def test_attention_masks_sum_to_one(sri: SRI, images: torch.Tensor) -> None:
    masks = poutine.trace(sri[1]).get_trace(images).nodes["attention_masks"]["value"]
    torch.testing.assert_close(masks.sum(1), torch.ones(4, 1, 32, 32))


@pytest.mark.parametrize("matching", ["greedy", "hungarian"])
def test_slots_are_the_segregated_means_in_the_imagined_order(matching: str, images: torch.Tensor) -> None:
    _model, guide = build_sri(matching=matching, num_slots=5)
    nodes = poutine.trace(guide).get_trace(images).nodes
    means = nodes["segregated_slots"]["fn"].mean
    imagined = torch.stack([nodes[f"imagined_slot_{k}"]["fn"].mean for k in range(5)], 1)
    match = {"greedy": greedy_matching, "hungarian": hungarian_matching}[matching]
    order = nodes["order"]["value"]
    assert torch.equal(order, match(slot_distances(imagined, means)))
    for k in range(5):
        torch.testing.assert_close(nodes[f"slot_{k}"]["fn"].mean, means[torch.arange(4), order[:, k]])


def test_the_rollout_follows_the_models_prior(sri: SRI, images: torch.Tensor) -> None:
    model, guide = sri
    nodes = poutine.trace(guide).get_trace(images).nodes
    latents = {"scene": nodes["scene"]["value"]} | {f"slot_{k}": nodes[f"imagined_slot_{k}"]["value"] for k in range(3)}
    model_nodes = poutine.trace(poutine.condition(model, data=latents)).get_trace(images).nodes
    for k in range(3):
        torch.testing.assert_close(model_nodes[f"slot_{k}"]["fn"].mean, nodes[f"imagined_slot_{k}"]["fn"].mean)
        torch.testing.assert_close(model_nodes[f"slot_{k}"]["fn"].stddev, nodes[f"imagined_slot_{k}"]["fn"].stddev)


def test_the_guide_does_not_own_the_models_prior(sri: SRI) -> None:
    model, guide = sri
    owned = {id(p) for p in guide.parameters()}
    assert not owned & {id(p) for p in model.parameters()}
    pair = SRI_ELBO()(model, guide)
    copied = copy.deepcopy(pair)
    assert copied.guide.slot_prior is copied.model.slot_prior
    assert copied.guide.slot_prior is not guide.slot_prior


def test_sri_terms_do_not_train_the_segregation(sri: SRI, images: torch.Tensor) -> None:
    model, guide = sri
    terms = SRI_ELBO().terms(model, guide, images)
    (terms["nll"] + terms["kl_scene"] + terms["kl_slots"] + terms["kl_cross"]).mean().backward()
    assert all(p.grad is None for p in guide.segregation.parameters())
    assert all(p.grad is not None for name, p in guide.named_parameters() if not name.startswith("segregation"))


@pytest.mark.parametrize("num_slots", [1, 2, 6])
def test_any_number_of_slots(sri: SRI, images: torch.Tensor, num_slots: int) -> None:
    trace = poutine.trace(sri[1]).get_trace(images, num_slots=num_slots)
    assert trace.nodes["order"]["value"].shape == (4, num_slots)


def test_posterior_predictive(sri: SRI, images: torch.Tensor) -> None:
    model, guide = sri
    posterior = Predictive(guide, num_samples=2)(images)
    drawn = Predictive(model, posterior_samples=posterior)(num_scenes=4)
    assert drawn["image"].shape == (2, 4, 3, 32, 32)


def test_start_scales_at(sri: SRI, images: torch.Tensor) -> None:
    _model, guide = sri
    guide.start_scales_at(0.1)
    nodes = poutine.trace(guide).get_trace(images).nodes
    for name in ("segregated_slots", "slot_0"):
        assert nodes[name]["fn"].stddev.mean().item() == pytest.approx(0.1, rel=0.2)


def test_same_seed_same_draws(sri: SRI, images: torch.Tensor) -> None:
    pyro.set_rng_seed(1)
    first = poutine.trace(sri[1]).get_trace(images).nodes["slot_2"]["value"]
    pyro.set_rng_seed(1)
    assert torch.equal(first, poutine.trace(sri[1]).get_trace(images).nodes["slot_2"]["value"])
