"""The authors' Slot Attention, as EfficientMORL's release ships it."""

from typing import Any

from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.models.slot_attention import SlotAttentionModel
from pyro_sri.nn import PositionDecoderKind
from pyro_sri.official.weights import StateDict, check_weights, fill, size_of
from pyro_sri.system.errors import UserError

# Prefixes of the authors' names and of ours.
_SLOT_ATTENTION = {
    "init_slots": "guide.initial_slots.learnt",
    "pos_embed_projection.": "guide.features.position.projection.",
    "encoder_pt_1.": "guide.features.convolutions.",
    "encoder_pt_2.": "guide.features.mlp.",
    "norm_slots.": "guide.attention.norm.",
    "to_q.": "guide.attention.query.",
    "to_k.": "guide.attention.key.",
    "to_v.": "guide.attention.value.",
    "gru.weight_ih_l0": "guide.gru.weight_ih",
    "gru.weight_hh_l0": "guide.gru.weight_hh",
    "gru.bias_ih_l0": "guide.gru.bias_ih",
    "gru.bias_hh_l0": "guide.gru.bias_hh",
    "norm_pre_ff.": "guide.mlp.norm.",
    "mlp.": "guide.mlp.mlp.",
    "image_decoder.decode.": "model.decoder.layers.",
    "image_decoder.pos_embed_projection.": "model.decoder.position.projection.",
}


def slot_attention_parameter_name(official_name: str) -> str:
    """Our name of one of the authors' Slot Attention parameters, below `model.` or `guide.`.

    Raises:
        UserError: If the authors' networks have no such parameter.
    """
    for theirs, ours in _SLOT_ATTENTION.items():
        if official_name.startswith(theirs):
            return ours + official_name.removeprefix(theirs)
    raise UserError(f"the weights hold '{official_name}', which Slot Attention does not have")


def load_slot_attention(
    state_dict: StateDict, *, image_size: int, num_slots: int, decoder: PositionDecoderKind = "small"
) -> tuple[SlotAttentionModel, SlotAttentionGuide]:
    """Builds the Slot Attention auto-encoder from the authors' published weights.

    The slot size is read from the weights, as is the dtype.

    Args:
        state_dict: The authors' state dict, under their names.
        image_size: Image side.
        num_slots: K.
        decoder: "iodine", "big" or "small".

    Returns:
        Model and guide.

    Raises:
        UserError: On unknown, missing, misshapen or non-finite parameters, or settings that do not fit.
    """
    if num_slots < 1:
        raise UserError(f"{num_slots} slots are too few: Slot Attention needs at least 1")
    check_weights(state_dict)
    renamed = {slot_attention_parameter_name(name): (name, tensor) for name, tensor in state_dict.items()}
    slot_size = size_of(state_dict, "to_q.weight", 0, "Slot Attention")
    shape: dict[str, Any] = {"image_size": image_size, "num_slots": num_slots, "slot_size": slot_size}
    try:
        model = SlotAttentionModel(**shape, decoder=decoder)
    except ValueError as error:
        raise UserError(f"cannot build Slot Attention for these weights: {error}") from error
    guide = SlotAttentionGuide(**shape)
    fill({"model": model, "guide": guide}, renamed)
    return model, guide
