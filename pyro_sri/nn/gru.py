"""The recurrent updates of a slot posterior's mean and raw scale (Emami et al. 2021)."""

import torch
from torch import Tensor, nn


class DualGRU(nn.Module):
    """Two independent GRU cells that read the same update, one for the mean and one for the raw scale."""

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.loc = nn.GRUCell(slot_size, slot_size)
        self.raw_scale = nn.GRUCell(slot_size, slot_size)

    def forward(self, updates: Tensor, loc: Tensor, raw_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Updates, mean and raw scale, each [B, K, D] -> the next mean and raw scale."""
        inputs = updates.flatten(0, 1)
        return (
            self.loc(inputs, loc.flatten(0, 1)).view_as(loc),
            self.raw_scale(inputs, raw_scale.flatten(0, 1)).view_as(raw_scale),
        )


class JointGRU(nn.Module):
    """One GRU cell over mean and raw scale together: they can exchange information."""

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(slot_size, 2 * slot_size)
        self.cell = nn.GRUCell(2 * slot_size, 2 * slot_size)

    def forward(self, updates: Tensor, loc: Tensor, raw_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Updates, mean and raw scale, each [B, K, D] -> the next mean and raw scale."""
        state = torch.cat([loc, raw_scale], dim=-1).flatten(0, 1)
        state = self.cell(self.projection(updates).flatten(0, 1), state)
        loc, raw_scale = state.view(*loc.shape[:2], -1).chunk(2, dim=-1)
        return loc, raw_scale
