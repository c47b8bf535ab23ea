"""The commands `pyro-sri data ...`: make a dataset file, and look at one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import Positional, arg

from pyro_sri.data import preview as pictures
from pyro_sri.data.format import Report, check_dataset
from pyro_sri.data.generators import make_dataset
from pyro_sri.data.generators.multi_dsprites import Background
from pyro_sri.scripts.cli import parse_subcommand


def make(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    /,
    out: Path,
    size: int | None = None,
    train: int = 20_000,
    val: int = 1_000,
    test: int = 1_000,
    seed: int = 0,
    workers: int = 1,
    num_pieces: int | None = None,
    min_objects: int | None = None,
    max_objects: int | None = None,
    background: Background | None = None,
) -> None:
    """Generate a data set with exact masks and factors, and write it to one HDF5 file.

    Families:

    tetrominoes: three bevelled, coloured pieces of four cells on black (35 px)

    multi_dsprites: two to five flat shapes that may cover each other, on grey (64 px)

    For example:

    pyro-sri data make tetrominoes --out tetrominoes.h5

    pyro-sri data make multi_dsprites --out few.h5 --size 32 --train 5000 --max-objects 3 --workers 2

    The same seed gives the same arrays, whatever the number of workers. An existing file is never overwritten.

    Args:
        name: The family of scenes.
        out: The file to make, for example scenes.h5.
        size: Side of the images in pixels, 32 to 128; left out: the family's published size.
        train: Images in the split train; 0 leaves it out.
        val: Images in the split val; 0 leaves it out.
        test: Images in the split test; 0 leaves it out.
        seed: Seed of the scenes.
        workers: Processes that share the work; worth it for families that are slow to draw.
        num_pieces: tetrominoes: pieces per scene, 1 to 5; left out: 3.
        min_objects: multi_dsprites: fewest sprites per scene, from 1; left out: 2.
        max_objects: multi_dsprites: most sprites per scene, up to 8; left out: 5.
        background: multi_dsprites: one colour behind the sprites; left out: grayscale.

    Raises:
        UserError: For an unknown family, a value out of range, or a file that exists or cannot be written.
    """
    given = {
        "num_pieces": num_pieces,
        "min_objects": min_objects,
        "max_objects": max_objects,
        "background": background,
    }
    options = {option: value for option, value in given.items() if value is not None}
    with progress_bar() as report:
        make_dataset(name, out, size, train, val, test, seed, workers, options, report)
    print(f"made {out}: generated {name}, {train} train, {val} val, {test} test images")


def info(file: Positional[Path], /) -> None:
    """Say what is in a dataset file: splits, shapes, objects per scene, origin, and a hash of the content.

    For example:

    pyro-sri data info tetrominoes.h5

    Args:
        file: The dataset file.

    Raises:
        UserError: If it is missing, damaged, or no dataset file.
    """
    summary = pictures.info(file)
    facts = Table(show_header=False, box=None)
    for label, value in _facts(summary):
        facts.add_row(label, value)
    origin = "generated" if summary["generated"] else f"source: {summary['source']}"
    splits = Table(title=f"{file.name} ({origin})", title_justify="left")
    for column in ("split", "images", "image shape", "entities", "factors", "objects per scene: scenes"):
        splits.add_column(column, justify="right" if column == "images" else "left")
    for split, facts_of_split in summary["splits"].items():
        splits.add_row(split, *_row(facts_of_split))
    console = Console(markup=False, highlight=False)
    console.print(facts)
    console.print(splits)


def preview(file: Positional[Path], /, out: Path, num: int = 32, split: str = "train") -> None:
    """Draw a contact sheet of a dataset file: images, and beside them their instance masks in colour.

    For example:

    pyro-sri data preview tetrominoes.h5 --out tetrominoes.png

    Args:
        file: The dataset file.
        out: The PNG to make; an existing file is never overwritten.
        num: How many scenes.
        split: Which split: train, val or test.

    Raises:
        UserError: If the file is missing, damaged or has no such split, or the PNG cannot be written.
    """
    pictures.contact_sheet(file, out, num, split)
    print(f"drew {out}")


def check(file: Positional[Path], /) -> None:
    """Read all of a dataset file and verify it: layout, checksums, masks and factors.

    Ends well if everything is sound; otherwise names the first damaged item.

    For example:

    pyro-sri data check tetrominoes.h5

    Args:
        file: The dataset file.

    Raises:
        UserError: Naming the first damaged item by its index.
    """
    with progress_bar() as report:
        check_dataset(file, report)
    print(f"{file} is sound")


COMMANDS: dict[str, Callable[..., None]] = {"make": make, "info": info, "preview": preview, "check": check}


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse_subcommand(COMMANDS, "pyro-sri data", "Make, describe, show and verify dataset files.", args)


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar per task on standard error, gone at the end; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        rows: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = bar.add_task(what, total=total)
            bar.update(rows[what], completed=done)

        yield report


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("file", summary["path"]), ("source", summary["source"])]
    if summary["generator"] is not None:
        facts.append(("generator", f"{summary['generator']}, version {summary['generator_version']}"))
    if summary["parameters"]:
        facts.append(("parameters", ", ".join(f"{name} {value}" for name, value in summary["parameters"].items())))
    if summary["factor_names"] is not None:
        facts.append(("factors", ", ".join(summary["factor_names"])))
    background = ", ".join(str(entity) for entity in summary["background_entities"])
    return [*facts, ("background", f"entity {background}"), ("sha256", summary["content_hash"])]


def _row(split: dict[str, Any]) -> tuple[str, ...]:
    objects = split["objects_per_scene"]
    return (
        f"{split['num_images']}",
        " x ".join(str(length) for length in split["images"][1:]),
        "no masks" if split["masks"] is None else f"{split['masks'][1]}",
        "none" if split["factors"] is None else " x ".join(str(length) for length in split["factors"][1:]),
        "unknown" if objects is None else "  ".join(f"{count}: {scenes}" for count, scenes in objects.items()),
    )
