"""The EMORL guide as a Pyro program, alone and as the segregation of SRI."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive

from pyro_sri.evaluation.likelihood import importance_log_weights
from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import SRI_ELBO

AUXILIARY = {"initial_slots", "attention_masks", "prior_draw_2", "prior_draw_1"}


def build(**fields: object) -> tuple[EMORLModel, EMORLGuide]:
    shape = {"image_size": 16, "num_slots": 3, "slot_size": 8, "num_layers": 3, "decoder": "small"}
    own = {name: fields.pop(name) for name in ("dual_gru", "refinement_steps") if name in fields}
    model = EMORLModel(**shape | fields)
    return model, EMORLGuide(model, **own)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16)


def test_sites_in_order(images: torch.Tensor) -> None:
    _, guide = build()
    trace = poutine.trace(guide).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}
    layers = [f"layer_{layer}_slots" for layer in range(3)]
    assert list(sites) == ["initial_slots", *layers, "attention_masks", "prior_draw_2", "prior_draw_1"]
    for name, site in sites.items():
        assert site["value"].shape == ((4, 3, 1, 16, 16) if name == "attention_masks" else (4, 3, 8))
        assert bool(site["infer"].get("is_auxiliary")) is (name in AUXILIARY)
        assert (site["mask"] is False) is (name in AUXILIARY)
    masks = sites["attention_masks"]["value"]
    torch.testing.assert_close(masks.sum(1), torch.ones(4, 1, 16, 16))
    loc, raw_scale = trace.nodes["_RETURN"]["value"]
    assert loc.shape == raw_scale.shape == (4, 3, 8)
    assert torch.equal(sites["layer_2_slots"]["fn"].mean, loc)


@pytest.mark.parametrize(("prior", "fresh"), [("rpp", (2, 1)), ("rev", (2, 1)), ("bu", (0, 1))])
def test_fresh_draws_of_the_layers_that_priors_are_given(
    prior: str, fresh: tuple[int, ...], images: torch.Tensor
) -> None:
    _, guide = build(prior=prior)
    nodes = poutine.trace(guide).get_trace(images).nodes
    assert [name for name in nodes if name.startswith("prior_draw_")] == [f"prior_draw_{layer}" for layer in fresh]
    for layer in fresh:
        draw, passed_on = nodes[f"prior_draw_{layer}"], nodes[f"layer_{layer}_slots"]
        assert torch.equal(draw["fn"].mean, passed_on["fn"].mean)
        assert torch.equal(draw["fn"].stddev, passed_on["fn"].stddev)
        assert not torch.equal(draw["value"], passed_on["value"])


@pytest.mark.parametrize("dual_gru", [True, False])
def test_slots_are_exchangeable(dual_gru: bool, images: torch.Tensor) -> None:
    """Permuting the draws permutes what is inferred."""
    _, guide = build(dual_gru=dual_gru)
    nodes = poutine.trace(guide).get_trace(images).nodes
    draws = {name: nodes[name]["value"] for name in ("initial_slots", "layer_0_slots", "layer_1_slots")}
    shuffled = {name: slots[:, [1, 2, 0]] for name, slots in draws.items()}
    again = poutine.trace(poutine.condition(guide, data=shuffled)).get_trace(images).nodes
    torch.testing.assert_close(again["layer_2_slots"]["fn"].mean, nodes["layer_2_slots"]["fn"].mean[:, [1, 2, 0]])


def test_separate_cells_for_mean_and_scale() -> None:
    _, guide = build()
    guide.double()
    loc, raw_scale, updates = torch.randn(3, 2, 3, 8, dtype=torch.float64)
    new_loc, new_raw = guide.gru(updates, loc, raw_scale)
    assert torch.equal(guide.gru(updates, loc, raw_scale + 1)[0], new_loc)
    assert torch.equal(guide.gru(updates, loc + 1, raw_scale)[1], new_raw)


@pytest.mark.parametrize("num_slots", [1, 5])
def test_any_number_of_slots(num_slots: int, images: torch.Tensor) -> None:
    trace = poutine.trace(build()[1]).get_trace(images, num_slots=num_slots)
    assert trace.nodes["layer_2_slots"]["value"].shape == (4, num_slots, 8)


def test_posterior_predictive(images: torch.Tensor) -> None:
    model, guide = build()
    posterior = Predictive(guide, num_samples=2)(images)
    assert Predictive(model, posterior_samples=posterior)(num_scenes=4)["image"].shape == (2, 4, 3, 16, 16)


def test_importance_weights(images: torch.Tensor) -> None:
    log_weights = importance_log_weights(*build(), images, num_samples=2)
    assert log_weights.shape == (4, 2)
    assert torch.isfinite(log_weights).all()


def test_a_negative_number_of_steps() -> None:
    with pytest.raises(ValueError, match="-1 refinement steps"):
        build(refinement_steps=-1)


def build_sri() -> tuple[SceneModel, SRIGuide]:
    model = SceneModel(image_size=16, num_slots=3, slot_size=8, scene_size=6)
    return model, SRIGuide(model, SegregationPair(*build()), num_layers=1)


def test_segregation_of_sri(images: torch.Tensor) -> None:
    model, guide = build_sri()
    traces = SRI_ELBO().trace(model, guide, images)
    nodes = traces.guide.nodes
    own = ["initial_slots", "layer_0_slots", "layer_1_slots", "layer_2_slots", "attention_masks", "segregated_slots"]
    assert [name for name in nodes if name in own] == own
    assert all(nodes[name]["mask"] is False for name in own)
    assert torch.equal(nodes["segregated_slots"]["value"], nodes["layer_2_slots"]["value"])
    means = nodes["layer_2_slots"]["fn"].mean
    order = nodes["order"]["value"]
    assert torch.equal(nodes["slot_0"]["fn"].mean, means[torch.arange(4), order[:, 0]])

    terms = SRI_ELBO().read(traces)
    kl = torch.zeros(4)
    for layer in range(3):
        site, prior = nodes[f"layer_{layer}_slots"], traces.segregation.nodes[f"layer_{layer}_slots"]
        assert torch.equal(site["value"], prior["value"])
        kl = kl + site["fn"].log_prob(site["value"]) - prior["fn"].log_prob(site["value"])
    torch.testing.assert_close(terms["segregation_kl"], kl)
    image = traces.segregation.nodes["image"]
    torch.testing.assert_close(terms["segregation_nll"], -image["fn"].log_prob(images))


def test_sri_trains_the_pair_by_its_own_terms_alone(images: torch.Tensor) -> None:
    model, guide = build_sri()
    terms = SRI_ELBO().terms(model, guide, images)
    (terms["nll"] + terms["kl_scene"] + terms["kl_slots"] + terms["kl_cross"]).mean().backward(retain_graph=True)
    assert all(p.grad is None for p in guide.segregation.parameters())
    (terms["segregation_nll"] + terms["segregation_kl"]).mean().backward()
    idle = {name for name, p in guide.segregation.named_parameters() if p.grad is None}
    assert all(name.startswith("guide.refinement.") for name in idle)


def test_sri_step(images: torch.Tensor) -> None:
    model, guide = build_sri()
    before = {name: p.detach().clone() for name, p in guide.segregation.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), SRI_ELBO())
    assert math.isfinite(svi.step(images))
    same = {name for name, p in guide.segregation.named_parameters() if torch.equal(p, before[name])}
    assert all(name.startswith("guide.refinement.") or name == "guide.attention.norm.bias" for name in same)
