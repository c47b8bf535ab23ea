"""Runs to report on, and exhibits that take no time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyro_sri import checkpoints, runs
from pyro_sri.config import SRIConfig
from pyro_sri.report.gallery import Exhibit, Images

SMALL = {"image_size": 32, "num_slots": 3, "slot_size": 8, "scene_size": 16, "init": "pytorch", "gate_init": 0.5}
EVIL = "<script>alert('&')</script>"
METRICS = {
    "ari_fg": 0.91234567,
    "mse": 0.01,
    "mse_stderr": 0.000123,
    "kl": 30.5,
    "frechet": None,
    "frechet_reason": "no features <here>",
    "brand_new": 3,
    "count_0_found_0": 5,
    "count_0_found_1": 1,
    "count_2_found_1": 10,
    "num_images": 16,
    "split": "test",
    "data": "generated: tetrominoes.h5",
    "seed": 0,
    "step": 7,
    "training_seed": 0,
}


def make_run(path: Path, data: Path | None, metrics: dict[str, Any] | None = None, **fields: Any) -> runs.Run:
    """A run directory with untrained weights."""
    run = runs.create_run(path, SRIConfig(**{"preset": "tiny", "dataset": "tetrominoes"} | SMALL | fields, data=data))
    model, guide, objective = run.config.build()
    checkpoint = {"step": 7, "best": 0.0, "objective": objective(model, guide).state_dict(), "optimizer": {}}
    checkpoints.save_checkpoint(run.checkpoint(), checkpoint)
    (path / runs.LOG).write_text('{"step": 1, "nll": 3.0, "beta": 1.0}\n{"step": 2, "val_nll": 2.0}\n')
    if metrics is not None:
        (path / runs.METRICS).parent.mkdir()
        (path / runs.METRICS).write_text(json.dumps(metrics))
    return run


def few_exhibits(run: runs.Run, images: Images | None, **_: Any) -> Iterator[Exhibit]:
    """What a page is made of, without the time that models take."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    if images is not None:
        yield Exhibit("reconstructions", "Reconstructions", images.origin, [pixels])
    if run.log():
        yield Exhibit("curves", "Training curves", "", [pixels])
    yield Exhibit("walk", "Walks", "A walk.", [pixels, pixels + 9], 50)
    yield Exhibit("story", "The story", "", [pixels])
    yield Exhibit("walk", "A walk as a sheet", "", [pixels], pixelated=True)
    yield Exhibit("samples", "Samples", EVIL, [pixels], pixelated=True)
