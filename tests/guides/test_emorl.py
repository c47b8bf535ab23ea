"""The EMORL guide as a Pyro program, alone and as the segregation of SRI."""

import math
from typing import Any

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
from pyro_sri.objectives import EMORL_ELBO, SRI_ELBO, EmorlGECO

AUXILIARY = {"initial_slots", "attention_masks", "prior_draw_2", "prior_draw_1"}


def build(**fields: object) -> tuple[EMORLModel, EMORLGuide]:
    shape = {"image_size": 16, "num_slots": 3, "slot_size": 8, "num_layers": 3, "decoder": "small"}
    own = {name: fields.pop(name) for name in ("dual_gru", "features", "refinement_steps") if name in fields}
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


def test_start_scales_at(images: torch.Tensor) -> None:
    _, guide = build(slot_size=32)
    guide.start_scales_at(0.1)
    nodes = poutine.trace(guide).get_trace(images).nodes
    first, *later = (nodes[f"layer_{layer}_slots"]["fn"].stddev.mean().item() for layer in range(3))
    assert first == pytest.approx(0.1, rel=0.5)
    assert all(0.02 < scale < first for scale in later)


def test_pixels_of_one_colour_attend_alike_from_the_start() -> None:
    left_or_right = torch.arange(16) < 8
    images = torch.where(left_or_right, torch.tensor([0.9, 0.1, 0.1])[:, None], torch.tensor([0.1, 0.8, 0.9])[:, None])
    images = images[None, :, None].expand(4, -1, 16, -1)
    between = {}
    for features in ("picture", "convolutions"):
        _, guide = build(features=features, slot_size=32)
        masks = poutine.trace(guide).get_trace(images).nodes["attention_masks"]["value"]  # [4, K, 1, 16, 16]
        between[features] = (masks[..., left_or_right].mean(-1) - masks[..., ~left_or_right].mean(-1)).abs().mean()
    assert between["picture"] > 5 * between["convolutions"]


def test_unknown_features() -> None:
    model, _ = build()
    with pytest.raises(ValueError, match=r"unknown pixel_features 'picure': .*did you mean 'picture'\?"):
        EMORLGuide(model, features="picure")


def test_a_negative_number_of_steps() -> None:
    with pytest.raises(ValueError, match="refinement_steps is -1"):
        build(refinement_steps=-1)


def build_sri(**fields: object) -> tuple[SceneModel, SRIGuide]:
    model = SceneModel(image_size=16, num_slots=3, slot_size=8, scene_size=6, decoder="small")
    return model, SRIGuide(model, SegregationPair(*build(**fields)), num_layers=1)


@pytest.mark.parametrize("steps", [0, 2])
def test_segregation_of_sri(steps: int, images: torch.Tensor) -> None:
    """The later stages see the posterior of the last iteration; all that infers it is auxiliary."""
    model, guide = build_sri(refinement_steps=steps)
    traces = SRI_ELBO().trace(model, guide, images)
    nodes = traces.guide.nodes
    own = ["initial_slots", "layer_0_slots", "layer_1_slots", "layer_2_slots", "attention_masks"]
    own += [f"refined_slots_{i}" for i in range(1, steps + 1)] + ["segregated_slots"]
    assert [name for name in nodes if name in own] == own
    assert all(nodes[name]["mask"] is False and nodes[name]["infer"]["is_auxiliary"] for name in own)
    last = nodes[f"refined_slots_{steps}" if steps else "layer_2_slots"]
    assert torch.equal(nodes["segregated_slots"]["value"], last["value"])
    order = nodes["order"]["value"]
    assert torch.equal(nodes["slot_0"]["fn"].mean, last["fn"].mean[torch.arange(4), order[:, 0]])


@pytest.mark.parametrize("steps", [0, 2])
def test_sri_trains_the_pair_by_its_own_objective(steps: int, images: torch.Tensor) -> None:
    """Loss and gradients of the pair are those of EMORL_ELBO, its controller included, under the same draws."""
    results = []
    for alone in (True, False):
        pyro.set_rng_seed(0)
        model, guide = build_sri(refinement_steps=steps)
        pair = guide.segregation
        geco = EmorlGECO(target=0.5, image_size=16)
        pyro.set_rng_seed(5)
        if alone:
            own = EMORL_ELBO(geco=geco)
            loss = own.differentiable_loss(pair.model, pair.guide, images)
            terms = own.terms(pair.model, pair.guide, images)
        else:
            elbo = SRI_ELBO(segregation_geco=geco)
            terms = elbo.terms(model, guide, images)
            of_sri = sum(terms[name].mean() for name in ("nll", "kl_scene", "kl_slots", "kl_cross"))
            loss = elbo.objective(terms) - of_sri
        gradients = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=steps == 0)
        results.append((loss, terms, gradients, geco.slack_ema))
    (loss, terms, gradients, slack), (loss_in_sri, terms_in_sri, gradients_in_sri, slack_in_sri) = results
    torch.testing.assert_close(loss_in_sri, loss, rtol=1e-4, atol=1e-2)
    assert torch.equal(slack, slack_in_sri)
    for ours, theirs in zip(gradients_in_sri, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    names = {f"segregation_{name}" for name in terms}
    assert names | {"segregation_kl"} == {name for name in terms_in_sri if name.startswith("segregation_")}


def test_every_parameter_of_sri_on_emorl_learns(images: torch.Tensor) -> None:
    model, guide = build_sri(refinement_steps=2)
    module = SRI_ELBO()(model, guide)
    with pyro.settings.context(module_local_params=True):
        module(images).backward()
    zero = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert zero <= {"guide.segregation.guide.attention.norm.bias"}  # in front of a softmax over slots


def test_sri_sends_no_gradient_into_the_pair(images: torch.Tensor) -> None:
    model, guide = build_sri()
    terms = SRI_ELBO().terms(model, guide, images)
    (terms["nll"] + terms["kl_scene"] + terms["kl_slots"] + terms["kl_cross"]).mean().backward()
    assert all(p.grad is None for p in guide.segregation.parameters())


def test_sri_step(images: torch.Tensor) -> None:
    model, guide = build_sri()
    before = {name: p.detach().clone() for name, p in guide.segregation.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), SRI_ELBO())
    assert math.isfinite(svi.step(images))
    same = {name for name, p in guide.segregation.named_parameters() if torch.equal(p, before[name])}
    assert same <= {"guide.attention.norm.bias"}


def test_stock_elbos_of_sri_on_emorl_do_without_refinement(images: torch.Tensor) -> None:
    trace = poutine.trace(build_sri()[1]).get_trace(images)
    assert "segregated_slots" in trace
    assert not any(name.startswith("refined") for name in trace)


@pytest.mark.parametrize("handler", [poutine.trace, lambda: poutine.condition(data={"scene": torch.zeros(4, 6)})])
def test_terms_of_sri_under_enclosing_handlers(handler: Any, images: torch.Tensor) -> None:
    with handler():
        terms = SRI_ELBO().terms(*build_sri(), images)
    assert all(torch.isfinite(term).all() for term in terms.values())
