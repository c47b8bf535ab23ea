"""Features of pixels that start from the picture itself: not published, for short trainings."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sri.nn.coordinates import PixelCoordinates
from pyro_sri.nn.slot_attention import FEATURES, PixelFeatures
from pyro_sri.system.choices import check_choice

PixelFeaturesKind = Literal["convolutions", "picture"]

# Keys are random projections of the features at the start, with weights of about 0.07. With these factors, the colours
# of two objects differ by about 1 in each dimension of a key, and their positions by less.
COLOUR_WEIGHT = 16.0
POSITION_WEIGHT = 4.0


class PictureFeatures(nn.Module):
    r"""The colour and position of each pixel, plus a small network.

    .. math:: h_p = [a\, rgb_p, b\, y_p, b\, x_p, 0 ..] + f(rgb, y, x)_p

    f is a 5x5 convolution and an MLP for each pixel. The first term outweighs f at the start. So pixels of similar
    colour and position have similar keys, and the first attention masks are pieces of one colour, which take the
    published convolutions thousands of steps to find.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.coordinates = PixelCoordinates(image_size)
        self.network = nn.Sequential(
            nn.Conv2d(5, FEATURES, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(FEATURES, FEATURES, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(FEATURES, FEATURES, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features of the pixels, row by row: [B, P, 64]."""
        colours = 2 * images - 1
        grid = self.coordinates.grid.expand(len(images), -1, -1, -1)
        start = torch.cat([COLOUR_WEIGHT * colours, POSITION_WEIGHT * grid], dim=1)  # [B, 5, H, W]
        maps = self.network(torch.cat([colours, grid], dim=1))
        return maps.flatten(2).mT + F.pad(start.flatten(2).mT, (0, FEATURES - start.shape[1]))


def pixel_features(image_size: int, kind: PixelFeaturesKind) -> PixelFeatures | PictureFeatures:
    """The published convolutions, or features that start from the picture.

    Raises:
        ValueError: If the kind is unknown.
    """
    check_choice(kind, PixelFeaturesKind, "pixel_features")
    return PixelFeatures(image_size) if kind == "convolutions" else PictureFeatures(image_size)
