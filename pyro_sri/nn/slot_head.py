"""Computes slot posteriors from a feature map and attention masks (Engelcke et al. 2021)."""

import torch
from torch import Tensor, nn

from pyro_sri.nn.coordinates import PixelCoordinates
from pyro_sri.nn.unet import ConvBlock

POOLING_FLOOR = 1e-5  # an empty mask pools to zero features instead of dividing by zero


class SlotHead(nn.Module):
    """Pools a feature map with each mask, and maps each pooled vector to a mean and a raw scale.

    Args:
        features: Channels F of the feature map.
        slot_size: D.
        image_size: Image side.
        coordinates: Add two channels with the coordinates of each pixel (Liu et al. 2018). The published networks do
            not have them. They only get positions from zero padding and the UNet's bottleneck, which takes long to
            learn.
    """

    def __init__(self, features: int, slot_size: int, image_size: int, coordinates: bool = False) -> None:
        super().__init__()
        self.coordinates = PixelCoordinates(image_size) if coordinates else None
        channels = features + 2 if coordinates else features
        self.feature_head = nn.Sequential(ConvBlock(channels, features), nn.Conv2d(features, 2 * slot_size, 1))
        self.slot_mlp = nn.Sequential(
            nn.LayerNorm(2 * slot_size),
            nn.Linear(2 * slot_size, 2 * slot_size),
            nn.ReLU(inplace=True),
            nn.Linear(2 * slot_size, 2 * slot_size),
        )

    def forward(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F, H, W] and masks [B, K, 1, H, W] -> mean and raw scale, each [B, K, D]."""
        if self.coordinates is not None:
            features = torch.cat([features, self.coordinates.grid.expand(len(features), -1, -1, -1)], dim=1)
        maps = self.feature_head(features).flatten(2)  # [B, 2D, P]
        weights = masks.flatten(2)  # [B, K, P]
        pooled = weights @ maps.mT / (weights.sum(2, keepdim=True) + POOLING_FLOOR)  # [B, K, 2D]
        loc, raw_scale = self.slot_mlp(pooled).chunk(2, dim=-1)
        return loc, raw_scale
