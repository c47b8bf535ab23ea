"""A code for the positions of pixels that is added to a feature map (Locatello et al. 2020)."""

import torch
from torch import Tensor, nn

from pyro_sri.nn.coordinates import PixelCoordinates


class PositionCode(PixelCoordinates):
    """Adds a linear map of each pixel's relative distances to the top, bottom, left and right border.

    Args:
        size: Side of the maps in pixels.
        features: Channels F of the maps.
    """

    def __init__(self, size: int, features: int) -> None:
        super().__init__(size)
        self.projection = nn.Linear(4, features)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [N, F, size, size] -> [N, F, size, size]."""
        return maps + self.code()

    def code(self) -> Tensor:
        """What is added to each map [F, size, size]."""
        rows, columns = (1 + self.grid) / 2
        distances = torch.stack([1 - rows, rows, columns, 1 - columns], dim=-1)  # [size, size, 4]
        return self.projection(distances).movedim(-1, 0)
