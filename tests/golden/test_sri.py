"""SRI equals the authors' networks: every recorded output, loss term and gradient, in float64."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from pyro import poutine
from pyro.poutine import Trace

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.inference import explain
from pyro_sri.matching import slot_distances
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import Terms
from pyro_sri.objectives.sri import SRI_ELBO, SRITraces, read_terms, trace_sri
from pyro_sri.official import load_sri, sri_parameter_name
from support.golden import Golden, RecordedNoise, assert_relative, mean, slots_first, std, value

CASES = ("sri_genv2_mog", "sri_genv2_mog_64", "sri_genv2_epan")


class Case(NamedTuple):
    golden: Golden
    model: SceneModel
    guide: SRIGuide
    noise: RecordedNoise
    traces: SRITraces
    terms: Terms
    gradients: dict[str, dict[str, torch.Tensor | None]]


@cache
def case(name: str) -> Case:
    """Runs a recorded case once: traces, terms, and gradients of both halves of the loss and of the whole."""
    golden = Golden(name)
    model, guide = load_sri(
        golden.state(),
        image_size=golden.config("img_size"),
        num_slots=golden.config("K"),
        kernel=golden.config("kernel"),
        semiconv=bool(golden.config("semiconv")),
        pixel_std=golden.config("pixel_std"),
    )
    eps = {"segregated_slots": golden["noise/eps_z"].transpose(0, 1), "scene": golden["noise/eps_scene"]}
    for k in range(golden.config("K")):
        eps[f"imagined_slot_{k}"] = golden["noise/eps_rollout"][k]
        eps[f"slot_{k}"] = golden["noise/eps_z_ordered"][k]
    noise = RecordedNoise(eps, golden["noise/rand_pixel"][:, 0])
    with noise:
        traces = trace_sri(model, guide, golden["in/x"])
    terms = read_terms(traces)
    parameters = official_parameters(golden, model, guide)
    gradients = {}
    for tag, loss in losses(golden, terms).items():
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        gradients[tag] = dict(zip(parameters, found, strict=True))
    return Case(golden, model, guide, noise, traces, terms, gradients)


def official_parameters(golden: Golden, model: SceneModel, guide: SRIGuide) -> dict[str, torch.Tensor]:
    """Parameters under the authors' names."""
    ours = {f"model.{n}": p for n, p in model.named_parameters()} | {
        f"guide.{n}": p for n, p in guide.named_parameters()
    }
    return {name: ours[sri_parameter_name(name)] for name in golden.state()}


def losses(golden: Golden, terms: Terms) -> dict[str, torch.Tensor]:
    mean = {name: term.mean() for name, term in terms.items()}
    segregation = mean["segregation_nll"] + golden.config("beta") * mean["segregation_kl"]
    sri = mean["nll"] + golden.config("beta_sri") * (mean["kl_scene"] + mean["kl_slots"] + mean["kl_cross"])
    return {"loss_genv2": segregation, "loss_sri": sri, "total_loss": segregation + sri}


def strided(golden: Golden, key: str, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and their recording, which may hold every second row and column only."""
    if key in golden.names:
        return maps, golden[key]
    return maps[..., ::2, ::2], golden[f"{key}_s2"]


@pytest.mark.parametrize("name", CASES)
def test_segregate(name: str) -> None:
    golden, _, guide, _, traces, terms, _ = case(name)
    x, segregation = golden["in/x"], guide.segregation.guide
    with torch.no_grad():
        features = segregation.encoder(x)
        segmentation = segregation.segmentation_head(features)
        assert_relative(features.mean((2, 3)), golden["out/enc_feat_mean"])
        assert_relative(segmentation.mean((2, 3)), golden["out/seg_feat_mean"])
        assert_relative(segregation.slot_head.feature_head(features).mean((2, 3)), golden["out/feat_head_mean"])
        colours = segregation.stick_breaking.colour_head(segmentation, x)
        clusters = segregation.stick_breaking(segmentation, x, golden["noise/rand_pixel"][:, 0], golden.config("K"))
    assert_relative(*strided(golden, "out/colour", colours))
    if golden.config("semiconv"):
        grid = segregation.stick_breaking.colour_head.coordinates.grid
        assert_relative(*strided(golden, "out/delta", colours[:, -2:] - grid))
    assert torch.equal(clusters.seed_index.T, golden["out/seed_index"])
    assert_relative(clusters.seeds.transpose(0, 1), golden["out/seeds"])
    assert_relative(*strided(golden, "out/log_s_k", clusters.log_scopes.transpose(0, 1)))
    masks = traces.guide.nodes["attention_masks"]["value"].transpose(0, 1)  # [K, B, 1, H, W]
    assert_relative(*strided(golden, "out/log_m_k", masks.log()))
    assert_relative(masks.sum((2, 3, 4)), golden["out/mask_sum_k"])
    slots = traces.guide.nodes["segregated_slots"]
    assert_relative(mean(slots).transpose(0, 1), golden["out/mu_k"])
    assert_relative(std(slots).transpose(0, 1), golden["out/sigma_k"])
    assert_relative(value(slots).transpose(0, 1), golden["sample/z_k"])
    assert_relative(terms["segregation_nll"], golden["out/genv2_nll"])
    assert_relative(terms["segregation_kl"], golden["out/genv2_kl_k"].sum(0))
    check_pictures(golden, traces.segregation, "")


def check_pictures(golden: Golden, trace: Trace, suffix: str) -> None:
    """Reconstruction, colours and masks of the slots, and the likelihood with and without its constant."""
    site = {name: trace.nodes[name]["value"] for name in ("slot_rgb", "slot_masks", "reconstruction")}
    rgb, masks = site["slot_rgb"].transpose(0, 1), site["slot_masks"].transpose(0, 1)
    assert_relative(site["reconstruction"], golden[f"out/recon{suffix}"])
    assert_relative(*strided(golden, f"out/x_r_k{suffix}", rgb))
    assert_relative(*strided(golden, f"out/log_m_r_k{suffix}", masks.log()))
    assert_relative(rgb.mean((3, 4)), golden[f"out/x_r_k{suffix}_mean"])
    assert_relative(masks.mean((2, 3, 4)), golden[f"out/m_r_k{suffix}_mean"])
    prefix = "sri" if suffix else "genv2"
    for normalised, word in ((True, "normalised"), (False, "unnormalised")):
        likelihood = ImageLikelihood(kind="mog", pixel_std=golden.config("pixel_std"), normalised=normalised)
        nll = -likelihood(site["slot_rgb"], site["slot_masks"].log()).log_prob(golden["in/x"])
        assert_relative(nll, golden[f"out/{prefix}_nll_{word}"])


@pytest.mark.parametrize("name", CASES)
def test_relate(name: str) -> None:
    golden, *_, traces, terms, _ = case(name)
    scene = traces.guide.nodes["scene"]
    assert_relative(mean(scene), golden["out/scene_mu"])
    assert_relative(std(scene), golden["out/scene_sigma"])
    assert_relative(value(scene), golden["sample/scene"])
    assert_relative(terms["kl_scene"], golden["out/scene_kl"])


@pytest.mark.parametrize("name", CASES)
def test_imagine(name: str) -> None:
    golden, model, guide, noise, traces, terms, _ = case(name)
    trace = traces.guide
    assert_relative(slots_first(trace, "imagined_slot_", mean), golden["out/rollout_mu"])
    assert_relative(slots_first(trace, "imagined_slot_", std), golden["out/rollout_sigma"])
    assert_relative(slots_first(trace, "imagined_slot_", value), golden["sample/rollout_z"])
    imagined = slots_first(trace, "imagined_slot_", mean).transpose(0, 1)
    assert_relative(slot_distances(imagined, trace.nodes["segregated_slots"]["fn"].mean), golden["out/match_cost"])
    assert torch.equal(trace.nodes["order"]["value"], golden["out/order"])
    assert_relative(slots_first(trace, "slot_", mean), golden["out/ordered_mu"])
    assert_relative(slots_first(trace, "slot_", std), golden["out/ordered_sigma"])
    assert_relative(slots_first(trace, "slot_", value), golden["sample/z_ordered"])
    assert_relative(slots_first(traces.model, "slot_", mean), golden["out/slot_prior_mu"])
    assert_relative(terms["kl_slots"], golden["out/slot_kl"])
    assert_relative(terms["kl_cross"], golden["out/rollout_kl"])
    assert_relative(terms["nll"], golden["out/sri_nll"])
    check_pictures(golden, traces.model, "_ordered")
    with noise:
        explanation = explain(model, guide, golden["in/x"])
    assert_relative(*strided(golden, "out/imagination_recon", explanation.imagination))
    assert_relative(explanation.imagination.mean((2, 3)), golden["out/imagination_recon_mean"])


@pytest.mark.parametrize("name", CASES)
def test_kl_of_each_slot(name: str) -> None:
    golden, *_, traces, _, _ = case(name)
    for k in range(golden.config("K")):
        posterior = traces.guide.nodes[f"slot_{k}"]["fn"]
        for prior, key in (
            (traces.model.nodes[f"slot_{k}"], "slot"),
            (traces.guide.nodes[f"imagined_slot_{k}"], "rollout"),
        ):
            kl = torch.distributions.kl_divergence(posterior, prior["fn"])
            assert_relative(kl, golden[f"out/{key}_kl_k"][k])
        assert_relative(std(traces.model.nodes[f"slot_{k}"]), golden["out/slot_prior_sigma"][k])


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(name: str) -> None:
    golden, *_, terms, gradients = case(name)
    for tag, loss in losses(golden, terms).items():
        assert_relative(loss, golden[f"out/{tag}"])
    checked = golden.starting("grad/")
    assert len(checked) > 25
    for key in checked:
        assert_relative(gradients["total_loss"][key.removeprefix("grad/")], golden[key])
    names = golden.arrays["config/gradnorm_names"]
    for tag, key in (("total_loss", "out/gradnorm"), ("loss_sri", "out/gradnorm_sri_half")):
        for parameter, norm in zip(names, golden[key], strict=True):
            gradient = gradients[tag][str(parameter)]
            if norm == -1:
                assert gradient is None, f"{parameter} should have no path to {tag}"
            else:
                assert_relative(gradient.norm(), norm)


@pytest.mark.parametrize("name", CASES)
def test_sampling(name: str) -> None:
    golden, model, *_ = case(name)
    temperature = golden.config("temperature")
    eps = {"scene": golden["noise/sample_eps_scene"]}
    eps |= {f"slot_{k}": draw for k, draw in enumerate(golden["noise/sample_eps_slots"])}
    with torch.no_grad(), RecordedNoise(eps):
        trace = poutine.trace(model).get_trace(num_scenes=len(eps["scene"]), temperature=temperature)
    assert_relative(trace.nodes["scene"]["value"], golden["sample/gen_scene"])
    assert_relative(slots_first(trace, "slot_", value), golden["sample/gen_z_k"])
    assert_relative(slots_first(trace, "slot_", mean), golden["out/gen_prior_mu"])
    assert_relative(slots_first(trace, "slot_", std), golden["out/gen_prior_sigma_tempered"])
    reconstruction = trace.nodes["reconstruction"]["value"]
    assert_relative(*strided(golden, "out/gen_recon", reconstruction))
    assert_relative(reconstruction.mean((2, 3)), golden["out/gen_recon_mean"])
    assert_relative(*strided(golden, "out/gen_log_m_k", trace.nodes["slot_masks"]["value"].transpose(0, 1).log()))
    rgb = trace.nodes["slot_rgb"]["value"].transpose(0, 1)
    assert_relative(rgb.mean((3, 4)), golden["out/gen_x_k_mean"])


@pytest.mark.parametrize("name", CASES)
def test_terms_under_a_conditioning_handler(name: str) -> None:
    golden, model, guide, _, traces, terms, _ = case(name)
    draws = {n: s["value"] for n, s in traces.guide.nodes.items() if s["type"] == "sample" and n != "scenes"}
    with poutine.condition(data=draws):
        again = SRI_ELBO().terms(model, guide, golden["in/x"])
    for term, expected in terms.items():
        assert_relative(again[term], expected.detach(), 1e-12)
