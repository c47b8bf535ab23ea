"""The spatial broadcast decoder with transposed convolutions (Watters et al. 2019; Engelcke et al. 2021)."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_sri.nn.coordinates import SpatialBroadcast
from pyro_sri.nn.group_norm import GroupNorm
from pyro_sri.nn.precision import in_single
from pyro_sri.nn.transposed_conv import TransposedConv
from pyro_sri.nn.unet import NUM_GROUPS

UPSAMPLING = 16  # four transposed convolutions of stride 2


class SlotImages(NamedTuple):
    """The appearance of the slots.

    Attributes:
        rgb: Colour of each slot [B, K, 3, H, W] in [0, 1].
        log_masks: Log mask probabilities [B, K, 1, H, W], normalised over K.
    """

    rgb: Tensor
    log_masks: Tensor


class SlotDecoder(nn.Module):
    """Decodes each slot separately to a colour and a mask logit. Masks are the softmax over slots.

    Args:
        image_size: Image side, a multiple of 16.
        slot_size: D, a multiple of 8.

    Raises:
        ValueError: If the image size is not a multiple of 16.
    """

    def __init__(self, image_size: int, slot_size: int) -> None:
        super().__init__()
        if image_size % UPSAMPLING:
            raise ValueError(f"image size {image_size} does not fit the decoder: it takes multiples of {UPSAMPLING}")
        narrow = min(slot_size, 64)
        layers: list[nn.Module] = [SpatialBroadcast(image_size // UPSAMPLING)]
        widths = [slot_size + 2, slot_size, slot_size, narrow, narrow]
        for in_channels, out_channels in itertools.pairwise(widths):
            layers += [
                TransposedConv(in_channels, out_channels, 5, stride=2, padding=2, output_padding=1),
                GroupNorm(NUM_GROUPS, out_channels),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(narrow, 4, 1))

    def forward(self, slots: Tensor) -> SlotImages:
        """Slots [B, K, D] -> their images."""
        _, _, *layers = self.layers
        decoded = self._first(slots.flatten(0, 1))
        for layer in layers:
            decoded = layer(decoded)
        decoded = decoded.contiguous().unflatten(0, slots.shape[:2])  # [B, K, 4, H, W], channels first
        decoded = in_single(decoded)
        return SlotImages(decoded[:, :, :3].sigmoid(), decoded[:, :, 3:].log_softmax(dim=1))

    def _first(self, slots: Tensor) -> Tensor:
        """Slots [N, D] -> the first convolution of the broadcast slots [N, C, h, w].

        It is affine in a slot, so its values for zeros and for the unit vectors determine it.
        """
        broadcast, convolution, *_ = self.layers
        units = torch.eye(slots.shape[1], dtype=slots.dtype, device=slots.device)
        examples = torch.cat([torch.zeros_like(units[:1]), units])
        # Channels last, all layers follow: with TransposedConv a fifth faster on CPUs. (Weights must stay as they are:
        # Pyro's parameter store would copy them, and SVI train the copies.)
        responses = convolution(broadcast(examples).contiguous(memory_format=torch.channels_last))  # [D + 1, C, h, w]
        responses = responses.permute(0, 2, 3, 1)  # [D + 1, h, w, C]
        offset, slopes = responses[0], responses[1:] - responses[0]
        convolved = torch.addmm(offset.flatten(), slots, slopes.flatten(1))  # [N, h * w * C]
        return convolved.unflatten(1, offset.shape).permute(0, 3, 1, 2)
