import dataclasses
from typing import Any

import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS

NOTHING: tuple[str, ...] = ()
SCENE = ("model.slot_prior.first_input", "model.slot_prior.loc", "model.slot_prior.raw_scale")
SRI = (*SCENE, "guide.scene_encoder", "guide.slot_scales.first_input", "guide.slot_scales.raw_scale")
EMORL = (
    *("model.prior.network.loc", "model.prior.network.raw_scale", "model.decoder"),
    *("guide.features", "guide.attention", "guide.loc_mlp", "guide.raw_scale_mlp"),
    *("guide.refinement.network.loc", "guide.refinement.network.raw_scale"),
)
SEGREGATION = tuple(f"guide.segregation.{name}" for name in EMORL)

SMALL = {
    "sri-mog-shapestacks": SRI,
    "sri_emorl-clevr6": SRI + SEGREGATION,
    "sri_sa-shapestacks": SRI,
    "recurrent-mog-shapestacks": SCENE,
    "genesis_v2-mog-shapestacks": NOTHING,
    "emorl-tetrominoes": EMORL,
    "emorl-clevr6": EMORL,
}
DRAWN = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


class Pair(nn.Module):
    def __init__(self, model: PyroModule, guide: PyroModule) -> None:
        super().__init__()
        self.model, self.guide = model, guide


def build(config: RunConfig, **fields: Any) -> Pair:
    torch.manual_seed(0)
    return Pair(*dataclasses.replace(config, **fields).build()[:2])


def check_gain(layers: list[Any], gain: float) -> None:
    """Weights divided by what a gain of 1 makes of them have this standard deviation, over all layers."""
    scaled = []
    for layer in layers:
        fans = sum(nn.init._calculate_fan_in_and_fan_out(layer.weight))
        scaled.append(layer.weight.detach().flatten() * (fans / 2) ** 0.5)
        assert scaled[-1].std().item() == pytest.approx(gain, rel=0.25)
    assert torch.cat(scaled).std().item() == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("preset", SMALL)
def test_every_parameter_starts_as_in_the_published_code(preset: str) -> None:
    config = PRESETS[preset].config
    assert dataclasses.asdict(config)["init"] == "official" or not SMALL[preset]
    official, plain = build(config, init="official"), build(config, init="pytorch")
    small: dict[str, list[Any]] = {f"{network}.": [] for network in SMALL[preset]}
    accounted = set()
    for name, layer in official.named_modules():
        network = next((prefix for prefix in small if f"{name}.".startswith(prefix)), None)
        if network is not None and isinstance(layer, DRAWN):
            small[network].append(layer)
            accounted |= {f"{name}.{parameter}" for parameter, _ in layer.named_parameters()}
            assert layer.bias is None or not layer.bias.any()
    for layers in small.values():
        assert layers
    if small:
        check_gain([layer for layers in small.values() for layer in layers], 0.02)
    starts = dict(plain.named_parameters())
    for name, parameter in official.named_parameters():
        if name not in accounted:
            assert torch.equal(parameter, starts[name]), name


@pytest.mark.parametrize("preset", ["emorl-clevr6", "slot_attention-clevr6"])
def test_emorls_initial_slots_have_raw_scale_1(preset: str) -> None:
    config = PRESETS[preset].config
    loc, raw_scale = build(config).guide.initial_slots(2, config.num_slots)
    assert not loc.any()
    assert (raw_scale == 1).all()


def test_xavier_draws_every_weight_with_gain_1() -> None:
    config = PRESETS["sri-mog-shapestacks"].config
    xavier, plain = build(config, init="xavier"), build(config, init="pytorch")
    layers = [layer for layer in xavier.modules() if isinstance(layer, DRAWN)]
    check_gain(layers, 1.0)
    starts = dict(plain.named_parameters())
    drawn = {id(layer.weight) for layer in layers}
    assert all(torch.equal(p, starts[name]) for name, p in xavier.named_parameters() if id(p) not in drawn)


def test_parts_that_are_left_out_have_no_start() -> None:
    build(PRESETS["sri-mog-shapestacks"].config, scene_size=0, align=False)
