"""Feature extractors, and how to run them on many images."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class FeatureExtractor(Protocol):
    """A fixed function from images to features.

    Attributes:
        name: Identifies the extractor. It changes whenever the features change.
        size: F, the number of features.
    """

    name: str
    size: int

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, F], floats, on the images' device."""
        ...


def extract(extractor: FeatureExtractor, batches: Iterable[Tensor]) -> NDArray[np.float32]:
    """Features of many images. Only one batch of images is in memory at a time.

    Args:
        extractor: The extractor.
        batches: Images [B, 3, H, W] in [0, 1], on any device.

    Returns:
        float32 [n, F], in the order of the images.

    Raises:
        ValueError: Images of another shape, or not finite.
    """
    parts = [np.empty((0, extractor.size), np.float32)]
    with torch.no_grad():
        parts += [extractor(images).float().cpu().numpy() for images in batches]
    return np.concatenate(parts)


def to_8_bits(images: Tensor) -> Tensor:
    """Images as in a saved picture: [B, 3, H, W] in [0, 1] -> clipped and rounded uint8 in 0..255.

    Raises:
        ValueError: Images of another shape, or not finite.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have the shape [images, 3, height, width], got {list(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("images must be finite, got NaN or infinity")
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)
