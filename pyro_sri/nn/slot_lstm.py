"""The two LSTMs over the ordered slots (Emami et al. 2023, equations 2 and 7)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_sri.nn.precision import in_single, without_autocast

HIDDEN_FACTOR = 4  # LSTM units per slot dimension
UNIT_RAW_SCALE = math.log(math.expm1(1 - 1e-5))  # what `sri_scale` maps to 1


class PriorState(NamedTuple):
    """The state of the slot prior between slots.

    Attributes:
        hidden: Hidden state of the LSTM [B, units].
        cell: Cell state of the LSTM [B, units].
        weight: The weights of the two heads as one matrix [2D, units].
        bias: Their biases [2D].
    """

    hidden: Tensor
    cell: Tensor
    weight: Tensor
    bias: Tensor


class SlotPrior(nn.Module):
    """p(z_k | z_<k, s): an LSTM whose first input is GELU(Linear(s)) and whose k-th input is z_{k-1}.

    Run it one slot at a time:

        loc, raw_scale, state = prior.first(scene)
        ... z_0 ...
        loc, raw_scale, state = prior.step(z_0, state)
        ... z_1 ...

    Args:
        slot_size: D.
        scene_size: S. 0 means no scene variable. Then p(z_0) = N(0, I), and the LSTM starts with z_0.
        units: LSTM units. None means four for each slot dimension, as published.
    """

    def __init__(self, slot_size: int, scene_size: int, units: int | None = None) -> None:
        super().__init__()
        hidden = units or HIDDEN_FACTOR * slot_size
        self.first_input = nn.Sequential(nn.Linear(scene_size, slot_size), nn.GELU()) if scene_size else None
        self.lstm = nn.LSTMCell(slot_size, hidden)
        self.loc = nn.Linear(hidden, slot_size)
        self.raw_scale = nn.Linear(hidden, slot_size)

    def first(self, scene: Tensor) -> tuple[Tensor, Tensor, PriorState]:
        """Scene [B, S], S = 0 without one -> mean [B, D], raw scale [B, D] of the first slot, and the state."""
        zeros = scene.new_zeros(len(scene), self.lstm.hidden_size)
        weight = torch.cat([self.loc.weight, self.raw_scale.weight])
        state = PriorState(zeros, zeros, weight, torch.cat([self.loc.bias, self.raw_scale.bias]))
        if self.first_input is not None:
            return self.step(self.first_input(scene), state)
        loc = scene.new_zeros(len(scene), self.lstm.input_size)
        return loc, loc + UNIT_RAW_SCALE, state

    def step(self, inputs: Tensor, state: PriorState) -> tuple[Tensor, Tensor, PriorState]:
        """Input [B, D] and state -> mean [B, D], raw scale [B, D] of the next slot, and the next state."""
        hidden, cell = self.lstm(inputs, state[:2])
        loc, raw_scale = F.linear(hidden, state.weight, state.bias).chunk(2, dim=-1)
        return loc, raw_scale, state._replace(hidden=hidden, cell=cell)


class SlotScales(nn.Module):
    """Raw scales of q(z | s, x): an LSTM over [GELU(Linear(s)), mu_0, .., mu_{K-2}] with a linear head.

    Args:
        slot_size: D.
        scene_size: S. 0 means no scene variable. Then the first input is zero.
        units: LSTM units. None means four for each slot dimension, as published.
    """

    def __init__(self, slot_size: int, scene_size: int, units: int | None = None) -> None:
        super().__init__()
        hidden = units or HIDDEN_FACTOR * slot_size
        self.first_input = nn.Sequential(nn.Linear(scene_size, slot_size), nn.GELU()) if scene_size else None
        self.lstm = nn.LSTM(slot_size, hidden, batch_first=True)
        self.raw_scale = nn.Linear(hidden, slot_size)

    def forward(self, scene: Tensor, ordered_means: Tensor) -> Tensor:
        """Scene [B, S] and ordered slot means [B, K, D] -> raw scales [B, K, D]."""
        first = torch.zeros_like(ordered_means[:, 0]) if self.first_input is None else self.first_input(scene)
        inputs = torch.cat([first[:, None], ordered_means[:, :-1]], dim=1)  # [B, K, D]
        with without_autocast(inputs.device):
            hidden, _ = self.lstm(in_single(inputs))
        return self.raw_scale(hidden)
