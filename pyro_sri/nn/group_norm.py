"""A group normalisation that keeps the channels-last layout on GPUs."""

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Like `nn.GroupNorm`, with the same parameters and, up to rounding, the same results.

    On GPUs, PyTorch's version converts maps from channels last to channels first, and convolutions convert them back.
    Each conversion reads and writes the whole map. This version normalises channels-last maps on GPUs as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        if input.is_cuda and input.is_contiguous(memory_format=torch.channels_last):
            return channels_last_group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return super().forward(input)


def channels_last_group_norm(maps: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """`F.group_norm` for maps with channels last in memory, also in the result: [N, C, H, W] -> [N, C, H, W].

    Args:
        maps: [N, C, H, W].
        groups: Number of groups, a divisor of C.
        weight: [C].
        bias: [C].
        eps: Added to the variances.
    """
    pixels = maps.permute(0, 2, 3, 1)  # [N, H, W, C], without a copy
    grouped = pixels.flatten(1, 2).unflatten(2, (groups, -1))  # [N, H * W, groups, C / groups]
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0, keepdim=True)
    scale = (variance + eps).rsqrt() * weight.unflatten(0, (groups, -1))  # [N, 1, groups, C / groups]
    shift = bias.unflatten(0, (groups, -1)) - mean * scale
    return torch.addcmul(shift, grouped, scale).view(pixels.shape).permute(0, 3, 1, 2)
