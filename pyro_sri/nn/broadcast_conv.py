"""The first convolution of a spatial broadcast decoder (Watters et al. 2019), without the maps of copies."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def broadcast_conv(convolution: nn.Conv2d, vectors: Tensor, fixed: Tensor) -> Tensor:
    """The convolution of vectors that are copied to every pixel, plus maps that are the same for all vectors.

    A convolution is linear. That of copies has one value per channel, except near the border, where some weights meet
    the padding. So each vector is convolved on a grid as small as the kernel, and the fixed maps are convolved once.

    Args:
        convolution: C channels in and O out, kernel side k, stride 1, padding p with zeros.
        vectors: [N, D], the first D channels; the others are zero.
        fixed: [C, S, S], added to the copies; S is k or more.

    Returns:
        Tensor [N, O, T, T], where T = S + 2 p - k + 1.
    """
    weight, side, padding = convolution.weight, convolution.kernel_size[0], int(convolution.padding[0])
    copies = vectors[:, :, None, None].expand(-1, -1, side, side)  # [N, D, k, k]
    distinct = F.conv2d(copies, weight[:, : vectors.shape[1]], padding=padding)  # [N, O, 2 p + 1, 2 p + 1]
    convolved = convolution(fixed[None])  # [1, O, T, T]
    rows = torch.arange(convolved.shape[-1], device=vectors.device)
    which = rows.clamp(max=padding) + (rows - (len(rows) - 1 - padding)).clamp(min=0)  # 0 .. p, p .. p, p .. 2 p
    spread = (which[:, None] == torch.arange(2 * padding + 1, device=vectors.device)).to(vectors.dtype)
    return convolved + spread @ distinct @ spread.T
