"""The command `pyro-sri sample`: scenes drawn from a model, as a picture or as arrays."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyro
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from pyro_sri.errors import UserError
from pyro_sri.inference import Scenes, sample_scenes
from pyro_sri.runs import WEIGHTS, Run, find_run, write_atomically
from pyro_sri.scripts.cli import parse
from pyro_sri.seeds import check_seed
from pyro_sri.viz import grid, png, to_uint8

SCENES_AT_ONCE = 16  # scenes decoded together: bounds the memory


def sample(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    /,
    num: int = 64,
    slots: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Draw new scenes from a trained model.

    A .png is a grid of the scenes and nothing else. A .npz holds arrays, slots in the order of generation:
      images      uint8    N x H x W x 3
      slot_rgb    uint8    N x K x H x W x 3   the colours of each slot
      slot_masks  float16  N x K x H x W x 1   each slot's share of a pixel; they sum to 1 over the slots

    The same seed gives the same file. An existing file is never overwritten.

    For example:
      pyro-sri sample runs/rooms
      pyro-sri sample runs/rooms --num 16 --slots 5 --temperature 0.7 --out calm.png
      pyro-sri sample runs/rooms --num 10000 --seed 1 --out scenes.npz

    Args:
        run: A run directory, or the name of a preset whose weights ship.
        num: How many scenes.
        slots: Slots per scene; as many as in training if not given. More slots can paint more objects.
        temperature: Factor on every standard deviation of the prior: 1 samples the model as it is, less gives more
            typical scenes.
        seed: Seed of the draws.
        out: The .png or .npz to make; a free name like RUN/samples/samples-seed0.png if not given.

    Raises:
        UserError: For a value out of range, or a file that exists or cannot be written.
    """
    _check(num, slots, temperature)
    check_seed(seed)
    if out is not None:
        check_new_file(out, (".png", ".npz"))
    found = find_run(run)
    path = out or _free_name(_samples_folder(found), f"samples-seed{seed}", ".png")
    model, _ = found.load()
    pyro.set_rng_seed(seed)
    pieces = draw_pieces(model, num, num_slots=slots, temperature=temperature)
    if path.suffix.lower() == ".png":
        picture = grid(np.concatenate([to_uint8(scenes.images) for scenes in pieces]))
        write_atomically(path, lambda file: file.write(png(picture)))
    else:
        images, slot_rgb, slot_masks = _arrays(pieces)
        write_atomically(
            path, lambda file: np.savez_compressed(file, images=images, slot_rgb=slot_rgb, slot_masks=slot_masks)
        )
    print(f"drew {num} {'scene' if num == 1 else 'scenes'} into {path}")


def draw_pieces(model: Any, num: int, **options: Any) -> Iterator[Scenes]:
    """Samples `num` scenes, a few at a time, so that memory stays bounded."""
    for start in range(0, num, SCENES_AT_ONCE):
        yield sample_scenes(model, min(SCENES_AT_ONCE, num - start), **options)


def check_new_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises UserError unless the file has one of the suffixes and is not there yet."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"--out {path} does not end in {' or '.join(suffixes)}; choose another --out")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another --out")


def _check(num: int, slots: int | None, temperature: float) -> None:
    if num < 1:
        raise UserError(f"--num {num} asks for no scenes; use 1 or more")
    if slots is not None and slots < 1:
        raise UserError(f"--slots {slots} leaves nothing to paint; use 1 or more")
    if not 0 < temperature < math.inf:  # written so that NaN fails
        raise UserError(
            f"--temperature {temperature:g} is out of range; use a number above 0, 1 for the model as it is"
        )


def _samples_folder(run: Run) -> Path:
    """The run's own folder; `samples` here for weights that ship, whose folder belongs to the installation."""
    return Path("samples") if run.path.is_relative_to(WEIGHTS) else run.path / "samples"


def _free_name(folder: Path, stem: str, suffix: str) -> Path:
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{name}{suffix}" for name in names) if not path.exists())


def _arrays(pieces: Iterator[Scenes]) -> Iterator[NDArray[Any]]:
    """Images, slots' colours and slots' masks, each in one array."""
    parts = [
        (to_uint8(piece.images), to_uint8(piece.slot_rgb), piece.slot_masks.movedim(-3, -1).numpy().astype(np.float16))
        for piece in pieces
    ]
    return map(np.concatenate, zip(*parts, strict=True))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(sample, "pyro-sri sample", args)
