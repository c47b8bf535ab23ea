"""The authors' EfficientMORL."""

from typing import Literal

import torch
from torch import Tensor

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.models.emorl import EMORLModel, HierarchicalPriorKind
from pyro_sri.nn import PositionDecoderKind
from pyro_sri.objectives import EmorlGECO
from pyro_sri.official.weights import StateDict, check_weights, fill, size_of
from pyro_sri.system.errors import UserError

GECO_NAMES = ("geco_C_ema", "geco_beta")
DUAL_GRU = "hvae_networks.gru.cell."

# Prefixes of the authors' names and of ours.
_EMORL = {
    "hvae_networks.init_posterior": "guide.initial_slots.learnt",
    "hvae_networks.pos_embed_projection.": "guide.features.position.projection.",
    "hvae_networks.encoder_pt_1.": "guide.features.convolutions.",
    "hvae_networks.encoder_pt_2.": "guide.features.mlp.",
    "hvae_networks.norm_slots.": "guide.attention.norm.",
    "hvae_networks.to_q.": "guide.attention.query.",
    "hvae_networks.to_k.": "guide.attention.key.",
    "hvae_networks.to_v.": "guide.attention.value.",
    "hvae_networks.gru.weight_ih_l0": "guide.gru.cell.weight_ih",
    "hvae_networks.gru.weight_hh_l0": "guide.gru.cell.weight_hh",
    "hvae_networks.gru.bias_ih_l0": "guide.gru.cell.bias_ih",
    "hvae_networks.gru.bias_hh_l0": "guide.gru.cell.bias_hh",
    "hvae_networks.project_update.": "guide.gru.projection.",
    "hvae_networks.norm_mu_pre_ff.": "guide.loc_mlp.norm.",
    "hvae_networks.mlp_mu.": "guide.loc_mlp.mlp.",
    "hvae_networks.norm_softplus_pre_ff.": "guide.raw_scale_mlp.norm.",
    "hvae_networks.mlp_softplus.": "guide.raw_scale_mlp.mlp.",
    "hvae_networks.image_decoder.decode.": "model.decoder.layers.",
    "hvae_networks.image_decoder.pos_embed_projection.": "model.decoder.position.projection.",
    "hvae_networks.indep_prior.z_linear.": "model.prior.network.hidden.",
    "hvae_networks.indep_prior.z_mu.": "model.prior.network.loc.",
    "hvae_networks.indep_prior.z_softplus.": "model.prior.network.raw_scale.",
    "refinenet.recurrence.weight_ih_l0": "guide.refinement.network.recurrence.weight_ih",
    "refinenet.recurrence.weight_hh_l0": "guide.refinement.network.recurrence.weight_hh",
    "refinenet.recurrence.bias_ih_l0": "guide.refinement.network.recurrence.bias_ih",
    "refinenet.recurrence.bias_hh_l0": "guide.refinement.network.recurrence.bias_hh",
    "refinenet.encoding.": "guide.refinement.network.encoding.",
    "refinenet.loc.": "guide.refinement.network.loc.",
    "refinenet.softplus.": "guide.refinement.network.raw_scale.",
}


def emorl_parameter_name(official_name: str) -> str:
    """Our name of one of the authors' EMORL parameters, below `model.` or `guide.`.

    The ten tensors of the dual GRU (`DUAL_GRU`) have none: ours are two ordinary GRU cells made of their parts.

    Raises:
        UserError: If the authors' networks have no such parameter.
    """
    for theirs, ours in _EMORL.items():
        if official_name.startswith(theirs):
            return ours + official_name.removeprefix(theirs)
    raise UserError(f"the weights hold '{official_name}', which EMORL does not have")


def _take_gru_cells(weights: dict[str, Tensor], slot_size: int) -> dict[str, tuple[str, Tensor]]:
    """Takes the dual GRU out of the weights and makes two GRU cells of it: our name -> (one of theirs, tensor).

    Theirs hold, of cells j = 1, 2, the weights of the reset and update gates and of the candidate apart, and the biases
    of both cells together: `weight_ih_j`, `weight_in_j`, `bias_ih`, `bias_in` for the input, `hh`, `hn` for the state.
    """
    shapes = {f"weight_{gates}_{j}": [2 * slot_size, slot_size] for gates in ("ih", "hh") for j in (1, 2)}
    shapes |= {f"weight_{candidate}_{j}": [slot_size, slot_size] for candidate in ("in", "hn") for j in (1, 2)}
    shapes |= {"bias_ih": [4 * slot_size], "bias_hh": [4 * slot_size]}
    shapes |= {"bias_in": [2 * slot_size], "bias_hn": [2 * slot_size]}
    theirs = {}
    for name, shape in shapes.items():
        official_name = DUAL_GRU + name
        if official_name not in weights:
            raise UserError(f"the weights lack '{official_name}'")
        theirs[name] = weights.pop(official_name)
        if list(theirs[name].shape) != shape:
            raise UserError(f"'{official_name}' has shape {list(theirs[name].shape)} where this network has {shape}")
    cells = {}
    for j, ours in ((1, "guide.gru.loc."), (2, "guide.gru.raw_scale.")):
        for gates, candidate in (("ih", "in"), ("hh", "hn")):
            weight = torch.cat([theirs[f"weight_{gates}_{j}"], theirs[f"weight_{candidate}_{j}"]])
            bias = torch.cat([theirs[f"bias_{kind}"].chunk(2)[j - 1] for kind in (gates, candidate)])
            cells[f"{ours}weight_{gates}"] = (f"{DUAL_GRU}weight_{gates}_{j}", weight)
            cells[f"{ours}bias_{gates}"] = (f"{DUAL_GRU}bias_{gates}", bias)
    return cells


def load_emorl(
    state_dict: StateDict,
    *,
    image_size: int,
    num_slots: int,
    num_layers: int = 3,
    prior: HierarchicalPriorKind = "rpp",
    likelihood: Literal["mog", "gaussian"] = "gaussian",
    pixel_std: float = 0.3,
    decoder: PositionDecoderKind = "iodine",
    refinement_steps: int = 0,
) -> tuple[EMORLModel, EMORLGuide]:
    """Builds EMORL from the authors' published weights.

    The slot size and the kind of GRU are read from the weights, as is the dtype. The objective's state, which they hold
    too, is left to `load_emorl_geco`.

    Args:
        state_dict: The authors' state dict, under their names.
        image_size: Image side.
        num_slots: K.
        num_layers: L, "stochastic layers"; no weight depends on it.
        prior: "rpp", "rev" or "bu".
        likelihood: "mog" or "gaussian", both unnormalised as the authors have them.
        pixel_std: sigma.
        decoder: "iodine", "big" or "small".
        refinement_steps: I of the guide.

    Returns:
        Model and guide, which owns the refinement network.

    Raises:
        UserError: On unknown, missing, misshapen or non-finite parameters, or settings that do not fit.
    """
    if num_slots < 1:
        raise UserError(f"{num_slots} slots are too few: EMORL needs at least 1")
    check_weights(state_dict)
    slot_size = size_of(state_dict, "hvae_networks.to_q.weight", 0, "EMORL")
    weights = {name: tensor for name, tensor in state_dict.items() if name not in GECO_NAMES}
    dual_gru = any(name.startswith(DUAL_GRU) for name in weights)
    renamed = _take_gru_cells(weights, slot_size) if dual_gru else {}
    renamed |= {emorl_parameter_name(name): (name, tensor) for name, tensor in weights.items()}
    try:
        model = EMORLModel(
            image_size=image_size,
            num_slots=num_slots,
            slot_size=slot_size,
            num_layers=num_layers,
            prior=prior,
            likelihood=ImageLikelihood(kind=likelihood, pixel_std=pixel_std, normalised=False),
            decoder=decoder,
        )
        guide = EMORLGuide(model, dual_gru=dual_gru, refinement_steps=refinement_steps)
    except ValueError as error:
        raise UserError(f"cannot build EMORL for these weights: {error}") from error
    fill({"model": model, "guide": guide}, renamed)
    return model, guide


def load_emorl_geco(state_dict: StateDict, geco: EmorlGECO) -> None:
    """Sets a controller to where the authors' training left theirs.

    Raises:
        UserError: If the weights lack its two numbers.
    """
    for name, buffer in zip(GECO_NAMES, (geco.slack_ema, geco.beta), strict=True):
        if name not in state_dict or state_dict[name].numel() != 1:
            raise UserError(f"the weights have no number '{name}': they do not hold a state of GECO")
        buffer.copy_(state_dict[name].reshape(()))
    geco.started.fill_(True)
