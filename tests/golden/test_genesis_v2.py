"""GENESIS-v2 equals the authors' networks: every recorded output, loss, gradient and sample, in float64."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from pyro import poutine

from pyro_sri.guides.genesis_v2 import GenesisV2SlotGuide
from pyro_sri.models.genesis_v2 import AutoregressiveSlotModel
from pyro_sri.nn import StickBreaking, break_stick, stop_early
from pyro_sri.objectives import SlotELBO
from pyro_sri.objectives.base import Traces
from pyro_sri.objectives.mask_kl import mask_divergence
from pyro_sri.official import genesis_v2_parameter_name, load_genesis_v2
from support.golden import Golden, RecordedNoise, assert_relative, mean, slots_first, std, value

VARIANTS = {"": "none", "_klm_detached": "detached", "_klm_attached": "attached"}


class Case(NamedTuple):
    golden: Golden
    model: AutoregressiveSlotModel
    guide: GenesisV2SlotGuide
    traces: Traces
    parameters: dict[str, torch.Tensor]


@cache
def case() -> Case:
    """Runs the recorded case once; parameters are under the authors' names."""
    golden = Golden("genesis_v2")
    model, guide = load_genesis_v2(
        golden.state(),
        image_size=golden.config("img_size"),
        num_slots=golden.config("K"),
        kernel=golden.config("kernel"),
        semiconv=bool(golden.config("semiconv")),
        pixel_std=golden.config("pixel_std"),
    )
    eps = {f"slot_{k}": draw for k, draw in enumerate(golden["noise/eps_z"])}
    with RecordedNoise(eps, golden["noise/rand_pixel"][:, 0]):
        traces = SlotELBO().trace(model, guide, golden["in/x"])
    ours = {f"model.{n}": p for n, p in model.named_parameters()} | {
        f"guide.{n}": p for n, p in guide.named_parameters()
    }
    return Case(golden, model, guide, traces, {n: ours[genesis_v2_parameter_name(n)] for n in golden.state()})


def test_clustering() -> None:
    golden, _, guide, traces, _ = case()
    clustering = guide.stick_breaking
    with torch.no_grad():
        features = guide.encoder(golden["in/x"])
        colours = clustering.colour_head(guide.segmentation_head(features), golden["in/x"])
        clusters = guide.cluster(features, golden["in/x"], golden["noise/rand_pixel"][:, 0])
    assert_relative(colours, golden["out/colour"])
    assert_relative(colours[:, -2:] - clustering.colour_head.coordinates.grid, golden["out/delta"])
    assert torch.equal(clusters.seed_index.T, golden["out/seed_index"])
    assert_relative(clusters.seeds.transpose(0, 1), golden["out/seeds"])
    assert_relative(clusters.log_scopes.transpose(0, 1), golden["out/log_s_k"])
    masks = traces.guide.nodes["attention_masks"]["value"].transpose(0, 1)  # [K, B, 1, H, W]
    assert_relative(masks.log(), golden["out/log_m_k"])


def test_latents() -> None:
    golden, _, _, (guide, model), _ = case()
    assert_relative(slots_first(guide, "slot_", mean), golden["out/mu_k"])
    assert_relative(slots_first(guide, "slot_", std), golden["out/sigma_k"])
    assert_relative(slots_first(guide, "slot_", value), golden["sample/z_k"])
    assert_relative(slots_first(model, "slot_", mean), golden["out/prior_mu"])
    assert_relative(slots_first(model, "slot_", std), golden["out/prior_sigma"])


def test_pictures() -> None:
    golden, _, _, (_, model), _ = case()
    assert_relative(model.nodes["reconstruction"]["value"], golden["out/recon"])
    assert_relative(model.nodes["slot_rgb"]["value"].transpose(0, 1), golden["out/x_r_k"])
    assert_relative(model.nodes["slot_masks"]["value"].transpose(0, 1).log(), golden["out/log_m_r_k"])


def test_terms() -> None:
    golden, _, _, traces, _ = case()
    terms = SlotELBO(mask_kl="detached").read(traces)
    assert tuple(terms) == ("nll", "kl_slots", "mask_kl")
    assert_relative(terms["nll"], golden["out/err"])
    assert_relative(terms["kl_slots"], golden["out/kl_l_k"].sum(0))
    assert_relative(terms["mask_kl"], golden["out/kl_m"])
    for k, expected in enumerate(golden["out/kl_l_k"]):
        posterior, prior = (trace.nodes[f"slot_{k}"] for trace in (traces.guide, traces.model))
        kl = posterior["fn"].log_prob(posterior["value"]) - prior["fn"].log_prob(posterior["value"])
        assert_relative(kl, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients(variant: str) -> None:
    golden, _, _, traces, parameters = case()
    terms = {name: term.mean() for name, term in SlotELBO(mask_kl=VARIANTS[variant]).read(traces).items()}
    loss = terms["nll"] + golden.config("beta") * (terms["kl_slots"] + terms.get("mask_kl", 0.0))
    assert_relative(loss, golden["out/total_loss_klm" if variant else "out/total_loss"])
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    gradients = dict(zip(parameters, found, strict=True))
    checked = golden.starting(f"grad{variant}/")
    assert len(checked) >= 5
    for key in checked:
        assert_relative(gradients[key.removeprefix(f"grad{variant}/")], golden[key])
    names = golden.arrays[f"config/gradnorm{variant}_names"]
    for name, norm in zip(names, golden[f"out/gradnorm{variant}"], strict=True):
        assert_relative(gradients[str(name)].norm(), norm)


def test_sampling() -> None:
    golden, model, *_ = case()
    eps = {f"slot_{k}": draw for k, draw in enumerate(golden["noise/sample_eps"])}
    with torch.no_grad(), RecordedNoise(eps):
        trace = poutine.trace(model).get_trace(num_scenes=2)
    assert_relative(slots_first(trace, "slot_", mean), golden["out/gen_prior_mu"])
    assert_relative(slots_first(trace, "slot_", std), golden["out/gen_prior_sigma"])
    assert_relative(slots_first(trace, "slot_", value), golden["sample/gen_z_k"])
    assert_relative(trace.nodes["reconstruction"]["value"], golden["out/gen_recon"])
    assert_relative(trace.nodes["slot_masks"]["value"].transpose(0, 1).log(), golden["out/gen_log_m_k"])
    assert_relative(trace.nodes["slot_rgb"]["value"].mean((3, 4)).transpose(0, 1), golden["out/gen_x_k_mean"])


def test_early_stop() -> None:
    golden = Golden("elementary")
    clustering = StickBreaking(4, 16, golden.config("sbp_K")).double()
    clustering.load_state_dict({name.replace("gate.gate", "gate"): t for name, t in golden.state("sbp.").items()})
    with torch.no_grad():
        features = golden["in/sbp_features"]
        images = torch.zeros_like(features[:, :3])
        clusters = clustering(features, images, golden["noise/sbp_rand_pixel"][:, 0], golden.config("sbp_K"))
    log_masks, num_masks = stop_early(clusters, golden.config("sbp_min_mask_mass"))
    stopped = golden["out/sbp_n_masks"].item()
    assert num_masks.tolist() == [stopped]
    assert_relative(log_masks[:, :stopped].transpose(0, 1), golden["out/sbp_log_m"])
    assert_relative(clusters.log_scopes[:, :stopped].transpose(0, 1), golden["out/sbp_log_s"])
    assert torch.equal(log_masks[:, stopped:].exp(), torch.zeros_like(log_masks[:, stopped:]))
    assert_relative(log_masks.exp().sum(1), torch.ones(1, 1, 16, 16), 1e-12)


def test_elementary_masks() -> None:
    golden = Golden("elementary")
    log_masks, log_scopes = break_stick(golden["in/mask_logits"].transpose(0, 1))
    assert_relative(log_masks.transpose(0, 1), golden["out/log_masks_scope"])
    assert log_scopes.shape == (2, 5, 1, 5, 5)
    attention, decoded = (golden[f"in/klm_log_{name}"].transpose(0, 1).exp() for name in "qp")
    assert_relative(mask_divergence(attention, decoded), golden["out/klm"])
