"""GENESIS equals the authors' networks: every recorded output, loss, gradient, statistic and sample, in float64."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from pyro import poutine
from pyro.poutine import Trace

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis import GenesisGuide
from pyro_sri.models.genesis import GenesisModel
from pyro_sri.nn import break_stick
from pyro_sri.objectives import SlotELBO
from pyro_sri.objectives.base import Traces
from pyro_sri.official import genesis_parameter_name, load_genesis
from support.golden import Golden, RecordedNoise, assert_relative, mean, slots_first, std, value

MODES = ("eval", "train")


class Case(NamedTuple):
    golden: Golden
    model: GenesisModel
    guide: GenesisGuide
    traces: Traces
    ours: dict[str, torch.Tensor]


@cache
def case(mode: str) -> Case:
    """Runs the recorded case once in a mode; parameters and statistics are under the authors' names."""
    golden = Golden("genesis")
    model, guide = load_genesis(
        golden.state(),
        image_size=golden.config("img_size"),
        num_slots=golden.config("K"),
        pixel_std1=golden.config("pixel_std1"),
        pixel_std2=golden.config("pixel_std2"),
    )
    for module in (model, guide):
        module.train(mode == "train")
    with RecordedNoise(noise(golden, "noise/eps")):
        traces = SlotELBO().trace(model, guide, golden["in/x"])
    ours = {
        f"{root}.{name}": tensor
        for root, module in (("model", model), ("guide", guide))
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    theirs = {name: ours[genesis_parameter_name(name)] for name in golden.state() if name != "std"}
    return Case(golden, model, guide, traces, theirs)


def noise(golden: Golden, prefix: str) -> dict[str, torch.Tensor]:
    sites = (("mask_slot", "zm"), ("component_slot", "zc"))
    return {f"{site}_{k}": draw for site, key in sites for k, draw in enumerate(golden[f"{prefix}_{key}"])}


def slots_first_masks(trace: Trace) -> torch.Tensor:
    return trace.nodes["log_masks"]["value"].transpose(0, 1)


@pytest.mark.parametrize("mode", MODES)
def test_latents(mode: str) -> None:
    golden, _, _, (guide, model), _ = case(mode)
    for site, ours, theirs in (("mask_slot_", "zm", "att"), ("component_slot_", "zc", "comp")):
        assert_relative(slots_first(guide, site, mean), golden[f"out/{mode}/{theirs}_mu_k"])
        assert_relative(slots_first(guide, site, std), golden[f"out/{mode}/{theirs}_sigma_k"])
        assert_relative(slots_first(guide, site, value), golden[f"sample/{mode}/{ours}_k"])
        assert_relative(slots_first(model, site, mean), golden[f"out/{mode}/{theirs}_prior_mu_k"])
        assert_relative(slots_first(model, site, std), golden[f"out/{mode}/{theirs}_prior_sigma_k"])


@pytest.mark.parametrize("mode", MODES)
def test_pictures(mode: str) -> None:
    golden, _, _, (guide, model), _ = case(mode)
    masks, rgb = slots_first_masks(guide), model.nodes["slot_rgb"]["value"].transpose(0, 1)
    assert_relative(masks, golden[f"out/{mode}/log_m_k"])
    assert_relative(masks.exp(), model.nodes["slot_masks"]["value"].transpose(0, 1), 1e-12)
    assert_relative(masks.exp().mean((2, 3, 4)), golden[f"out/{mode}/mask_mean"])
    assert_relative(rgb.mean((3, 4)), golden[f"out/{mode}/x_r_k_mean"])
    assert_relative(model.nodes["reconstruction"]["value"], golden[f"out/{mode}/recon"])
    if mode == "eval":
        assert_relative(rgb, golden["out/eval/x_r_k"])


def test_stick() -> None:
    golden, model, *_ = case("eval")
    with torch.no_grad():
        logits = model.mask_decoder.logits(golden["sample/eval/zm_k"].transpose(0, 1))
    assert_relative(logits.transpose(0, 1), golden["out/eval/att_logits_k"])
    assert_relative(break_stick(logits)[1].transpose(0, 1), golden["out/eval/log_s_k"])


@pytest.mark.parametrize("mode", MODES)
def test_terms(mode: str) -> None:
    golden, _, _, traces, _ = case(mode)
    terms = SlotELBO().read(traces)
    assert tuple(terms) == ("nll", "kl_masks", "kl_components")
    assert_relative(terms["nll"], golden[f"out/{mode}/err"])
    assert_relative(terms["kl_masks"], golden[f"out/{mode}/kl_m_k"].sum(0))
    assert_relative(terms["kl_components"], golden[f"out/{mode}/kl_l_k"].sum(0))
    for site, key in (("mask_slot", "kl_m_k"), ("component_slot", "kl_l_k")):
        for k, expected in enumerate(golden[f"out/{mode}/{key}"]):
            posterior, prior = (trace.nodes[f"{site}_{k}"] for trace in traces)
            kl = posterior["fn"].log_prob(posterior["value"]) - prior["fn"].log_prob(posterior["value"])
            assert_relative(kl, expected)


@pytest.mark.parametrize("mode", MODES)
def test_losses_and_gradients(mode: str) -> None:
    golden, _, _, traces, ours = case(mode)
    terms = {name: term.mean() for name, term in SlotELBO().read(traces).items()}
    loss = terms["nll"] + golden.config("beta") * (terms["kl_masks"] + terms["kl_components"])
    assert_relative(loss, golden[f"out/{mode}/total_loss"])
    parameters = {name: tensor for name, tensor in ours.items() if tensor.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    gradients = dict(zip(parameters, found, strict=True))
    checked = golden.starting(f"grad_{mode}/")
    assert len(checked) > 15
    for key in checked:
        assert_relative(gradients[key.removeprefix(f"grad_{mode}/")], golden[key])
    names = golden.arrays[f"config/gradnorm_{mode}_names"]
    for name, norm in zip(names, golden[f"out/gradnorm_{mode}"], strict=True):
        assert_relative(gradients[str(name)].norm(), norm)


def test_running_statistics() -> None:
    golden, *_, ours = case("train")
    checked = golden.starting("out/train/after/")
    assert len(checked) == 9
    for key in checked:
        assert_relative(ours[key.removeprefix("out/train/after/")], golden[key])
    still = case("eval").ours["att_process.core.p_x_nn.2.h_norm.running_mean"]
    assert torch.equal(still, golden["state/att_process.core.p_x_nn.2.h_norm.running_mean"])


def test_sampling() -> None:
    golden, model, *_ = case("eval")
    with torch.no_grad(), RecordedNoise(noise(golden, "noise/sample_eps")):
        trace = poutine.trace(model).get_trace(num_scenes=2)
    assert_relative(slots_first(trace, "mask_slot_", mean), golden["out/gen_prior_mu"])
    assert_relative(slots_first(trace, "mask_slot_", std), golden["out/gen_prior_sigma"])
    assert_relative(slots_first(trace, "mask_slot_", value), golden["sample/gen_zm_k"])
    assert_relative(slots_first(trace, "component_slot_", value), golden["sample/gen_zc_k"])
    assert_relative(trace.nodes["reconstruction"]["value"], golden["out/gen_recon"])
    assert_relative(slots_first_masks(trace), golden["out/gen_log_m_k"])
    assert_relative(trace.nodes["slot_rgb"]["value"].mean((3, 4)).transpose(0, 1), golden["out/gen_x_k_mean"])


def test_elementary_likelihood_with_two_standard_deviations() -> None:
    golden = Golden("elementary")
    likelihood = ImageLikelihood(pixel_std=0.35, first_pixel_std=0.5)
    rgb, log_masks = golden["in/rgb"].transpose(0, 1), golden["out/log_masks_softmax"].transpose(0, 1)
    nll = -likelihood(rgb, log_masks).log_prob(golden["in/image"])
    assert_relative(nll, golden["out/nll_genesis_two_std"])
    same = -ImageLikelihood(pixel_std=0.35, first_pixel_std=0.35)(rgb, log_masks).log_prob(golden["in/image"])
    assert_relative(same, golden["out/nll_genesis"])
