"""The authors' GENESIS, two stages."""

import torch

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis import GenesisGuide
from pyro_sri.models.genesis import GenesisModel
from pyro_sri.nn import GENESIS_IMAGE_SIZES
from pyro_sri.official.weights import StateDict, check_scene, check_weights, fill, lstm_cell, rename, size_of
from pyro_sri.system.errors import UserError

_PIXEL_STDS = "std"  # the authors keep the K pixel standard deviations beside their parameters [1, 1, 1, 1, K]

_COMPONENT_DECODER = "comp_vae.decoder_module.seq."  # n convolutions and the last one

# Prefixes of the authors' names and of ours, in this order; the first that fits is taken.
_GENESIS = {
    **{f"att_process.core.q_z_nn.{i}.": f"guide.mask_encoder.{i}." for i in range(6)},
    "att_process.core.q_z_mean.": "guide.first_loc.",
    "att_process.core.q_z_var.0.": "guide.first_raw_scale.",
    **lstm_cell("att_process.lstm", "guide.mask_posterior.lstm"),
    "att_process.linear.": "guide.mask_posterior.head.",
    "att_process.core.p_x_nn.": "model.mask_decoder.layers.",
    "att_process.core.p_x_mean.": "model.mask_decoder.logit.",
    "comp_vae.encoder_module.module.": "guide.component_encoder.layers.",
    _COMPONENT_DECODER: "model.component_decoder.layers.",
    **lstm_cell("prior_lstm", "model.mask_prior.lstm"),
    "prior_linear.": "model.mask_prior.head.",
    "prior_mlp.": "model.component_prior.layers.",
}


def genesis_parameter_name(official_name: str) -> str:
    """Our name of one of the authors' GENESIS parameters or statistics, below `model.` or `guide.`.

    Raises:
        UserError: If the authors' networks have no such parameter.
    """
    return rename(official_name, _GENESIS, "GENESIS")


def load_genesis(
    state_dict: StateDict, *, image_size: int, num_slots: int, pixel_std1: float = 0.7, pixel_std2: float = 0.7
) -> tuple[GenesisModel, GenesisGuide]:
    """Builds GENESIS from the authors' published weights.

    The sizes of latents and component networks are read from the weights, as is the dtype. Images are sampled as the
    authors do, without the tanh on the mask prior's means (`squash_samples=False`).

    Args:
        state_dict: The authors' state dict, under their names.
        image_size: Image side, 32 or 64.
        num_slots: K.
        pixel_std1: sigma of the first slot.
        pixel_std2: sigma of the others.

    Returns:
        Model and guide, in training mode.

    Raises:
        UserError: On unknown, missing, misshapen or non-finite parameters, or settings that do not fit.
    """
    check_scene(image_size, GENESIS_IMAGE_SIZES, num_slots, "GENESIS")
    check_weights(state_dict)
    networks = {name: tensor for name, tensor in state_dict.items() if name != _PIXEL_STDS}
    renamed = {genesis_parameter_name(name): (name, tensor) for name, tensor in networks.items()}
    _check_pixel_stds(state_dict, num_slots, pixel_std1, pixel_std2)

    def size(name: str, dim: int) -> int:
        return size_of(state_dict, name, dim, "GENESIS")

    try:
        model = GenesisModel(
            image_size=image_size,
            num_slots=num_slots,
            mask_slot_size=size("prior_lstm.weight_ih_l0", 1),
            component_slot_size=size("prior_mlp.4.weight", 0) // 2,
            decoder_channels=size(f"{_COMPONENT_DECODER}1.weight", 0),
            decoder_layers=len({n.split(".")[3] for n in networks if n.startswith(_COMPONENT_DECODER)}) - 1,
            likelihood=ImageLikelihood(pixel_std=pixel_std2, first_pixel_std=pixel_std1),
            squash_samples=False,
        )
        guide = GenesisGuide(model, encoder_channels=size("comp_vae.encoder_module.module.0.weight", 0))
    except ValueError as error:
        raise UserError(f"cannot build GENESIS for these weights: {error}") from error
    fill({"model": model, "guide": guide}, renamed)
    return model, guide


def _check_pixel_stds(state_dict: StateDict, num_slots: int, first: float, others: float) -> None:
    """The weights say which pixel standard deviations they were trained with, one for each slot."""
    if _PIXEL_STDS not in state_dict:
        raise UserError(f"the weights lack '{_PIXEL_STDS}': not a state dict of GENESIS?")
    theirs = state_dict[_PIXEL_STDS].double().cpu().flatten()
    if len(theirs) != num_slots:
        raise UserError(f"'{_PIXEL_STDS}' holds {len(theirs)} values for {num_slots} slots: check the number of slots")
    asked = torch.tensor([first] + [others] * (num_slots - 1), dtype=torch.float64)
    if not torch.allclose(theirs, asked, rtol=1e-5):
        held = ", ".join(f"{value:g}" for value in theirs.tolist())
        raise UserError(f"the weights were trained with pixel standard deviations {held}: pass those")
