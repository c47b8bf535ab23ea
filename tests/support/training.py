"""Runs that train in a second."""

from pathlib import Path
from typing import Any

from pyro_sri.config import SRIConfig

TINY: dict[str, Any] = {
    "image_size": 32,
    "num_slots": 3,
    "slot_size": 8,
    "scene_size": 8,
    "batch_size": 4,
    "attention_layers": 1,
    "log_every": 4,
    "validate_every": 8,
    "picture_every": 8,
    "validation_images": 8,
    "checkpoint_every": 4,
    "device": "cpu",
}


def tiny(data: Path, **fields: Any) -> SRIConfig:
    return SRIConfig(preset="sri-quick", dataset="tetrominoes", data=data, **TINY | {"steps": 8} | fields)
