"""The commands `pyro-sri data ...`: make or convert a dataset file, look at one, and audit towers."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from pyro_sri.config import SRIConfig
from pyro_sri.config.own import reasons
from pyro_sri.data import preview as pictures
from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.generators import GENERATORS, find_generator
from pyro_sri.data.look import Look, look_at
from pyro_sri.data.making import make_dataset
from pyro_sri.data.physics import audit_towers
from pyro_sri.presets import PRESETS
from pyro_sri.runs import split_option
from pyro_sri.scripts.cli import asks_for_help, check_new_file, note, parse, parse_subcommand, progress_bar, say
from pyro_sri.scripts.convert import convert
from pyro_sri.scripts.tables import print_table
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import unused
from pyro_sri.system.shell import command_line
from pyro_sri.training.devices import pick_device

MAKE = "pyro-sri data make"
OWN = "sri-own"  # the preset that follows the data
FEW_IMAGES = 1_000
_MAKE_HELP = """Generate a data set with exact masks and factors, and write it to one HDF5 file.

The same seed gives the same arrays, whatever the number of workers. An existing file is never overwritten. If the
command is interrupted, run it again to continue: finished pieces are kept in a folder next to the file.

For example:

pyro-sri data make tetrominoes --out tetrominoes.h5

pyro-sri data make stacks --out stacks.h5 --train 50000 --workers 2

pyro-sri data make multi_digits --out three.h5 --train 0 --val 0 --min-objects 3 --max-objects 3

pyro-sri data make stacks_broken --out broken.h5 --kinds gap beside
"""
_MAKE_ARGUMENTS = """

Args:
    family: Options of this family only.
    out: The file to make, for example scenes.h5.
    size: Side of the images in pixels (if not given: the family's published size).
    train: Images in the split train; 0 leaves the split out.
    val: Images in the split val; 0 leaves the split out.
    test: Images in the split test; 0 leaves the split out.
    seed: Seed of the scenes.
    workers: Processes that share the work, at most one per core (if not given: one per core).
"""


def make(name: Annotated[Positional[str], arg(metavar="NAME")], /) -> None:
    """Generate a data set; `pyro-sri data make NAME --help` lists its options."""
    make_family([name])


def make_family(args: Sequence[str]) -> None:
    """Generates a data set of the family that the first argument names.

    Raises:
        UserError: For an unknown family, a value out of range, or a file that exists or cannot be written.
    """
    if not args or args[0].startswith("-"):
        if asks_for_help(args):
            print(_MAKE_HELP)
            print(f"usage: {MAKE} NAME --out FILE [--train N] [--val N] [--test N] [any option of the family]\n")
            for family in GENERATORS.values():
                print(f"{family.name} ({family.default_size} pixels): {family.description}")
            print(f"\nTo see the options of a family: {MAKE} NAME --help")
            return
        raise UserError(f"which family? {MAKE} NAME --out FILE needs one of {', '.join(GENERATORS)}")
    generator = find_generator(args[0])

    def read(
        family: Any,
        out: Path,
        size: int | None = None,
        train: int = 20_000,
        val: int = 1_000,
        test: int = 1_000,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        _check_disk(out, max(0, train) + max(0, val) + max(0, test), generator.sizes[0])
        workers = usable_cores() if workers is None else min(workers, usable_cores())
        try:
            with progress_bar() as report:
                found = make_dataset(
                    generator.name, out, size, train, val, test, seed, workers, dataclasses.asdict(family), report
                )
        except KeyboardInterrupt as stop:
            stop.args = (f"run the same command again to continue {out}",)
            raise
        if found:
            note(f"continuing: {found} {'piece was' if found == 1 else 'pieces were'} already finished")
        say(f"made {out}: generated {generator.name}, {train} train, {val} val, {test} test images")

    read.__annotations__["family"] = tyro.conf.OmitArgPrefixes[generator.options]  # type: ignore[misc, name-defined]
    read.__doc__ = f"{generator.description[0].upper()}{generator.description[1:]}.\n\n{_MAKE_HELP}{_MAKE_ARGUMENTS}"
    parse(read, f"{MAKE} {generator.name}", args[1:])


def info(file: Positional[Path], /) -> None:
    """Show what is in a dataset file: splits, shapes, objects per scene, origin, and a hash of the content.

    For example:

    pyro-sri data info tetrominoes.h5

    Args:
        file: The dataset file.

    Raises:
        UserError: If it is missing, damaged, or not a dataset file.
    """
    summary = pictures.info(file)
    print_table(["", ""], _facts(summary), text_last=True)
    print()
    columns = ["split", "images", "image shape", "entities", "factors", "background", "objects per scene: scenes"]
    origin = "generated" if summary["generated"] else f"source: {summary['source']}"
    rows = [[split, *_row(facts)] for split, facts in summary["splits"].items()]
    print_table(columns, rows, title=f"{file.name} ({origin})", text_last=True)


def preview(file: Positional[Path], /, out: Path, num: int = 32, split: str = "train", seed: int = 0) -> None:
    """Draw a contact sheet of a dataset file: images at random, and beside them their instance masks in colour.

    For example:

    pyro-sri data preview tetrominoes.h5 --out tetrominoes.png

    Args:
        file: The dataset file.
        out: The PNG to make; an existing file is never overwritten.
        num: How many scenes.
        split: Which split: train, val or test.
        seed: Seed of the choice of scenes.

    Raises:
        UserError: If the file is missing, damaged or has no such split, or the PNG cannot be written.
    """
    check_new_file(out, (".png",))
    pictures.contact_sheet(file, out, num, split, seed)
    say(f"drew {out}")


def check(file: Positional[Path], /) -> None:
    """Read all of a dataset file and verify it: layout, checksums, images, masks and factors.

    Ends well if everything is sound; otherwise names the first damaged item. Warns of what is sound and odd: masks that
    overlap, objects that are never seen, factors that evaluation cannot use, images that are nearly black.

    For example:

    pyro-sri data check tetrominoes.h5

    Args:
        file: The dataset file.

    Raises:
        UserError: Naming the first damaged item by its index.
    """
    with progress_bar() as report:
        notes = check_dataset(file, report)
    for sentence in notes:
        note(f"warning: {sentence}")
    warnings = f", with {len(notes)} warning{'s' if len(notes) > 1 else ''}" if notes else ""
    say(f"{file} is sound{warnings}")


def suggest(file: Positional[Path], /) -> None:
    """Look at the images of a dataset file, and suggest how to train SRI on them: slots, likelihood, target, steps.

    The preset sri-own takes the same choices by itself, wherever you do not say otherwise. They are rules of thumb.

    For example:

    pyro-sri data suggest mine.h5

    Args:
        file: The dataset file.

    Raises:
        UserError: If it is missing, damaged, or has no training images.
    """
    look = look_at(file)
    gpu = pick_device("auto").type == "cuda"
    config = PRESETS[OWN].suited_to(look, gpu).config
    assert isinstance(config, SRIConfig)
    rows = reasons(config, look, gpu)
    print_table(["what", "choice", "why"], rows, title=f"{file.name}: what the images suggest", text_last=True)
    share = (
        "unknown, as there are no masks" if look.background_share is None else f"{100 * look.background_share:.0f} %"
    )
    print(f"background: {share} of the pixels; colours that cover an image: {look.colours}")
    for warning in _warnings(look):
        note(f"warning: {warning}")
    with DatasetFile(file) as data:
        commands = _commands(file, look.image_size, config.image_sizes, split_option(data))
    print("\n".join(["to train:", *(f"  {line}" for line in commands)]))


def _warnings(look: Look) -> list[str]:
    few = f"{look.num_images} training images are few: a model learns them by heart; thousands are better"
    warnings = [few] if look.num_images < FEW_IMAGES else []
    return warnings if look.dark is None else [*warnings, f"the images {look.dark}"]


def _commands(file: Path, size: int, sizes: Sequence[int], split: Sequence[str]) -> list[str]:
    """The commands that train on a file, which is resized first if it must be, and evaluate on a split."""
    name = "".join(letter if letter.isprintable() else "_" for letter in file.stem)  # a run's must be a text
    commands: list[list[str | Path]] = []
    run, page = unused(Path("runs") / name), unused(Path(f"{name}.html"))
    if size not in sizes:
        size = min(sizes, key=lambda other: abs(other - size))
        resized = unused(file.with_name(f"{file.stem}-{size}.h5"))
        commands.append(["pyro-sri", "data", "convert", file, "--out", resized, "--size", str(size)])
        file = resized
    commands.append(["pyro-sri", "train", OWN, "--data", file, "--out", run])
    commands.append(["pyro-sri", "evaluate", run, *split])
    commands.append(["pyro-sri", "report", run, "--out", page])
    return [command_line(words) for words in commands]


def audit(file: Positional[Path], /, num: int = 200, split: str = "train", seed: int = 0) -> None:
    """Simulate generated towers for two seconds after a small push, and count those that still stand.

    This needs the extra "physics": pip install "pyro-sri[physics]".

    For example:

    pyro-sri data audit stacks.h5 --num 200

    Args:
        file: A file made by `data make stacks` or `data make stacks_broken`.
        num: Number of towers, from the start of the split.
        split: The split: train, val or test.
        seed: Seed of the pushes.

    Raises:
        UserError: If the file holds no stacks, or MuJoCo is not installed.
    """
    with progress_bar() as report:
        audits = audit_towers(file, num, split, seed, report)
    fallen = [number for number, tower in enumerate(audits) if not tower.stands]
    print(f"{len(audits) - len(fallen)} of {len(audits)} towers stand")
    if fallen:
        print(f"fallen: {' '.join(str(number) for number in fallen)}")


def _check_disk(out: Path, num_images: int, side: int) -> None:
    """Raises UserError if the images alone, at this smallest size, need more than the whole disk."""
    folder = next(folder for folder in out.absolute().parents if folder.is_dir())
    there = shutil.disk_usage(folder).total
    if 3 * side**2 * num_images > there:
        raise UserError(
            f"{num_images} images need more than the {there / 1e9:.3g} GB of the disk that holds {folder}; make fewer"
        )


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


COMMANDS: dict[str, Callable[..., None]] = {
    "make": make,
    "convert": convert,
    "info": info,
    "preview": preview,
    "check": check,
    "suggest": suggest,
    "audit": audit,
}


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    if args[:1] == ["make"]:  # whose options depend on the family
        make_family(args[1:])
        return
    parse_subcommand(
        COMMANDS,
        "pyro-sri data",
        "Make, convert, describe, show and verify dataset files, and suggest how to train.",
        args,
    )


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("file", summary["path"]), ("source", str(summary["source"]))]
    if summary["generator"] is not None:
        facts.append(("generator", f"{summary['generator']}, version {summary['generator_version']}"))
    if summary["parameters"]:
        facts.append(("parameters", ", ".join(f"{name} {value}" for name, value in summary["parameters"].items())))
    if summary["factor_names"] is not None:
        facts.append(("factors", ", ".join(summary["factor_names"])))
    background = ", ".join(str(entity) for entity in summary["background_entities"])
    told = f"entity {background}" if background else "none: all entities are objects"
    if summary["unused"]:
        facts.append(("not used", f"{', '.join(summary['unused'])}: not named for train, val or test"))
    return [*facts, ("background", told), ("sha256", summary["content_hash"])]


def _row(split: dict[str, Any]) -> tuple[str, ...]:
    objects, background = split["objects_per_scene"], split["background_share"]
    return (
        f"{split['num_images']}",
        " x ".join(str(length) for length in split["images"][1:]),
        "no masks" if split["masks"] is None else f"{split['masks'][1]}",
        "none" if split["factors"] is None else " x ".join(str(length) for length in split["factors"][1:]),
        "unknown" if background is None else f"{100 * background:.1f} %",
        "unknown" if objects is None else "  ".join(f"{count}: {scenes}" for count, scenes in objects.items()),
    )
