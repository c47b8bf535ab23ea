"""EMORL equals the authors' networks: every recorded output, loss and gradient of all variants, in float64."""

from typing import Any, NamedTuple

import pytest
import torch

from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.nn.slot_attention import ATTENTION_FLOOR
from pyro_sri.objectives import EmorlGECO
from pyro_sri.objectives.emorl import EMORL_ELBO, EMORLTraces
from pyro_sri.official import emorl_parameter_name, load_emorl, load_emorl_geco
from pyro_sri.official.emorl import DUAL_GRU, GECO_NAMES
from support.golden import Golden, RecordedNoise, assert_relative, mean, std, value

PRIMARY = {
    "emorl_gauss_rpp": "gauss_rpp",
    "emorl_gmm_rev": "gmm_rev",
    "emorl_gmm_bu": "gmm_bu",
    "emorl_plain_gru": "gmm_rpp",
}
COMBINATIONS = tuple(f"{likelihood}_{prior}" for likelihood in ("gauss", "gmm") for prior in ("rpp", "rev", "bu"))
VARIANTS = [(case, variant) for case in PRIMARY for variant in (*COMBINATIONS, "geco", "eval")]


class Run(NamedTuple):
    """One variant of a recorded case: what our networks make of it, and what was recorded beside it."""

    golden: Golden
    group: str
    model: EMORLModel
    guide: EMORLGuide
    elbo: EMORL_ELBO
    traces: EMORLTraces
    loss: torch.Tensor
    attention: list[torch.Tensor]
    refinements: list[dict[str, torch.Tensor]]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.golden[f"out/{self.group}/{key}"]

    def per_slot(self, key: str) -> torch.Tensor:
        """A recording over image*K + slot as [.., B, K, Z]."""
        recorded = self.golden[key]
        return recorded.unflatten(-2, (self.golden.config("batch"), self.golden.config("K")))


def run(case: str, variant: str, dtype: torch.dtype = torch.float64) -> Run:
    """Runs a variant: one of the six combinations, or the primary one with GECO ("geco") or without graph ("eval")."""
    golden = Golden(case)
    primary = golden.config("primary")
    combination = primary if variant in ("geco", "eval") else variant
    group = f"{primary}_{variant}" if variant in ("geco", "eval") else variant
    likelihood, prior = combination.split("_")
    state = {name: tensor.to(dtype) for name, tensor in golden.state().items()}
    model, guide = load_emorl(
        state,
        image_size=golden.config("img_size"),
        num_slots=golden.config("K"),
        num_layers=golden.config("stochastic_layers"),
        prior=prior,
        likelihood={"gauss": "gaussian", "gmm": "mog"}[likelihood],
        pixel_std=golden.config("std"),
        decoder=golden.config("image_decoder"),
        refinement_steps=golden.config("refinement_iters"),
    )
    geco = None
    if variant == "geco":
        geco = EmorlGECO(target=0.0, image_size=golden.config("img_size")).to(dtype)
        load_emorl_geco(state, geco)
    elbo = EMORL_ELBO(geco=geco, kl_weight=golden.config("kl_beta"))

    per_slot = (golden.config("batch"), golden.config("K"), -1)
    eps = {"initial_slots": golden["noise/eps_init"]}
    eps |= {f"layer_{layer}_slots": draw for layer, draw in enumerate(golden["noise/eps_layers"])}
    eps |= {
        f"prior_draw_{layer}": draw for layer, draw in zip(guide.fresh_layers, golden["noise/eps_prior"], strict=True)
    }
    eps |= {f"refined_slots_{i}": draw for i, draw in enumerate(golden["noise/eps_refine"], 1)}
    noise = RecordedNoise({name: draw.to(dtype).view(per_slot) for name, draw in eps.items()})

    attention: list[torch.Tensor] = []
    refinements: list[dict[str, torch.Tensor]] = []

    def watch_refinement(_module: Any, inputs: Any, outputs: Any) -> None:
        _loc, _raw_scale, gradients, _memory = inputs
        *changes, memory = outputs
        refinements.append({"gradients": torch.cat(gradients, -1), "changes": torch.cat(changes, -1), "memory": memory})

    hooks = [
        guide.attention.register_forward_hook(lambda _module, _inputs, output: attention.append(output.masks)),
        guide.refinement.network.register_forward_hook(watch_refinement),
    ]
    with noise, torch.set_grad_enabled(variant != "eval"):
        traces = elbo.trace(model, guide, ((golden["in/x"] + 1) / 2).to(dtype))
        loss = elbo.eval().objective(elbo.read(traces))
    for hook in hooks:
        hook.remove()
    return Run(golden, group, model, guide, elbo, traces, loss, attention, refinements)


@pytest.fixture(scope="module")
def this(request: pytest.FixtureRequest) -> Run:
    """One run for all tests of a variant; it is let go before the next."""
    return run(*request.param)


def for_each(variants: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("this", variants, indirect=True, ids="-".join)


def gradients(run: Run) -> dict[str, torch.Tensor | None]:
    """Of the total loss, with respect to the authors' parameters."""
    ours = {f"model.{n}": p for n, p in run.model.named_parameters()} | {
        f"guide.{n}": p for n, p in run.guide.named_parameters()
    }
    found = torch.autograd.grad(run.loss, list(ours.values()), retain_graph=True, allow_unused=True)
    ours = dict(zip(ours, found, strict=True))
    return {
        name: dual_gru_part(ours, name) if name.startswith(DUAL_GRU) else ours[emorl_parameter_name(name)]
        for name in run.golden.state()
        if name not in GECO_NAMES
    }


def dual_gru_part(ours: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The piece of our two GRU cells that one of the authors' tensors is."""
    what, kind, *number = name.removeprefix(DUAL_GRU).split("_")
    side = {"in": "ih", "hn": "hh"}.get(kind, kind)
    cells = [ours[f"guide.gru.{cell}.{what}_{side}"] for cell in ("loc", "raw_scale")]
    gates = 2 * len(cells[0]) // 3  # reset and update; the candidate comes last
    parts = [cell[:gates] if kind == side else cell[gates:] for cell in cells]
    return parts[int(number[0]) - 1] if number else torch.cat(parts)


def stacked(read: Any, nodes: list[Any]) -> torch.Tensor:
    return torch.stack([read(node) for node in nodes])


@for_each(PRIMARY.items())
def test_bottom_up(this: Run) -> None:
    golden, first = this.golden, this.traces.iterations[0]
    num_layers = golden.config("stochastic_layers")
    layers = [first.guide.nodes[f"layer_{layer}_slots"] for layer in range(num_layers)]
    assert_relative(stacked(mean, layers), this.per_slot("out/posterior_mu_layers"), 1e-9)
    assert_relative(stacked(std, layers), this.per_slot("out/posterior_sigma_layers"), 1e-9)
    assert_relative(stacked(value, layers), this.per_slot("sample/slots_layers"), 1e-9)
    assert_relative(torch.cat(first.posterior, -1), this.per_slot("out/lamda_final_layer"), 1e-9)
    assert len(this.attention) == num_layers
    for layer, masks in enumerate(this.attention):
        recorded = golden[f"out/attn_{layer}"]
        assert_relative(masks.view_as(recorded) + ATTENTION_FLOOR, recorded, 1e-7)
    last_masks = first.guide.nodes["attention_masks"]["value"]
    assert torch.equal(last_masks, this.attention[-1].view_as(last_masks))


@for_each(PRIMARY.items())
def test_refinement(this: Run) -> None:
    _first, *refined = this.traces.iterations
    nodes = [step.guide.nodes[f"refined_slots_{i}"] for i, step in enumerate(refined, 1)]
    assert len(nodes) == this.golden.config("refinement_iters")
    assert_relative(stacked(mean, nodes), this.per_slot("out/refined_posterior_mu"), 1e-9)
    assert_relative(stacked(std, nodes), this.per_slot("out/refined_posterior_sigma"), 1e-9)
    assert_relative(stacked(value, nodes), this.per_slot("sample/slots_refined"), 1e-9)
    assert_relative(torch.stack([step.memory for step in refined]), this.per_slot("out/refine_hidden"), 1e-9)


@for_each(PRIMARY.items())
def test_pictures_of_every_iteration(this: Run) -> None:
    for i, iteration in enumerate(this.traces.iterations):
        sites = {name: iteration.model.nodes[name]["value"] for name in ("slot_rgb", "slot_masks", "reconstruction")}
        assert_relative(sites["slot_rgb"], this.golden[f"out/rgb_{i}"], 1e-7)
        assert_relative(sites["slot_masks"].log(), this.golden[f"out/log_masks_{i}"], 1e-7)
        assert_relative(sites["reconstruction"], this.golden[f"out/recon_{i}"], 1e-7)


@for_each(VARIANTS)
def test_terms(this: Run) -> None:
    traces = this.traces
    assert_relative(torch.stack([i.nll for i in traces.iterations]), this["nll_iter"], 1e-9)
    assert_relative(torch.stack([i.kl for i in traces.iterations]), this["kl_iter"], 1e-9)
    assert_relative(traces.layer_kls, this["kl_layers"], 1e-9)
    priors = [traces.priors.nodes[f"layer_{layer}_slots"] for layer in range(len(traces.layer_kls))]
    assert_relative(stacked(mean, priors), this.per_slot(f"out/{this.group}/prior_mu_layers"), 1e-9)
    assert_relative(stacked(std, priors), this.per_slot(f"out/{this.group}/prior_sigma_layers"), 1e-9)
    terms = this.elbo.read(traces)
    assert_relative(terms["nll"].mean(), this["nll"], 1e-9)
    assert_relative(terms["kl_slots"].mean(), this["kl"], 1e-9)
    assert_relative(this.loss, this["total_loss"], 1e-9)


@for_each(VARIANTS)
def test_refinement_follows_the_gradient(this: Run) -> None:
    followed = torch.stack([step["gradients"] for step in this.refinements])
    assert_relative(followed, this.per_slot(f"out/{this.group}/dloss_dlamda"), 1e-8)
    refined = torch.stack([torch.cat(i.posterior, -1) for i in this.traces.iterations[1:]])
    assert_relative(refined, this.per_slot(f"out/{this.group}/lamda_refined"), 1e-9)
    changes = torch.stack([step["changes"] for step in this.refinements])
    assert_relative(changes.norm(dim=-1).mean((1, 2)), this["deltas"], 1e-9)


@for_each([(case, variant) for case, variant in VARIANTS if variant != "eval"])
def test_gradients(this: Run) -> None:
    golden = this.golden
    is_primary = this.group == golden.config("primary")
    found = gradients(this)
    checked = golden.starting("grad/" if is_primary else f"grad_{this.group}/")
    assert len(checked) == (17 if is_primary else 3)
    for key in checked:
        assert_relative(found[key.split("/", 1)[1]], golden[key], 1e-8)
    norms = golden["out/gradnorm" if is_primary else f"out/gradnorm_{this.group}"]
    names = [str(name) for name in golden.arrays["config/gradnorm_names"]]
    assert sorted(names) == sorted(found)
    for name, norm in zip(names, norms, strict=True):
        assert_relative(found[name].norm(), norm, 1e-8)


@for_each([(case, "geco") for case in PRIMARY])
def test_constraint(this: Run) -> None:
    geco = this.elbo.geco
    for recorded in this["constraint_iter"]:
        assert_relative(geco.weight * geco.slack_ema, recorded, 1e-9)


@pytest.mark.parametrize("case", PRIMARY)
def test_weights_of_the_iterations(case: str) -> None:
    golden = Golden(case)
    steps = golden.config("refinement_iters")
    assert_relative(
        golden["config/loss_weights"], torch.tensor([(steps + 3 - i) / (steps + 1) for i in range(steps + 1)])
    )
    zero, one = torch.zeros(1), torch.ones(1)
    names = [*(f"nll_{i}" for i in range(steps)), "nll"]
    for name, weight in zip(names, golden["config/loss_weights"], strict=True):
        terms = {n: zero for nll in names for n in (nll, "kl_slots" if nll == "nll" else nll.replace("nll", "kl"))}
        assert_relative(EMORL_ELBO().objective(terms | {name: one}), weight)


@pytest.mark.parametrize("case", PRIMARY)
def test_float32(case: str) -> None:
    this = run(case, PRIMARY[case], torch.float32)
    assert this.loss.dtype == torch.float32
    assert_relative(this.loss, this["total_loss"], 1e-4)
    assert_relative(this.traces.layer_kls, this["kl_layers"], 1e-4)
    refined = torch.stack([torch.cat(i.posterior, -1) for i in this.traces.iterations[1:]])
    assert_relative(refined, this.per_slot(f"out/{this.group}/lamda_refined"), 1e-3)
    found = gradients(this)
    for key in this.golden.starting("grad/"):
        assert_relative(found[key.split("/", 1)[1]], this.golden[key], 1e-3)
