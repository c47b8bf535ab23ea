"""The two LSTMs over the ordered slots (Emami et al. 2023, equations 2 and 7)."""

import torch
from torch import Tensor, nn

HIDDEN_FACTOR = 4  # LSTM units per slot dimension


class SlotPrior(nn.Module):
    """p(z_k | z_<k, s): an LSTM whose first input is GELU(Linear(s)) and whose k-th input is z_{k-1}.

    Run it one slot at a time:

        inputs, state = prior.start(scene)
        for k in range(K):
            loc, raw_scale, state = prior.step(inputs, state)
            inputs = z_k
    """

    def __init__(self, slot_size: int, scene_size: int) -> None:
        super().__init__()
        hidden = HIDDEN_FACTOR * slot_size
        self.first_input = nn.Sequential(nn.Linear(scene_size, slot_size), nn.GELU())
        self.lstm = nn.LSTMCell(slot_size, hidden)
        self.loc = nn.Linear(hidden, slot_size)
        self.raw_scale = nn.Linear(hidden, slot_size)

    def start(self, scene: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Scene [B, S] -> first input [B, D] and initial state."""
        zeros = scene.new_zeros(len(scene), self.lstm.hidden_size)
        return self.first_input(scene), (zeros, zeros)

    def step(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Input [B, D] and state -> mean [B, D], raw scale [B, D] of the next slot, and the next state."""
        state = self.lstm(inputs, state)
        return self.loc(state[0]), self.raw_scale(state[0]), state


class SlotScales(nn.Module):
    """Raw scales of q(z | s, x): an LSTM over [GELU(Linear(s)), mu_0, .., mu_{K-2}], one linear head."""

    def __init__(self, slot_size: int, scene_size: int) -> None:
        super().__init__()
        hidden = HIDDEN_FACTOR * slot_size
        self.first_input = nn.Sequential(nn.Linear(scene_size, slot_size), nn.GELU())
        self.lstm = nn.LSTM(slot_size, hidden, batch_first=True)
        self.raw_scale = nn.Linear(hidden, slot_size)

    def forward(self, scene: Tensor, ordered_means: Tensor) -> Tensor:
        """Scene [B, S] and ordered slot means [B, K, D] -> raw scales [B, K, D]."""
        inputs = torch.cat([self.first_input(scene)[:, None], ordered_means[:, :-1]], dim=1)  # [B, K, D]
        return self.raw_scale(self.lstm(inputs)[0])
