"""The data that presets and studies make for themselves: once, whoever starts first."""

import time
from collections.abc import Callable
from pathlib import Path

from pyro_sri.data.generators.pieces import InUse
from pyro_sri.data.making import make_dataset
from pyro_sri.presets import PRESETS, Preset
from pyro_sri.runs import Run
from pyro_sri.scripts.cli import note
from pyro_sri.system.errors import UserError

DATASETS = Path("datasets")
POLL = 0.5  # seconds between looks at a file that another process makes


def own_data(preset: Preset) -> Path:
    """The file of a preset that makes its own data; which is made if it is missing."""
    path = DATASETS / f"{preset.data_name or preset.config.preset}.h5"
    if not path.exists():
        note(f"making {path}: generated {preset.config.dataset}")
        make_or_await(path, lambda: make_dataset(preset.config.dataset, path, **(preset.makes_data or {})))
    return path


def make_or_await(path: Path, make: Callable[[], object]) -> None:
    """Makes a dataset file, or waits until another process has; goes on with its pieces should that one end before.

    Args:
        path: The file.
        make: Makes it, or raises InUse.

    Raises:
        UserError: If it cannot be made.
    """
    told = False
    while not path.exists():
        try:
            make()
        except InUse:
            if not told:
                note(f"another process is making {path}: waiting for it (Ctrl-C ends the wait)")
            told = True
            time.sleep(POLL)
        except UserError:
            if not path.exists():  # else the other process was quicker
                raise


def own_data_of(run: Run) -> Path | None:
    """The same for a run that names no data (bundled ones do not); None if it names some or its preset makes none."""
    preset = PRESETS.get(run.config.preset)
    if run.config.data is not None or preset is None or preset.makes_data is None:
        return None
    return own_data(preset.sized(run.config.image_size))
