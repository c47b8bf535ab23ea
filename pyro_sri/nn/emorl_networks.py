"""Small networks of EMORL: the conditional prior of a layer, and the refinement of a posterior (Emami et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 128


class LayerPrior(nn.Module):
    """p(z_l | neighbouring layer), slot by slot, with the same network for all layers."""

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(slot_size, HIDDEN), nn.ELU())
        self.loc = nn.Linear(HIDDEN, slot_size)
        self.raw_scale = nn.Linear(HIDDEN, slot_size)

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots of the neighbouring layer [B, K, D] -> mean and raw scale, each [B, K, D]."""
        hidden = self.hidden(slots)
        return self.loc(hidden), self.raw_scale(hidden)


class RefinementNetwork(nn.Module):
    """Computes an update of a posterior from the posterior and the gradient of its loss.

    Args:
        slot_size: D.
    """

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.encoding = nn.Sequential(nn.Linear(4 * slot_size, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, slot_size))
        self.recurrence = nn.GRUCell(slot_size, slot_size)
        self.loc = nn.Linear(slot_size, slot_size)
        self.raw_scale = nn.Linear(slot_size, slot_size)

    def forward(
        self, loc: Tensor, raw_scale: Tensor, gradients: tuple[Tensor, Tensor], state: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            loc: Mean [B, K, D].
            raw_scale: Raw scale [B, K, D].
            gradients: Gradients of the loss with respect to both. They are treated as constants and normalised here.
            state: Memory of earlier steps [B, K, D], or None at the first step.

        Returns:
            Changes of mean and raw scale, and the next memory, each [B, K, D].
        """
        normalised = [F.layer_norm(gradient.detach(), gradient.shape[-1:]) for gradient in gradients]
        inputs = self.encoding(torch.cat([loc, raw_scale, *normalised], dim=-1)).flatten(0, 1)
        memory = self.recurrence(inputs, None if state is None else state.flatten(0, 1)).view_as(loc)
        return self.loc(memory), self.raw_scale(memory), memory
