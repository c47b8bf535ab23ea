"""A small data set and a run with an untrained model, for commands to work on."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from pyro_sri import checkpoints, runs
from pyro_sri.config import SRIConfig
from pyro_sri.data.making import make_dataset
from support.golden import Golden

DATA, RUN, WEIGHTS = "data.h5", "run", "sri.pth"
SMALL: dict[str, Any] = {"image_size": 32, "num_slots": 3, "slot_size": 8, "scene_size": 8}
FIELDS = "--num-slots 3 --slot-size 8 --scene-size 8 --batch-size 4 --log-every 1 --validation-images 4 --device cpu"
METRICS = {
    "ari_fg": 0.9,
    "mse": 0.01,
    "mse_stderr": 0.001,
    "frechet": None,
    "frechet_reason": "left out as asked",
    "count_0_found_0": 5,
    "num_images": 4,
    "split": "test",
    "data": "generated: data.h5",
    "seed": 0,
    "step": 7,
    "training_seed": 0,
    "preset": "tiny",
    "checkpoint": "best",
}


def make_run(path: Path, data: Path | None, **fields: Any) -> runs.Run:
    """A run directory as training and evaluation leave it, of a model that learnt nothing."""
    run = runs.create_run(path, SRIConfig(**{"preset": "tiny", "dataset": "tetrominoes"} | SMALL | fields, data=data))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide, objective = run.config.build()
    checkpoint = {"step": 7, "best": 0.0, "objective": objective(model, guide).state_dict(), "optimizer": {}}
    for name in ("best", "last"):
        checkpoints.save_checkpoint(run.checkpoint(name), checkpoint)
    (path / runs.LOG).write_text('{"step": 1, "nll": 3.0, "beta": 1.0}\n{"step": 2, "val_nll": 2.0}\n')
    write_metrics(path, METRICS)
    return run


def write_metrics(run: Path, metrics: dict[str, Any]) -> None:
    """Writes what `evaluate` would."""
    (run / runs.METRICS).parent.mkdir(exist_ok=True)
    (run / runs.METRICS).write_text(json.dumps(metrics))


@functools.cache
def _world() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="small-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_dataset("tetrominoes", folder / DATA, size=32, train=8, val=4, test=6, seed=3)
    make_run(folder / RUN, Path(DATA))
    state = Golden("sri_genv2_mog").state()
    torch.save({name: tensor.float() for name, tensor in state.items()}, folder / WEIGHTS)
    return folder


def settle(folder: Path) -> Path:
    """Puts `data.h5` and `run`, which was trained on it, into a folder; returns the folder."""
    shutil.copy(_world() / DATA, folder)
    shutil.copytree(_world() / RUN, folder / RUN)
    return folder


def add_weights(folder: Path) -> None:
    """Puts `sri.pth`, weights under the authors' names, into a folder: 32 pixels, 5 slots."""
    shutil.copy(_world() / WEIGHTS, folder)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder by its path; of a link, where it leads."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())
    return {str(f.relative_to(folder)): f"-> {f.readlink()}" if f.is_symlink() else f.read_bytes() for f in files}
