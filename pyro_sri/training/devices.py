"""The device of a run, and how to silence advice on GPUs from libraries.

Commands that do not train import this file, but not lightning-fabric, which takes seconds.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_sri.config import Device
from pyro_sri.system.errors import UserError

# Recommends less exact products on every run. `--precision` decides that.
ADVICE = "that has Tensor Cores"
# PyTorch 2.9 and later recommend new settings instead of those in `set_precision`. torch.compile rejects them.
NEW_SETTINGS = "Please use the new API settings to control TF32"

_LOGGER = "lightning_fabric.utilities.rank_zero"


def _is_wanted(record: logging.LogRecord) -> bool:
    return ADVICE not in record.getMessage()


def pick_device(device: Device) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here.

    Raises:
        UserError: If a GPU is requested and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that PyTorch can use: leave out --device cuda or set --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def without_advice() -> Iterator[None]:
    """Silences advice on precision from libraries."""
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_is_wanted)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=NEW_SETTINGS)
            yield
    finally:
        logger.removeFilter(_is_wanted)


def device_name(device: torch.device) -> str:
    """A readable name of the device: its kind and, for a GPU, its model."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
