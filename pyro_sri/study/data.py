"""The data sets of a study, which are made once and shared by its runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyro_sri.data.format import DatasetFile, Report
from pyro_sri.data.generators import find_generator
from pyro_sri.data.making import make_dataset
from pyro_sri.study.plan import Plan, data_file
from pyro_sri.study.specification import Data
from pyro_sri.system.children import usable_cores
from pyro_sri.system.errors import UserError

WORTH_A_WORKER = 1_000  # images; making them takes longer than starting a process


def missing_data(plan: Plan) -> dict[str, Path]:
    """The data sets that have to be made for the plan's rows, with their paths.

    Raises:
        UserError: If a file that the study names does not exist, or a file that it made holds other scenes.
    """
    missing = {}
    for name in dict.fromkeys(row.data for row in plan.study.rows.values()):
        data, path = plan.study.data[name], data_file(plan.study, name, plan.out)
        if path.exists():
            if data.file is None:
                _check_made(data, path)
        elif data.file is not None:
            raise UserError(f"{plan.study.source}: there is no file {path}: correct 'data', or create the file")
        else:
            missing[name] = path
    return missing


def make_data(data: Data, path: Path, progress: Report) -> None:
    """Makes a data set, continuing an interrupted earlier start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {"train": data.train, "val": data.val, "test": data.test}
    make_dataset(
        data.family,
        path,
        size=data.size,
        **counts,
        seed=data.seed,
        workers=max(1, min(len(usable_cores()), sum(counts.values()) // WORTH_A_WORKER)),
        options=data.options,
        progress=progress,
    )


def _check_made(data: Data, path: Path) -> None:
    """Raises UserError unless a file holds the scenes that the study asks for."""
    options = asdict(find_generator(data.family).parse_options(data.options))
    wanted: dict[str, Any] = {"generator": data.family, "size": data.size, "seed": data.seed, **options}
    with DatasetFile(path) as file:
        there = {name: file.attributes.get(name) for name in wanted}
        there |= {split: file.num_images(split) if split in file.splits else 0 for split in ("train", "val", "test")}
    wanted |= {"train": data.train, "val": data.val, "test": data.test}
    for name, value in wanted.items():
        value = list(value) if isinstance(value, tuple) else value
        if there[name] != value:
            raise UserError(
                f"the data of the study has changed since {path} was made ({name} was {there[name]}, now {value}): "
                "restore it, or choose another --out"
            )
