"""A feature vector for a whole image."""

import itertools

from torch import Tensor, nn

DOWNSAMPLING = 16  # four convolutions of stride 2
_WIDTHS = (3, 32, 32, 64, 64)


class ImageFeatures(nn.Module):
    """Four strided convolutions and a linear layer.

    Args:
        image_size: Image side, a multiple of 16.
        features: Size F of the vector.

    Raises:
        ValueError: On an image size that is not a multiple of 16.
    """

    def __init__(self, image_size: int, features: int) -> None:
        super().__init__()
        if image_size % DOWNSAMPLING:
            raise ValueError(f"image size {image_size} does not fit the encoder: it takes multiples of {DOWNSAMPLING}")
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(_WIDTHS):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ELU()]
        side = image_size // DOWNSAMPLING
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(_WIDTHS[-1] * side**2, features), nn.ELU())

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, F]."""
        return self.layers(images)
