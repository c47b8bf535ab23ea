"""The authors' GENESIS-v2."""

from typing import Any, Literal, get_args

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis_v2 import GenesisV2SlotGuide
from pyro_sri.models.genesis_v2 import AutoregressiveSlotModel
from pyro_sri.nn import IMAGE_SIZES, InstanceColours, Kernel
from pyro_sri.official.weights import StateDict, check_scene, check_weights, fill, lstm_cell, rename, size_of
from pyro_sri.system.errors import UserError

# Prefixes of the authors' names and of ours, in this order; the first that fits is taken.
GENESIS_V2_GUIDE = {
    "encoder.": "encoder.",
    "seg_head.": "segmentation_head.",
    "att_process.log_sigma": "stick_breaking.log_sigma",
    "att_process.colour_head.gate.gate": "stick_breaking.colour_head.gate",
    "att_process.colour_head.conv.": "stick_breaking.colour_head.conv.",
    "att_process.colour_head.": "stick_breaking.colour_head.conv.",  # without semi-convolution
    "feat_head.": "slot_head.feature_head.",
    "z_head.": "slot_head.slot_mlp.",
}
_GENESIS_V2 = {
    "decoder_module.": "model.decoder.layers.",
    **lstm_cell("prior_lstm", "model.slot_prior.lstm"),
    "prior_linear.": "model.slot_prior.head.",
    **{theirs: f"guide.{ours}" for theirs, ours in GENESIS_V2_GUIDE.items()},
}


def genesis_v2_parameter_name(official_name: str) -> str:
    """Our name of one of the authors' GENESIS-v2 parameters, below `model.` or `guide.`.

    Raises:
        UserError: If the authors' networks have no such parameter.
    """
    return rename(official_name, _GENESIS_V2, "GENESIS-v2")


def published_colours(kernel: Kernel, semiconv: bool) -> InstanceColours:
    """The instance colours of published weights."""
    return InstanceColours(start="position" if semiconv else "none", kernel=kernel)


def load_genesis_v2(
    state_dict: StateDict,
    *,
    image_size: int,
    num_slots: int,
    kernel: Kernel = "gaussian",
    semiconv: bool = True,
    pixel_std: float = 0.7,
    likelihood: Literal["mog", "gaussian"] = "mog",
) -> tuple[AutoregressiveSlotModel, GenesisV2SlotGuide]:
    """Builds GENESIS-v2 from the authors' published weights.

    The slot size is read from the weights, as is the dtype.

    Args:
        state_dict: The authors' state dict, under their names.
        image_size: Image side, one of 32, 64, 96, 128.
        num_slots: K.
        kernel: Kernel of the clustering.
        semiconv: Whether the pixel embeddings are semi-convolutional.
        pixel_std: sigma.
        likelihood: "mog" (normalised) or "gaussian" (unnormalised).

    Returns:
        Model and guide.

    Raises:
        UserError: On unknown, missing, misshapen or non-finite parameters, or settings that do not fit.
    """
    check_scene(image_size, IMAGE_SIZES, num_slots, "GENESIS-v2")
    if kernel not in get_args(Kernel):
        raise UserError(f"unknown kernel '{kernel}': it must be one of {', '.join(get_args(Kernel))}")
    check_weights(state_dict)
    renamed = {genesis_v2_parameter_name(name): (name, tensor) for name, tensor in state_dict.items()}
    slot_size = size_of(state_dict, "prior_lstm.weight_ih_l0", 1, "GENESIS-v2")
    shape: dict[str, Any] = {"image_size": image_size, "num_slots": num_slots, "slot_size": slot_size}
    try:
        image_likelihood = ImageLikelihood(kind=likelihood, pixel_std=pixel_std, normalised=likelihood == "mog")
        model = AutoregressiveSlotModel(**shape, likelihood=image_likelihood)
        guide = GenesisV2SlotGuide(**shape, colours=published_colours(kernel, semiconv))
    except ValueError as error:
        raise UserError(f"cannot build GENESIS-v2 for these weights: {error}") from error
    fill({"model": model, "guide": guide}, renamed)
    return model, guide
