"""The decoders of slots, by name."""

from typing import Literal

from pyro_sri.nn.decoder import SlotDecoder
from pyro_sri.nn.position_decoder import PositionDecoder, PositionDecoderKind
from pyro_sri.system.choices import check_choice

SlotDecoderKind = Literal[PositionDecoderKind, "genesis_v2"]


def slot_decoder(image_size: int, slot_size: int, kind: SlotDecoderKind) -> SlotDecoder | PositionDecoder:
    """A new decoder: one of EMORL's ("iodine", "big", "small"), or GENESIS-v2's, which costs much less.

    Raises:
        ValueError: If the kind is unknown or does not support the image size.
    """
    check_choice(kind, SlotDecoderKind, "decoder")
    return SlotDecoder(image_size, slot_size) if kind == "genesis_v2" else PositionDecoder(image_size, slot_size, kind)
