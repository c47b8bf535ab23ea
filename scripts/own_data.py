"""The data that presets make for themselves."""

from pathlib import Path

from pyro_sri.data.making import make_dataset
from pyro_sri.presets import PRESETS, Preset
from pyro_sri.runs import Run
from pyro_sri.scripts.cli import note

DATASETS = Path("datasets")


def own_data(preset: Preset) -> Path:
    """The file of a preset that makes its own data; which is made if it is missing."""
    path = DATASETS / f"{preset.data_name or preset.config.preset}.h5"
    if not path.exists():
        note(f"making {path}: generated {preset.config.dataset}")
        make_dataset(preset.config.dataset, path, **(preset.makes_data or {}))
    return path


def own_data_of(run: Run) -> Path | None:
    """The same for a run that names no data (bundled ones do not); None if it names some or its preset makes none."""
    preset = PRESETS.get(run.config.preset)
    if run.config.data is not None or preset is None or preset.makes_data is None:
        return None
    return own_data(preset.sized(run.config.image_size))
