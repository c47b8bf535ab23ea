"""The slot decoders of EMORL and Slot Attention: a broadcast with a position code, then convolutions."""

from typing import Literal

from torch import Tensor, nn

from pyro_sri.nn.broadcast_conv import broadcast_conv
from pyro_sri.nn.decoder import UPSAMPLING, SlotImages
from pyro_sri.nn.position_code import PositionCode
from pyro_sri.nn.precision import in_single
from pyro_sri.system.choices import check_choice

PositionDecoderKind = Literal["iodine", "big", "small"]

_IODINE_MARGIN = 10  # five 3x3 convolutions without padding each take off 2 pixels
_SMALL_MARGIN = 6  # three 5x5 convolutions with padding 1 do


class PositionDecoder(nn.Module):
    """Decodes each slot separately to a colour and a mask logit. Masks are the softmax over slots.

    Args:
        image_size: Image side S. For "big", it must be a multiple of 16 (96 in the published runs).
        slot_size: D.
        kind: "iodine": five 3x3 convolutions of 64 channels from a grid of side S + 10 (Greff et al. 2019); "small":
            three 5x5 and one 3x3 convolution of 32 channels from S + 6; "big": five 5x5 transposed convolutions of 64
            channels, four of them doubling the side, and a 3x3 one, from S / 16 (Locatello et al. 2020).

    Raises:
        ValueError: If the kind is unknown or does not support the image size.
    """

    def __init__(self, image_size: int, slot_size: int, kind: PositionDecoderKind = "iodine") -> None:
        super().__init__()
        check_choice(kind, PositionDecoderKind, "decoder")
        if image_size < 1:
            raise ValueError(f"image size {image_size} does not fit the decoder: it must be positive")
        if kind == "big" and image_size % UPSAMPLING:
            raise ValueError(
                f"image size {image_size} does not fit the decoder 'big': it takes multiples of {UPSAMPLING}"
            )
        convolutions: list[nn.Module] = []
        if kind == "iodine":
            start = image_size + _IODINE_MARGIN
            convolutions += [nn.Conv2d(i, 64, 3) for i in (slot_size, 64, 64, 64)]
            convolutions += [nn.Conv2d(64, 4, 3)]
        elif kind == "small":
            start = image_size + _SMALL_MARGIN
            convolutions += [nn.Conv2d(i, 32, 5, padding=1) for i in (slot_size, 32, 32)]
            convolutions += [nn.Conv2d(32, 4, 3, padding=1)]
        else:
            start = image_size // UPSAMPLING
            for channels in (slot_size, 64, 64, 64):
                convolutions.append(nn.ConvTranspose2d(channels, 64, 5, stride=2, padding=2, output_padding=1))
            convolutions += [nn.ConvTranspose2d(64, 64, 5, padding=2), nn.ConvTranspose2d(64, 4, 3, padding=1)]
        layers: list[nn.Module] = []
        for convolution in convolutions:
            layers += [convolution, nn.ELU(inplace=True) if kind == "iodine" else nn.ReLU(inplace=True)]
        self.position = PositionCode(start, slot_size)
        self.layers = nn.Sequential(*layers[:-1])  # none after the last

    def forward(self, slots: Tensor) -> SlotImages:
        """Slots [B, K, D] -> their images."""
        _, *layers = self.layers
        decoded = self._first(slots.flatten(0, 1))
        for layer in layers:
            decoded = layer(decoded)
        decoded = decoded.unflatten(0, slots.shape[:2])  # [B, K, 4, H, W]
        decoded = in_single(decoded)
        return SlotImages(decoded[:, :, :3].sigmoid(), decoded[:, :, 3:].log_softmax(dim=1))

    def _first(self, slots: Tensor) -> Tensor:
        """Slots [N, D] -> the first layer's maps of the slots copied over the grid, with the position code."""
        code, convolution = self.position.code(), self.layers[0]  # [D, g, g]
        if isinstance(convolution, nn.Conv2d):
            return broadcast_conv(convolution, slots, code)
        return convolution(slots[:, :, None, None] + code)  # a few pixels
