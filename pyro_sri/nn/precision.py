"""What must not be computed in half precision."""

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def in_single(tensor: Tensor) -> Tensor:
    """A tensor of half precision as float32, and any other as it is.

    Under autocast, networks return half precision. Its 8 bits (bfloat16) are enough for a feature, but not for a
    standard deviation, the logarithm of a mask, or a sum over pixels: densities would be wrong by several nats.
    """
    return tensor.float() if tensor.dtype in HALF else tensor
