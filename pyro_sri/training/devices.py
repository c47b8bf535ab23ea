"""The device of a run, and how to silence advice on GPUs from libraries."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

# Recommends less exact products on every run. `--precision` decides that.
ADVICE = "that has Tensor Cores"
# PyTorch 2.9 and later recommend new settings instead of those in `set_precision`. torch.compile rejects them.
NEW_SETTINGS = "Please use the new API settings to control TF32"

_LOGGER = "lightning_fabric.utilities.rank_zero"


def _is_wanted(record: logging.LogRecord) -> bool:
    return ADVICE not in record.getMessage()


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


def new_fabric(**options: Any) -> Fabric:
    """Creates and launches the Fabric of one process of a run.

    Raises:
        ValueError: If a launcher's settings do not fit.
        RuntimeError: If the other processes cannot be reached.
    """
    with without_advice():
        fabric = Fabric(**options)
        fabric.launch()
    if fabric.world_size > 1:
        _expect_other_streams()
    return fabric


def _expect_other_streams() -> None:
    """Silences a warning: DistributedDataParallel needs its own stream, and autograd waits for it."""
    expect = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # from PyTorch 2.10 on
    if expect is not None:
        expect(False)


def device_name(device: torch.device) -> str:
    """A readable name of the device: its kind and, for a GPU, its model."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
