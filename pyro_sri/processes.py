"""What the processes of a distributed run agree on; alone, a process agrees with itself."""

import torch
from torch import Tensor


def total_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over processes; every process must ask for it."""
    value = value.detach().clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over processes; every process must ask for it."""
    total = total_over_processes(value)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        total /= torch.distributed.get_world_size()
    return total
