"""Pixel coordinates, and the layer that copies a vector over a grid of them."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


def coordinate_grid(size: int, dtype: torch.dtype | None = None) -> Tensor:
    """Row and column coordinates of a square image.

    Args:
        size: Image side in pixels.
        dtype: Floating point type; the default one if None.

    Returns:
        Tensor [2, size, size] in [-1, 1]: channel 0 changes from top to bottom, channel 1 from left to right.
    """
    line = torch.linspace(-1.0, 1.0, size, dtype=dtype)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))


class PixelCoordinates(nn.Module):
    """The coordinate grid as a constant that follows its module's device and is exact in its dtype.

    Attributes:
        grid: Tensor [2, size, size] in [-1, 1]; not part of the state dict.
    """

    grid: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("grid", coordinate_grid(size), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # A float32 grid cast to float64 would be 1e-8 off.
        self.grid = coordinate_grid(self.size, self.grid.dtype).to(self.grid.device)
        return self


class SpatialBroadcast(PixelCoordinates):
    """Copies vectors over a grid and appends the two coordinate channels (Watters et al. 2019)."""

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, D] -> [N, D + 2, size, size]."""
        copies = vectors[:, :, None, None].expand(-1, -1, self.size, self.size)  # [N, D, size, size]
        grid = self.grid.expand(len(vectors), -1, -1, -1)  # [N, 2, size, size]
        return torch.cat([copies, grid], dim=1)
