"""Gated convolutions (van den Berg et al. 2018; Engelcke et al. 2020)."""

from torch import Tensor, nn


class GatedConv(nn.Module):
    """h * sigmoid(g), where h and g are the halves of a convolution's output, optionally batch-normalised.

    Args:
        conv: The (transposed) convolution, with twice the output channels C.
        normalise: Batch normalisation of each half.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, normalise: bool = True) -> None:
        super().__init__()
        channels = conv.out_channels // 2
        self.conv = conv
        self.h_norm = nn.BatchNorm2d(channels) if normalise else nn.Identity()
        self.g_norm = nn.BatchNorm2d(channels) if normalise else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, C, H', W']."""
        h, g = self.conv(x).chunk(2, dim=1)
        return self.h_norm(h) * self.g_norm(g).sigmoid()
