"""The command `pyro-sri visualize`: draws pictures of a trained model into a folder."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pyro_sri import viz
from pyro_sri.programs import Model
from pyro_sri.report.gallery import ACTIVENESS_IMAGES, Exhibit, gallery, load_images, missing_data
from pyro_sri.runs import find_run
from pyro_sri.scripts.cli import note, parse, say
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.system.seeds import check_seed

MOST_SCENES = 256  # on a sheet


def visualize(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    /,
    out: Path,
    num: int = 8,
    split: str | None = None,
    seed: int = 0,
    data: Path | None = None,
    format: Literal["png", "pdf", "svg"] = "png",
) -> None:
    """Draw what a trained model infers and generates, as pictures in a new folder.

    Files (only those that apply to the model):
      reconstructions.png   images, reconstructions, what the scene variable alone imagines, masks, every slot
      slots.png             attention masks, decoder masks and colours of every slot
      imagination.png       images, reconstructions, and what the scene variable alone imagines
      boxes.png             the objects that AIR finds
      samples.png           new scenes
      samples_slots.png     new scenes slot by slot, in the order of generation
      samples_order.png     new scenes while slots are added one by one
      temperatures.png      the same draws at several temperatures, also with one slot fewer and one more
      scene_walk.gif        random walks of the scene variable
      slot_traversals.png   the effect of the ten most active dimensions of the most active slot
      slot_traversals.gif   the effect of these dimensions in every slot
      curves.png            the training curves
      model_plates.png      the generative story in plate notation
      model.gv              all random variables, for Graphviz (also model.png if Graphviz is installed)
      *.mp4                 the animations as videos, if ffmpeg is installed

    For example:
      pyro-sri visualize runs/rooms --out rooms-pictures
      pyro-sri visualize runs/rooms --num 16 --split val --out more-pictures

    Args:
        run: A run directory, or the name of a preset with bundled weights.
        out: Output folder. It must be new or empty.
        num: Number of images or scenes per picture.
        split: Split of the images: train, val or test (if not given: test, or what the file has instead).
        seed: Random seed.
        data: Dataset file (if not given: the one that the run was trained on).
        format: Format of the still pictures: png, or pdf or svg for papers, with text and lines as vector graphics.

    Raises:
        UserError: If the folder is not empty or cannot be written, or the data does not match the run.
    """
    if not 1 <= num <= MOST_SCENES:
        raise UserError(f"--num is {num}: it must be 1 to {MOST_SCENES}")
    check_seed(seed)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and is not empty; choose another --out")
    found = find_run(run)
    images = load_images(found, split, max(num, ACTIVENESS_IMAGES), data)
    module, ffmpeg = found.load_module(), viz.find_ffmpeg()
    for exhibit in gallery(found, images, num=num, seed=seed, module=module):
        suffix, content = exhibit.content if format == "png" else exhibit.content_as(format)
        _write(out / f"{exhibit.name}{suffix}", content)
        if len(exhibit.frames) > 1 and ffmpeg is not None:
            _film(exhibit, out / f"{exhibit.name}.mp4", ffmpeg)
    for name, content in _graph(module.model, found.config.image_size, format):
        _write(out / name, content)
    if images is None:
        note(f"skipped the pictures that need images: {missing_data(found)}; name the file with --data")


def _film(exhibit: Exhibit, path: Path, ffmpeg: str) -> None:
    """Also writes an animation as MP4. Prints a note if that fails."""
    try:
        content = viz.mp4(exhibit.frames, exhibit.milliseconds, ffmpeg)
    except viz.FilmError as error:
        note(f"skipped {path}: {error}")
        return
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, methodcaller("write", content))
    say(f"drew {path}")


def _graph(model: Model, image_size: int, kind: str) -> Iterator[tuple[str, bytes]]:
    """The model's graph as a Graphviz file, and as a picture if Graphviz is installed."""
    graph = viz.graphviz(model, image_size)
    yield "model.gv", graph.source.encode()
    if shutil.which("dot") is not None:
        try:
            picture = graph.pipe(format=kind)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # it cannot be run, or fails
            note(f"skipped model.{kind}: {str(error).splitlines()[0]}")
            return
        yield f"model.{kind}", picture


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(visualize, "pyro-sri visualize", args)
