"""The networks of GENESIS: masks from mask latents, components from component latents, and back."""

import itertools

import torch
from torch import Tensor, nn

from pyro_sri.nn.broadcast_conv import broadcast_conv
from pyro_sri.nn.coordinates import SpatialBroadcast
from pyro_sri.nn.gated_conv import GatedConv
from pyro_sri.nn.stick_breaking import break_stick

GENESIS_IMAGE_SIZES = (32, 64)
MASK_FEATURES = 256

_STRIDES = (1, 2, 1, 2, 1)  # of the mask encoder and the mask decoder


def _deepest_side(image_size: int) -> int:
    if image_size not in GENESIS_IMAGE_SIZES:
        raise ValueError(f"image size {image_size} does not fit GENESIS: it takes 32 or 64")
    return image_size // 4


class MaskEncoder(nn.Sequential):
    """Image encoder of the mask latents: images [B, 3, H, W] in [0, 1] -> features [B, 256].

    Args:
        image_size: Image side, 32 or 64.
        channels: Channels of the first two layers; the other three have twice as many.

    Raises:
        ValueError: If the image size is not supported.
    """

    def __init__(self, image_size: int, channels: int = 32) -> None:
        side = _deepest_side(image_size)
        widths = (3, channels, channels, 2 * channels, 2 * channels, 2 * channels)
        super().__init__(
            *(
                GatedConv(nn.Conv2d(i, 2 * o, 5, stride=stride, padding=2))
                for (i, o), stride in zip(itertools.pairwise(widths), _STRIDES, strict=True)
            ),
            GatedConv(nn.Conv2d(widths[-1], 2 * MASK_FEATURES, side), normalise=False),
            nn.Flatten(),
        )


class MaskDecoder(nn.Module):
    """Decodes the mask latents of all slots as one batch, and computes masks from the logits by stick-breaking.

    Args:
        image_size: Image side, 32 or 64.
        mask_slot_size: L.
        channels: Channels of the last four layers; the first two have twice as many.

    Raises:
        ValueError: If the image size is not supported.
    """

    def __init__(self, image_size: int, mask_slot_size: int, channels: int = 32) -> None:
        super().__init__()
        side = _deepest_side(image_size)
        widths = (2 * channels, 2 * channels, channels, channels, channels, channels)
        first = nn.ConvTranspose2d(mask_slot_size, 2 * widths[0], side)
        self.layers = nn.Sequential(
            GatedConv(first, normalise=False),
            *(
                GatedConv(nn.ConvTranspose2d(i, 2 * o, 5, stride=stride, padding=2, output_padding=stride - 1))
                for (i, o), stride in zip(itertools.pairwise(widths), _STRIDES, strict=True)
            ),
        )
        self.logit = nn.Conv2d(widths[-1], 1, 1)

    def logits(self, mask_slots: Tensor) -> Tensor:
        """Mask latents [B, K, L] -> logits [B, K, 1, H, W] of the share of the remainder that each mask takes."""
        vectors = mask_slots.flatten(0, 1)[:, :, None, None]  # [BK, L, 1, 1]
        return self.logit(self.layers(vectors)).unflatten(0, mask_slots.shape[:2])

    def forward(self, mask_slots: Tensor) -> Tensor:
        """Mask latents [B, K, L] -> log masks [B, K, 1, H, W]; the masks sum to 1 over K."""
        return break_stick(self.logits(mask_slots))[0]


class ComponentEncoder(nn.Module):
    """Image and log mask of each slot -> mean and raw scale of its component latent.

    Args:
        image_size: Image side, 32 or 64.
        component_slot_size: C.
        channels: Channels of the first two layers; the other two have twice as many.
    """

    def __init__(self, image_size: int, component_slot_size: int, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise((4, channels, channels, 2 * channels, 2 * channels)):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ELU()]
        units = max(256, 2 * component_slot_size)
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(2 * channels * (image_size // 16) ** 2, units),
            nn.ELU(),
            nn.Linear(units, 2 * component_slot_size),
        )

    def forward(self, images: Tensor, log_masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and log masks [B, K, 1, H, W] -> mean and raw scale, each [B, K, C]."""
        copies = images[:, None].expand(-1, log_masks.shape[1], -1, -1, -1)  # [B, K, 3, H, W]
        pairs = torch.cat([log_masks, copies], dim=2)  # [B, K, 4, H, W]
        loc, raw_scale = self.layers(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2]).chunk(2, dim=-1)
        return loc, raw_scale


class ComponentDecoder(nn.Module):
    """Spatial broadcast decoder of the components' colours (Watters et al. 2019).

    Args:
        image_size: Image side.
        component_slot_size: C.
        channels: Channels of the hidden layers.
        num_layers: Number n of unpadded 3x3 convolutions. The vectors are broadcast to side H + 2n.
    """

    def __init__(self, image_size: int, component_slot_size: int, channels: int = 32, num_layers: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [SpatialBroadcast(image_size + 2 * num_layers)]
        for i, o in itertools.pairwise([component_slot_size + 2, *[channels] * num_layers]):
            layers += [nn.Conv2d(i, o, 3), nn.ELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 3, 1), nn.Sigmoid())

    def forward(self, component_slots: Tensor) -> Tensor:
        """Component latents [B, K, C] -> colours [B, K, 3, H, W] in [0, 1]."""
        broadcast, convolution, *layers = self.layers
        assert isinstance(convolution, nn.Conv2d)
        vectors = component_slots.flatten(0, 1)  # [B K, C]
        decoded = broadcast_conv(convolution, vectors, broadcast(torch.zeros_like(vectors[:1]))[0])
        for layer in layers:
            decoded = layer(decoded)
        return decoded.unflatten(0, component_slots.shape[:2])


class ComponentPrior(nn.Module):
    """p(z^c_k | z^m_k), the prior of a component given its mask latent."""

    def __init__(self, mask_slot_size: int, component_slot_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(mask_slot_size, 256),
            nn.ELU(),
            nn.Linear(256, 256),
            nn.ELU(),
            nn.Linear(256, 2 * component_slot_size),
        )

    def forward(self, mask_slots: Tensor) -> tuple[Tensor, Tensor]:
        """Mask latents [.., L] -> mean and raw scale of the component latents, each [.., C]."""
        loc, raw_scale = self.layers(mask_slots).chunk(2, dim=-1)
        return loc, raw_scale
