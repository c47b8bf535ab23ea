"""A transposed convolution with faster gradients."""

import torch.nn.functional as F
from torch import Tensor, nn


class TransposedConv(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` that adds its bias afterwards.

    It has the same parameters and, up to rounding, the same results. On CPUs, with channels last, the fused gradient of
    a transposed convolution with bias takes two thirds longer than the gradients of the two parts.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, in, H, W] -> [N, out, H', W']."""
        assert self.bias is not None
        assert output_size is None
        assert not isinstance(self.padding, str)
        convolved = F.conv_transpose2d(input, self.weight, None, self.stride, self.padding, self.output_padding)
        return convolved.add_(self.bias[:, None, None])
