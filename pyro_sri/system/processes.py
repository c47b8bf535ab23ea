"""Communication between the processes of a distributed run. It also works for a single process."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_sri.system.errors import UserError


def num_processes() -> int:
    """How many processes share the batch: 1 if the run is not distributed."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes files."""
    return num_processes() == 1 or torch.distributed.get_rank() == 0


def total_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over processes. Every process must call this."""
    value = value.detach().clone()
    if num_processes() > 1:
        torch.distributed.all_reduce(value)
    return value


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over processes. Every process must call this."""
    return total_over_processes(value) / num_processes()


@contextlib.contextmanager
def plain_connection_errors() -> Iterator[None]:
    """Turns the errors that the end of one process causes in the others into one plain line.

    Raises:
        UserError: If another process of the run has ended or can no longer be reached.
    """
    try:
        yield
    except RuntimeError as error:
        lost = torch.distributed.is_available() and isinstance(error, torch.distributed.DistError)
        if not lost and "gloo" not in str(error):  # gloo raises plain RuntimeErrors
            raise
        raise UserError(
            "another process of the run has ended or cannot be reached (its output may say why): start all of them "
            "again with --resume to continue from the last checkpoint"
        ) from error
