"""The UNet that turns an image into a feature map of the same size (Ronneberger et al. 2015; Engelcke et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sri.nn.group_norm import GroupNorm

NUM_GROUPS = 8
BOTTLENECK_UNITS = 128

# Widths of the blocks' outputs in multiples of the base width, by image side; the deepest map is 4x4 (6x6 for 96).
_DOWN_WIDTHS = {
    32: (1, 2, 2, 2),
    64: (1, 1, 2, 2, 2),
    96: (1, 1, 2, 2, 2),
    128: (1, 1, 1, 2, 2, 2),
}
_UP_WIDTHS = {
    32: (2, 2, 1, 1),
    64: (2, 2, 1, 1, 1),
    96: (2, 2, 1, 1, 1),
    128: (2, 2, 1, 1, 1, 1),
}
IMAGE_SIZES = tuple(_DOWN_WIDTHS)


class UpConv(nn.Conv2d):
    """A 3x3 convolution of a map of half the resolution, doubled by nearest up-sampling, and a skip connection.

    The doubled map is never computed. Its convolution with 3x3 weights equals a transposed convolution of the small map
    with stride 2. The 4x4 weights for this are the 3x3 ones, each spread over 2x2 pixels. This is half the arithmetic.
    """

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Map from below [N, C, H/2, W/2] and skip [N, in - C, H, W] -> [N, out, H, W]."""
        weight, skip_weight = self.weight.split([below.shape[1], skip.shape[1]], dim=1)
        spread = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1).transpose(0, 1)
        return F.conv2d(skip, skip_weight, padding=1) + F.conv_transpose2d(below, spread, stride=2, padding=1)


class ConvBlock(nn.Sequential):
    """3x3 convolution without bias, group normalisation with 8 groups, ReLU: [N, in, H, W] -> [N, out, H, W]."""

    convolution: type[nn.Conv2d] = nn.Conv2d

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            self.convolution(in_channels, out_channels, 3, padding=1, bias=False),
            GroupNorm(NUM_GROUPS, out_channels),
            nn.ReLU(inplace=True),
        )


class UpBlock(ConvBlock):
    """A block on a map of half the resolution from below, and a skip connection."""

    convolution = UpConv

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Map from below [N, C, H/2, W/2] and skip [N, in - C, H, W] -> [N, out, H, W]."""
        convolution, *rest = self
        x = convolution(below, skip)
        for layer in rest:
            x = layer(x)
        return x


class UNet(nn.Module):
    """Image encoder of GENESIS-v2 (Engelcke et al. 2021, appendix B).

    Args:
        image_size: Image side, one of 32, 64, 96, 128.
        features: Output channels F, a multiple of 8, at most 64.

    Raises:
        ValueError: If the image size or the number of features is not supported.
    """

    def __init__(self, image_size: int, features: int) -> None:
        super().__init__()
        if image_size not in IMAGE_SIZES:
            raise ValueError(f"image size {image_size} does not fit the UNet: it takes 32, 64, 96 or 128")
        if features % NUM_GROUPS or not 0 < features <= 64:
            raise ValueError(f"{features} features do not fit the UNet: it takes a multiple of {NUM_GROUPS} up to 64")
        down = [features * width for width in _DOWN_WIDTHS[image_size]]
        up = [features * width for width in _UP_WIDTHS[image_size]]
        self.down = nn.ModuleList(ConvBlock(i, o) for i, o in zip([3, *down], down, strict=False))
        below = [down[-1], *up]  # what comes from below, beside the skip of the same resolution
        kinds = [ConvBlock] + (len(up) - 1) * [UpBlock]  # the deepest has the resolution of what comes from below
        widths = zip(below, reversed(down), up, strict=False)
        self.up = nn.ModuleList(kind(b + skip, o) for kind, (b, skip, o) in zip(kinds, widths, strict=True))
        side = image_size >> (len(down) - 1)
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(down[-1] * side**2, BOTTLENECK_UNITS),
            nn.ReLU(inplace=True),
            nn.Linear(BOTTLENECK_UNITS, BOTTLENECK_UNITS),
            nn.ReLU(inplace=True),
            nn.Linear(BOTTLENECK_UNITS, down[-1] * side**2),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (down[-1], side, side)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, F, H, W]."""
        skips = [self.down[0](images.contiguous(memory_format=torch.channels_last))]
        for block in self.down[1:]:
            skips.append(block(skips[-1][:, :, ::2, ::2]))  # nearest down-sampling by 2
        deepest, *up = self.up
        x = deepest(torch.cat([self.mlp(skips[-1]), skips.pop()], dim=1))
        for block in up:
            x = block(x, skips.pop())
        return x
