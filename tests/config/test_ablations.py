"""The ablations of the paper are switches of the configuration: each builds, trains every parameter, and samples."""

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_sri.config import GenesisConfig, SRIConfig
from pyro_sri.config.sri import SegregationKind
from pyro_sri.system.errors import UserError

K = 3
SHAPE = {"image_size": 32, "num_slots": K, "slot_size": 8, "scene_size": 8, "gate_init": 0.5}


def build(**fields: Any) -> Any:
    torch.manual_seed(1)
    return SRIConfig(preset="p", dataset="d", **SHAPE | fields).build()


@pytest.mark.parametrize(
    "fields",
    [
        {"scene_size": 0},
        {"align": False},
        {"kl_cross": False},
        {"match_on": "samples"},
        {"matching": "hungarian"},
        {"segregation": "emorl", "segregation_decoder": "iodine"},
        {"segregation": "slot_attention"},
        {"scene_size": 0, "align": False},
        {"end_to_end": True, "align": False},
        {"end_to_end": True},
    ],
    ids=str,
)
def test_an_ablation_trains_every_parameter_and_samples(fields: dict[str, Any]) -> None:
    model, guide, elbo = build(**fields)
    images = torch.rand(4, 3, 32, 32)
    module = elbo(model, guide)
    with pyro.settings.context(module_local_params=True):
        module(images).backward()
    idle = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias in front of a softmax over slots does nothing.
    assert [name for name in idle if "attention.norm.bias" not in name] == []
    scenes = Predictive(model, num_samples=1)(num_scenes=2)
    assert scenes["reconstruction"].shape == (1, 2, 3, 32, 32)


def test_without_a_scene_variable_the_first_slot_is_standard_normal() -> None:
    model, guide, _ = build(scene_size=0)
    trace = poutine.trace(model).get_trace(num_scenes=2)
    assert "scene" not in trace
    first = trace.nodes["slot_0"]["fn"]
    assert torch.equal(first.mean, torch.zeros(2, 8))
    torch.testing.assert_close(first.stddev, torch.ones(2, 8))
    assert (trace.nodes["slot_1"]["fn"].mean[0] != trace.nodes["slot_1"]["fn"].mean[1]).all()  # it depends on slot 0
    assert "scene" not in poutine.trace(guide).get_trace(torch.rand(2, 3, 32, 32))


def test_without_alignment_the_posterior_is_the_segregations() -> None:
    model, guide, elbo = build(align=False)
    images = torch.rand(2, 3, 32, 32)
    trace = poutine.trace(guide).get_trace(images)
    assert not any(name.startswith("imagined") or name == "order" for name in trace)
    pair = trace.nodes["segregated_slots"]["fn"]
    for k in range(K):
        torch.testing.assert_close(trace.nodes[f"slot_{k}"]["fn"].mean, pair.mean[:, k])
        torch.testing.assert_close(trace.nodes[f"slot_{k}"]["fn"].stddev, pair.stddev[:, k])
    assert (elbo.terms(model, guide, images)["kl_cross"] == 0).all()


def test_kl_cross_is_read_but_not_trained() -> None:
    model, guide, elbo = build(kl_cross=False)
    elbo.eval()  # the controllers stand still
    terms = elbo.terms(model, guide, torch.rand(2, 3, 32, 32))
    assert (terms["kl_cross"] > 0).all()
    more = terms | {"kl_cross": terms["kl_cross"] + 100}
    assert torch.equal(elbo.objective(terms), elbo.objective(more))


def test_sri_sa_learns_end_to_end_in_the_encoders_own_order() -> None:
    model, guide, elbo = build(segregation="slot_attention")
    images = torch.rand(2, 3, 32, 32)
    trace = poutine.trace(guide).get_trace(images)
    assert trace.nodes["order"]["value"].tolist() == [[0, 1, 2]] * 2
    terms = elbo.terms(model, guide, images)
    assert (terms["segregation_nll"] == 0).all()
    terms["nll"].sum().backward()
    assert all(p.grad is not None for p in guide.segregation.guide.features.parameters())


def test_genesis_v2_with_a_scene_variable_is_one_vae() -> None:
    model, guide, elbo = build(end_to_end=True, align=False)
    assert guide.segregation.model is None
    images = torch.rand(2, 3, 32, 32)
    terms = elbo.terms(model, guide, images)
    assert (terms["segregation_nll"] == 0).all()
    (terms["nll"] + terms["kl_slots"]).sum().backward()
    gradients = [p.grad for p in guide.segregation.guide.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_matching_on_samples_compares_what_was_drawn() -> None:
    _, guide, _ = build(match_on="samples")
    trace = poutine.trace(guide).get_trace(torch.rand(1, 3, 32, 32))
    imagined = torch.stack([trace.nodes[f"imagined_slot_{k}"]["value"] for k in range(K)], 1)
    cost = torch.cdist(imagined, trace.nodes["segregated_slots"]["value"])[0]
    first = trace.nodes["order"]["value"][0, 0]
    assert first == cost[0].argmin()


@pytest.mark.parametrize(
    ("segregation", "field"),
    [
        ("emorl", {"share_decoder": True, "decoder": "genesis_v2"}),
        ("slot_attention", {"share_decoder": True}),
        ("slot_attention", {"segregation_steps": 5}),
        ("genesis_v2", {"end_to_end": True, "share_decoder": True}),
    ],
)
def test_switches_that_exclude_each_other_are_one_line(segregation: SegregationKind, field: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        SRIConfig(preset="p", dataset="d", **SHAPE, segregation=segregation, **field)
    assert "\n" not in str(caught.value)


def test_genesis_with_a_scene_variable() -> None:
    torch.manual_seed(1)
    sizes = {"mask_slot_size": 8, "component_slot_size": 8, "channels": 8, "component_layers": 2}
    config = GenesisConfig(preset="p", dataset="d", image_size=32, num_slots=K, scene_size=5, **sizes)
    model, guide, elbo = config.build()
    images = torch.rand(3, 3, 32, 32)
    sites = list(poutine.trace(model).get_trace(num_scenes=2).stochastic_nodes)
    assert sites.index("scene") < sites.index("mask_slot_0")
    terms = elbo.terms(model, guide, images)
    assert set(terms) == {"nll", "kl_scene", "kl_masks", "kl_components"}
    elbo(model, guide)(images).backward()
    roots = (model.first_input, model.mask_prior, guide.scene_posterior)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for root in roots for p in root.parameters())
    draws = [poutine.condition(model, data={"scene": torch.full((1, 5), value)}) for value in (-2.0, 2.0)]
    first = [poutine.trace(draw).get_trace(num_scenes=1).nodes["mask_slot_0"]["fn"].mean for draw in draws]
    assert (first[0] != first[1]).all()
