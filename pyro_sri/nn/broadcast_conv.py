"""The first convolution of a spatial broadcast decoder (Watters et al. 2019), without the maps of copies."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def broadcast_conv(convolution: nn.Conv2d, vectors: Tensor, fixed: Tensor) -> Tensor:
    """The convolution of vectors that are copied to every pixel, plus maps that are the same for all vectors.

    A convolution is linear. That of copies has one value per channel, except near the border, where some weights meet
    the padding. So each vector is convolved on a grid as small as the kernel, and the fixed maps are convolved once.

    Args:
        convolution: C channels in and O out, with a bias, kernel side k, stride 1, padding p with zeros.
        vectors: [N, D], the first D channels; the others are zero.
        fixed: [C, S, S], added to the copies; S is k or more.

    Returns:
        Tensor [N, O, T, T], where T = S + 2 p - k + 1.
    """
    side, padding, others = convolution.kernel_size[0], int(convolution.padding[0]), len(fixed) - vectors.shape[1]
    assert convolution.bias is not None
    copies = F.pad(vectors, (0, others))[:, :, None, None].expand(-1, -1, side, side)  # [N, C, k, k]
    distinct = convolution(copies) - convolution.bias[:, None, None]  # [N, O, 2 p + 1, 2 p + 1]
    convolved = convolution(fixed[None])  # [1, O, T, T]
    rows = torch.arange(convolved.shape[-1], device=vectors.device)
    which = rows.clamp(max=padding) + (rows - (len(rows) - 1 - padding)).clamp(min=0)  # 0 .. p, p .. p, p .. 2 p
    spread = (which[:, None] == torch.arange(2 * padding + 1, device=vectors.device)).to(vectors.dtype)
    return convolved + spread @ distinct @ spread.T
