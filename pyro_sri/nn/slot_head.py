"""From a feature map and attention masks to slot posteriors (Engelcke et al. 2021)."""

from torch import Tensor, nn

from pyro_sri.nn.unet import ConvBlock

POOLING_FLOOR = 1e-5  # an empty mask pools to zero features instead of dividing by zero


class SlotHead(nn.Module):
    """Pools one feature map with every mask at once and maps each pooled vector to a mean and a raw scale."""

    def __init__(self, features: int, slot_size: int) -> None:
        super().__init__()
        self.feature_head = nn.Sequential(ConvBlock(features, features), nn.Conv2d(features, 2 * slot_size, 1))
        self.slot_mlp = nn.Sequential(
            nn.LayerNorm(2 * slot_size),
            nn.Linear(2 * slot_size, 2 * slot_size),
            nn.ReLU(inplace=True),
            nn.Linear(2 * slot_size, 2 * slot_size),
        )

    def forward(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F, H, W] and masks [B, K, 1, H, W] -> mean and raw scale, each [B, K, D]."""
        maps = self.feature_head(features).flatten(2)  # [B, 2D, P]
        weights = masks.flatten(2)  # [B, K, P]
        pooled = weights @ maps.mT / (weights.sum(2, keepdim=True) + POOLING_FLOOR)  # [B, K, 2D]
        loc, raw_scale = self.slot_mlp(pooled).chunk(2, dim=-1)
        return loc, raw_scale
