"""Slot Attention equals the authors' networks: every recorded output and gradient, in float64."""

from functools import cache
from typing import NamedTuple

import pytest
import torch

from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.models.slot_attention import SlotAttentionModel
from pyro_sri.objectives import SlotAttentionLoss, Terms
from pyro_sri.objectives.base import Traces
from pyro_sri.official import load_slot_attention, slot_attention_parameter_name
from support.golden import Golden, RecordedNoise, assert_relative

CASES = ("slot_attention", "slot_attention_big96")


class Run(NamedTuple):
    golden: Golden
    model: SlotAttentionModel
    guide: SlotAttentionGuide
    traces: Traces
    terms: Terms
    updates: list[torch.Tensor]
    states: list[torch.Tensor]


@cache
def run(case: str, dtype: torch.dtype = torch.float64) -> Run:
    golden = Golden(case)
    model, guide = load_slot_attention(
        {name: tensor.to(dtype) for name, tensor in golden.state().items()},
        image_size=golden.config("img_size"),
        num_slots=golden.config("K"),
        decoder=golden.config("image_decoder"),
    )
    assert guide.num_iterations == golden.config("attention_iters")
    eps = golden["noise/eps_init"].to(dtype).view(golden.config("batch"), golden.config("K"), -1)
    updates: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    hooks = [
        guide.attention.register_forward_hook(lambda _module, _inputs, output: updates.append(output.updates)),
        guide.gru.register_forward_hook(lambda _module, _inputs, output: states.append(output)),
    ]
    loss = SlotAttentionLoss()
    with RecordedNoise({"initial_slots": eps}):
        traces = loss.trace(model, guide, ((golden["in/x"] + 1) / 2).to(dtype))
    for hook in hooks:
        hook.remove()
    return Run(golden, model, guide, traces, loss.read(traces), updates, states)


def gradients(this: Run) -> dict[str, torch.Tensor]:
    ours = {f"model.{n}": p for n, p in this.model.named_parameters()} | {
        f"guide.{n}": p for n, p in this.guide.named_parameters()
    }
    parameters = {name: ours[slot_attention_parameter_name(name)] for name in this.golden.state()}
    found = torch.autograd.grad(SlotAttentionLoss().objective(this.terms), list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_attention(case: str) -> None:
    golden, *_, traces, _terms, updates, states = run(case)
    assert_relative(torch.stack(updates).flatten(1, 2), golden["out/updates"], 1e-9)
    assert_relative(torch.stack(states), golden["out/gru_out"], 1e-9)
    assert_relative(traces.guide.nodes["segregated_slots"]["value"], golden["out/slots"], 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_pictures(case: str) -> None:
    this = run(case)
    golden, nodes = this.golden, this.traces.model.nodes
    rgb, masks = nodes["slot_rgb"]["value"], nodes["slot_masks"]["value"]
    stride = golden.config("map_stride")
    suffix = "" if stride == 1 else f"_s{stride}"
    for name, maps in (("rgb", rgb), ("log_masks", masks.log()), ("recon", nodes["reconstruction"]["value"])):
        assert_relative(maps[..., ::stride, ::stride], golden[f"out/{name}{suffix}"], 1e-7)
    assert_relative(rgb.mean((3, 4)), golden["out/rgb_mean"], 1e-9)
    assert_relative(masks.mean((2, 3, 4)), golden["out/mask_mean"], 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str) -> None:
    this = run(case)
    golden = this.golden
    assert_relative(SlotAttentionLoss().objective(this.terms), golden["out/total_loss"], 1e-9)
    found = gradients(this)
    checked = golden.starting("grad/")
    assert len(checked) == 12
    for key in checked:
        assert_relative(found[key.removeprefix("grad/")], golden[key], 1e-8)
    names = [str(name) for name in golden.arrays["config/gradnorm_names"]]
    assert sorted(names) == sorted(found)
    for name, norm in zip(names, golden["out/gradnorm"], strict=True):
        assert_relative(found[name].norm(), norm, 1e-8)


def test_float32() -> None:
    this = run("slot_attention", torch.float32)
    assert_relative(SlotAttentionLoss().objective(this.terms), this.golden["out/total_loss"], 1e-4)
    found = gradients(this)
    for key in this.golden.starting("grad/"):
        assert_relative(found[key.removeprefix("grad/")], this.golden[key], 1e-3)
