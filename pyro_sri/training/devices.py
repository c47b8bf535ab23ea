"""The device that a run is on, and what libraries say of GPUs that need not worry a user."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

# Asks for less exact products on every run; `--precision` decides that.
ADVICE = "that has Tensor Cores"
# PyTorch 2.9 and later speak of a new way to say what `set_precision` says; torch.compile refuses the new way.
NEW_SETTINGS = "Please use the new API settings to control TF32"

_LOGGER = "lightning_fabric.utilities.rank_zero"


def _is_wanted(record: logging.LogRecord) -> bool:
    return ADVICE not in record.getMessage()


@contextmanager
def without_advice() -> Iterator[None]:
    """Libraries do not speak of precision within."""
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_is_wanted)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=NEW_SETTINGS)
            yield
    finally:
        logger.removeFilter(_is_wanted)


def new_fabric(**options: Any) -> Fabric:
    """A process's part in a run, launched.

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
    """DistributedDataParallel is made on a stream of its own, as it asks, and autograd waits for it: no warning."""
    expect = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # from PyTorch 2.10 on
    if expect is not None:
        expect(False)


def device_name(device: torch.device) -> str:
    """The device for people: its kind and, of a GPU, its model."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
