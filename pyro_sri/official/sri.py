"""The authors' SRI on GENESIS-v2."""

from typing import Any, Literal, get_args

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.genesis_v2 import IndependentSlotModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import IMAGE_SIZES, Kernel
from pyro_sri.official.genesis_v2 import GENESIS_V2_GUIDE, published_colours
from pyro_sri.official.weights import StateDict, check_weights, fill, lstm_cell, rename, size_of
from pyro_sri.system.errors import UserError

# Prefixes of the authors' names and of ours, in this order; the first that fits is taken.
_ATTENTION_BLOCK = {
    "q.": "query.",
    "k.": "key.",
    "relational_v.": "relation.",
    "norm_pre_ff.": "norm.",
    "mlp.": "mlp.",
}
_SRI = {
    "genesisv2.decoder_module.": "guide.segregation.model.decoder.layers.",
    **{f"genesisv2.{theirs}": f"guide.segregation.guide.{ours}" for theirs, ours in GENESIS_V2_GUIDE.items()},
    **{
        f"scene_encoder.blocks.{i}.{theirs}": f"guide.scene_encoder.blocks.{i}.{ours}"
        for i in range(16)
        for theirs, ours in _ATTENTION_BLOCK.items()
    },
    "scene_encoder.project_to_scene_dim.": "guide.scene_encoder.projection.",
    "scene_encoder.mu_s.": "guide.scene_encoder.loc.",
    "scene_encoder.sp_s.": "guide.scene_encoder.raw_scale.",
    "prior_lstm.scene_encoder.": "model.slot_prior.first_input.",
    **lstm_cell("prior_lstm.lstm", "model.slot_prior.lstm"),
    "prior_lstm.mu.": "model.slot_prior.loc.",
    "prior_lstm.sp.": "model.slot_prior.raw_scale.",
    "posterior_lstm.scene_encoder.": "guide.slot_scales.first_input.",
    "posterior_lstm.lstm.": "guide.slot_scales.lstm.",
    "posterior_lstm.sp.": "guide.slot_scales.raw_scale.",
    "decoder.": "model.decoder.layers.",
}


def sri_parameter_name(official_name: str) -> str:
    """Our name of one of the authors' SRI parameters, below `model.` or `guide.`.

    Raises:
        UserError: If the authors' networks have no such parameter.
    """
    return rename(official_name, _SRI, "SRI on GENESIS-v2")


def load_sri(
    state_dict: StateDict,
    *,
    image_size: int,
    num_slots: int,
    kernel: Kernel = "gaussian",
    semiconv: bool = True,
    pixel_std: float = 0.7,
    likelihood: Literal["mog", "gaussian"] = "mog",
) -> tuple[SceneModel, SRIGuide]:
    """Builds SRI on GENESIS-v2 from the authors' published weights.

    Feature, slot and scene sizes and the number of attention blocks are read from the weights, as is the dtype.

    Args:
        state_dict: The authors' state dict, under their names.
        image_size: Image side, one of 32, 64, 96, 128.
        num_slots: K.
        kernel: Kernel of the clustering.
        semiconv: Whether the pixel embeddings are semi-convolutional.
        pixel_std: sigma.
        likelihood: "mog" (normalised) or "gaussian" (unnormalised), as the authors trained them.

    Returns:
        Model and guide.

    Raises:
        UserError: On unknown, missing, misshapen or non-finite parameters, or settings that do not fit.
    """
    if image_size not in IMAGE_SIZES:
        raise UserError(f"image size {image_size} does not fit SRI: its networks take 32, 64, 96 or 128")
    if num_slots < 1:
        raise UserError(f"{num_slots} slots are too few: SRI needs at least 1")
    if kernel not in get_args(Kernel):
        raise UserError(f"unknown kernel '{kernel}': it must be one of {', '.join(get_args(Kernel))}")
    check_weights(state_dict)
    renamed = {sri_parameter_name(name): (name, tensor) for name, tensor in state_dict.items()}
    slot_size = size_of(state_dict, "scene_encoder.project_to_scene_dim.0.weight", 1, "SRI")
    scene_size = size_of(state_dict, "scene_encoder.project_to_scene_dim.0.weight", 0, "SRI")
    blocks = {name.split(".")[2] for name in state_dict if name.startswith("scene_encoder.blocks.")}
    shape: dict[str, Any] = {"image_size": image_size, "num_slots": num_slots, "slot_size": slot_size}
    try:
        image_likelihood = ImageLikelihood(kind=likelihood, pixel_std=pixel_std, normalised=likelihood == "mog")
        model = SceneModel(**shape, scene_size=scene_size, likelihood=image_likelihood)
        segregation = SegregationPair(
            IndependentSlotModel(**shape, likelihood=image_likelihood),
            GenesisV2Guide(**shape, colours=published_colours(kernel, semiconv)),
        )
    except ValueError as error:
        raise UserError(f"cannot build SRI for these weights: {error}") from error
    guide = SRIGuide(model, segregation, num_layers=len(blocks))
    fill({"model": model, "guide": guide}, renamed)
    return model, guide
