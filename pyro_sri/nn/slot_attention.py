"""Slot attention: slots compete for pixels (Locatello et al. 2020)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_sri.nn.position_code import PositionCode
from pyro_sri.nn.precision import in_single

FEATURES = 64
ATTENTION_FLOOR = 1e-8  # a slot that wins no pixel averages over all


class PixelFeatures(nn.Module):
    """Four 5x5 convolutions that keep the image size, a position code, and an MLP for each pixel."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, FEATURES, FEATURES, FEATURES):
            layers += [nn.Conv2d(channels, FEATURES, 5, padding=2), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.position = PositionCode(image_size, FEATURES)
        self.mlp = nn.Sequential(
            nn.LayerNorm(FEATURES),
            nn.Linear(FEATURES, FEATURES),
            nn.ReLU(inplace=True),
            nn.Linear(FEATURES, FEATURES),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features of the pixels, row by row: [B, P, 64]."""
        maps = self.position(self.convolutions(2 * images - 1))  # the convolutions see [-1, 1]
        return self.mlp(maps.flatten(2).mT)


class InitialSlots(nn.Module):
    """The learnt initial distribution of slots, either shared by all slots or separate for each.

    Raw scales start at 1, as in EMORL's published code, which means standard deviations of 1.146.

    Args:
        slot_size: D.
        num_slots: K, to give each slot its own mean and scale. None means that all slots share them.
    """

    def __init__(self, slot_size: int, num_slots: int | None = None) -> None:
        super().__init__()
        loc = torch.zeros(1, slot_size) if num_slots is None else torch.randn(num_slots, slot_size)
        self.learnt = nn.Parameter(torch.cat([loc, torch.ones_like(loc)], dim=1))

    def forward(self, num_scenes: int, num_slots: int) -> tuple[Tensor, Tensor]:
        """Mean and raw scale, each [B, K, D].

        Raises:
            ValueError: If each slot has its own distribution, and the number of slots is not K.
        """
        count = len(self.learnt)
        if count not in (1, num_slots):
            raise ValueError(f"this network has learnt its {count} slots one by one: it cannot use {num_slots}")
        loc, raw_scale = self.learnt.expand(num_scenes, num_slots, -1).chunk(2, dim=-1)
        return loc, raw_scale


class Attended(NamedTuple):
    """The result of a round of slot attention.

    Attributes:
        updates: The pixels' values, averaged with each slot's mask [B, K, D].
        masks: Attention masks, probabilities over slots [B, K, P].
    """

    updates: Tensor
    masks: Tensor


class SlotAttention(nn.Module):
    """A round of slot attention: softmax over slots, then a weighted mean over pixels.

    m_kp = softmax_k( q(LayerNorm(slot_k)) . k_p / sqrt(D) ),   update_k = sum_p m_kp v_p / sum_p m_kp
    """

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(slot_size)
        self.query = nn.Linear(slot_size, slot_size, bias=False)
        self.key = nn.Linear(FEATURES, slot_size, bias=False)
        self.value = nn.Linear(FEATURES, slot_size, bias=False)

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, P, 64] -> keys and values, each [B, P, D]. They are the same in every round."""
        return self.key(features), self.value(features)

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor) -> Attended:
        """Slots [B, K, D], keys and values [B, P, D] -> what each slot attends to."""
        queries = self.query(self.norm(slots)) * slots.shape[-1] ** -0.5  # [B, K, D]
        masks = in_single(queries @ keys.mT).softmax(dim=1)  # [B, K, P]
        weights = masks + ATTENTION_FLOOR
        return Attended(weights / weights.sum(2, keepdim=True) @ values, masks)


class ResidualMLP(nn.Module):
    """x + MLP(LayerNorm(x)), with one hidden layer: [.., D] -> [.., D]."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, size))

    def forward(self, x: Tensor) -> Tensor:
        """[.., D] -> [.., D]."""
        return x + self.mlp(self.norm(x))
