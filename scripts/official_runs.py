"""The authors' published weights of each system, with the configuration of the run that they become."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_sri.config import (
    EMORLConfig,
    GenesisConfig,
    GenesisV2Config,
    RunConfig,
    SlotAttentionConfig,
    SRIConfig,
    flag,
)
from pyro_sri.official import load_emorl, load_genesis, load_genesis_v2, load_slot_attention, load_sri
from pyro_sri.system.errors import UserError

Weights = Mapping[str, Tensor]
Settings = Mapping[str, Any]  # what the weights do not say, by the name of the option
Loaded = tuple[RunConfig, PyroModule, PyroModule]


class Official(NamedTuple):
    """How the weights of a system are read.

    Attributes:
        options: What the weights do not say, and what it is if it is not given.
        load: Reads weights; takes them, what every run has, and the options.
    """

    options: Settings
    load: Callable[[Weights, Settings, Settings], Loaded]


def load_official(system: str, weights: Weights, shared: Settings, given: Settings) -> Loaded:
    """Configuration, model and guide of the authors' weights.

    Args:
        system: A key of `OFFICIAL`.
        weights: Their state dict.
        shared: Fields that every run has; `image_size` and `num_slots` are among them.
        given: The options that the user gave; None stands for those that were not.

    Raises:
        UserError: If an option is not one of the system's, or the weights do not fit.
    """
    official = OFFICIAL[system]
    said = {name: value for name, value in given.items() if value is not None}
    for name in said:
        if name not in official.options:
            others = [other for other in OFFICIAL if name in OFFICIAL[other].options]
            raise UserError(f"{flag(name)} does not apply to {system}: it is an option of {', '.join(others)}")
    return official.load(weights, shared, {**official.options, **said})


def _sri(weights: Weights, shared: Settings, options: Settings) -> Loaded:
    model, guide = load_sri(weights, **_scene(shared), **options)
    sizes = {"slot_size": model.slot_prior.loc.out_features, "scene_size": model.scene_prior.size}
    colours, likelihood = _colours(options), _likelihood(options, normalised=options["likelihood"] == "mog")
    fields = {**shared, **sizes, **colours, **likelihood, "attention_layers": guide.num_layers}
    return SRIConfig(**fields, geco="none"), model, guide


def _genesis_v2(weights: Weights, shared: Settings, options: Settings) -> Loaded:
    model, guide = load_genesis_v2(weights, **_scene(shared), **options)
    colours, likelihood = _colours(options), _likelihood(options, normalised=options["likelihood"] == "mog")
    fields = {**shared, **colours, **likelihood, "slot_size": model.first_prior.size}
    return GenesisV2Config(**fields, geco="none"), model, guide


def _genesis(weights: Weights, shared: Settings, options: Settings) -> Loaded:
    """Its weights say which pixel standard deviations they were trained with: one for each slot."""
    held = weights["std"].double().flatten().tolist() if "std" in weights else [0.7]
    first = held[0] if options["first_pixel_std"] is None else options["first_pixel_std"]
    others = held[-1] if options["pixel_std"] is None else options["pixel_std"]
    model, guide = load_genesis(weights, **_scene(shared), pixel_std1=first, pixel_std2=others)
    sizes = {"mask_slot_size": model.mask_slot_size, "component_slot_size": model.component_slot_size}
    encoder, decoder = _convolutions(guide.component_encoder), _convolutions(model.component_decoder)
    channels = {"channels": encoder[0].out_channels, "decoder_channels": decoder[0].out_channels}
    fields = {**shared, **sizes, **channels, "component_layers": len(decoder) - 1}
    return GenesisConfig(**fields, first_pixel_std=first, pixel_std=others, geco="none"), model, guide


def _emorl(weights: Weights, shared: Settings, options: Settings) -> Loaded:
    model, guide = load_emorl(weights, **_scene(shared), **options)
    names = ("num_layers", "prior", "decoder")
    fields = {**shared, **{name: options[name] for name in names}, **_likelihood(options, normalised=False)}
    dual_gru = any(name.startswith("hvae_networks.gru.cell.") for name in weights)
    return EMORLConfig(**fields, slot_size=model.slot_size, dual_gru=dual_gru, geco=False), model, guide


def _slot_attention(weights: Weights, shared: Settings, options: Settings) -> Loaded:
    model, guide = load_slot_attention(weights, **_scene(shared), **options)
    return SlotAttentionConfig(**shared, **options, slot_size=model.any_slots.size), model, guide


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def _scene(shared: Settings) -> Settings:
    return {name: shared[name] for name in ("image_size", "num_slots")}


def _colours(options: Settings) -> Settings:
    return {"kernel": options["kernel"], "colour_start": "position" if options["semiconv"] else "none"}


def _likelihood(options: Settings, *, normalised: bool) -> Settings:
    return {"likelihood": options["likelihood"], "pixel_std": options["pixel_std"], "normalised": normalised}


_SEGREGATION: Settings = {"kernel": "gaussian", "semiconv": True, "pixel_std": 0.7, "likelihood": "mog"}
OFFICIAL: dict[str, Official] = {
    "sri": Official(_SEGREGATION, _sri),
    "genesis_v2": Official(_SEGREGATION, _genesis_v2),
    "genesis": Official({"first_pixel_std": None, "pixel_std": None}, _genesis),
    "emorl": Official(
        {"num_layers": 3, "prior": "rpp", "likelihood": "gaussian", "pixel_std": 0.3, "decoder": "iodine"}, _emorl
    ),
    "slot_attention": Official({"decoder": "small"}, _slot_attention),
}
