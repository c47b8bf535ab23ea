"""Encodes an unordered set of slots to the scene variable (Emami et al. 2023, equations 30 and 31)."""

import torch
from torch import Tensor, nn


class RelationalAttention(nn.Module):
    """A permutation-equivariant residual self-attention block whose values are relations between slots.

        a_ij = softmax_j( q(x_i) . k(x_j) / sqrt(D) ),   v_ij = MLP_v([x_i, x_i - x_j])
        x_i <- x_i + MLP( LayerNorm( x_i + sum_j a_ij v_ij ) )

    There is no positional encoding, and all weights are shared over slots.
    """

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(slot_size, slot_size, bias=False)
        self.key = nn.Linear(slot_size, slot_size, bias=False)
        self.relation = nn.Sequential(nn.Linear(2 * slot_size, slot_size), nn.GELU(), nn.Linear(slot_size, slot_size))
        self.norm = nn.LayerNorm(slot_size)
        self.mlp = nn.Sequential(nn.Linear(slot_size, slot_size), nn.GELU(), nn.Linear(slot_size, slot_size))

    def forward(self, slots: Tensor) -> Tensor:
        """[B, K, D] -> [B, K, D]."""
        scores = self.query(slots) * slots.shape[-1] ** -0.5 @ self.key(slots).mT  # [B, K, K]
        own = slots[:, :, None].expand(-1, -1, slots.shape[1], -1)  # [B, K, K, D]
        values = self.relation(torch.cat([own, own - slots[:, None]], dim=-1))  # [B, K, K, D]
        messages = (scores.softmax(-1)[..., None] * values).sum(2)  # [B, K, D]
        return slots + self.mlp(self.norm(slots + messages))


class SceneEncoder(nn.Module):
    """Set embedding of the slots: relational attention, sum pooling (Zaheer et al. 2017), two heads.

    The embedding is permutation invariant.

    Args:
        slot_size: D.
        scene_size: S.
        num_layers: Number of attention blocks.
        width: Width of the blocks and of the pooled sum. None means D, as published. With a small D, the sum contains
            little information about the scene. A wider encoder first maps each slot to this width.
    """

    def __init__(self, slot_size: int, scene_size: int, num_layers: int = 3, width: int | None = None) -> None:
        super().__init__()
        self.widen = nn.Linear(slot_size, width) if width else nn.Identity()
        width = width or slot_size
        self.blocks = nn.Sequential(*(RelationalAttention(width) for _ in range(num_layers)))
        self.projection = nn.Sequential(nn.Linear(width, scene_size), nn.GELU())
        self.loc = nn.Linear(scene_size, scene_size)
        self.raw_scale = nn.Linear(scene_size, scene_size)

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots [B, K, D] -> mean and raw scale of the scene variable, each [B, S]."""
        scene = self.projection(self.blocks(self.widen(slots)).sum(1))
        return self.loc(scene), self.raw_scale(scene)
