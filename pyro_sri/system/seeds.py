"""Seeds: their range, and how a training step is seeded."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from pyro_sri.system.errors import UserError

LARGEST_SEED = 2**32 - 1  # the limit of NumPy's global generator, which Pyro also seeds


def check_seed(seed: int) -> None:
    """Raises UserError unless every random generator accepts the seed."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed} is out of range: use a whole number from 0 to {LARGEST_SEED}")


def keeping_random_state(device: Any = "cpu") -> AbstractContextManager[None]:
    """Restores the random state of the CPU afterwards, and that of the device, if it is a GPU.

    It does not touch other GPUs, so commands that run on the CPU do not start one.
    """
    import torch

    device = torch.device(device)
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seeds every device's generator for one step of one process."""
    import torch  # here, because processes that make data only check seeds, and start in half the time without it

    value = int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0]) >> 1
    torch.default_generator.manual_seed(value)  # torch.manual_seed takes milliseconds to record its caller
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(value)
