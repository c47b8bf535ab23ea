"""What must not be computed in half precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def in_single(tensor: Tensor) -> Tensor:
    """A tensor of half precision as float32, and any other as it is.

    Under autocast, networks return half precision. Its 8 bits (bfloat16) are enough for a feature, but not for a
    standard deviation, the logarithm of a mask, or a sum over pixels: densities would be wrong by several nats.
    """
    return tensor.float() if tensor.dtype in HALF else tensor


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """No autocast inside, for operators that many CPUs do not have in half precision."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
