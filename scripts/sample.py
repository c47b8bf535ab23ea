"""The command `pyro-sri sample`: samples scenes from a model, unconditionally or given some slots of an image."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import Positional, arg

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import to_images
from pyro_sri.data.readers.geometry import centre, resize_image
from pyro_sri.data.readers.pictures import read_rgb
from pyro_sri.editing import CANDIDATES, decode, imagine_rest, infer_slots, remove
from pyro_sri.inference import SCENES_AT_ONCE, Scenes, draw_scenes
from pyro_sri.programs import Guide, Model
from pyro_sri.runs import WEIGHTS, Run, find_run
from pyro_sri.scripts.cli import check_memory, check_new_file, note, parse, say
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.system.seeds import check_seed
from pyro_sri.viz import VECTORS, Header, Picture, draw_vector, enlarge, grid, png, sheet, slot_pictures, to_uint8

MOST_SLOTS = 256  # far more than there are objects in any scene
COLDEST = 1e-6  # but for 0: scales underflow below
HOTTEST = 1000.0  # far beyond what makes sense; networks overflow in the end


def sample(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    /,
    num: int = 64,
    slots: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    out: Path | None = None,
    condition: str | None = None,
    keep_slots: str | None = None,
    remove_slots: str | None = None,
) -> None:
    """Draw new scenes from a trained model, or edit an image: keep some of its slots and imagine the rest.

    A .png, .pdf or .svg file shows the scenes in a grid. A .npz file contains these arrays, with the slots in the order
    of generation:
      images      uint8    N x H x W x 3
      slot_rgb    uint8    N x K x H x W x 3   the colours of each slot
      slot_masks  float16  N x K x H x W x 1   each slot's share of a pixel; they sum to 1 over the slots

    With --condition, the .png shows the image, its reconstruction and its numbered slots, followed by the new scenes.
    The .npz has an additional array, kept (int64): the positions of the slots that were kept from the image.

    The same seed gives the same file. An existing file is never overwritten.

    For example:
      pyro-sri sample runs/rooms
      pyro-sri sample runs/rooms --num 16 --slots 5 --temperature 0.7 --out calm.png
      pyro-sri sample runs/rooms --num 10000 --seed 1 --out scenes.npz

    To edit an image, first look at its slots. Then keep some and imagine the others, remove one, or imagine one more
    (the eighth, in the last line below). The slots and their numbers depend on --seed:
      pyro-sri sample runs/rooms --condition photo.png
      pyro-sri sample runs/rooms --condition photo.png --keep-slots 0,2 --num 16
      pyro-sri sample runs/rooms --condition photo.png --remove-slots 1
      pyro-sri sample runs/rooms --condition rooms.h5:5 --slots 8

    Args:
        run: A run directory, or the name of a preset with bundled weights.
        num: Number of scenes.
        slots: Number of slots per scene (if not given: as many as in training, or as the edited image has left). More
            slots can draw more objects.
        temperature: Factor that multiplies every standard deviation of the prior. 1 samples from the model as it is,
            lower values give more typical scenes, and 0 gives the mean scene for any seed.
        seed: Random seed.
        out: The .png, .pdf, .svg or .npz file to write (if not given: an unused name in RUN/samples).
        condition: Image to edit: a picture file, or FILE.h5:INDEX for a test image of a dataset file. If necessary, the
            image is cropped to its middle square and resized.
        keep_slots: Numbers of the slots to keep, for example 0,2. The others are imagined (if not given: keep all).
        remove_slots: Numbers of the slots to remove, for example 1.

    Raises:
        UserError: For a value out of range, an image or a system that cannot be edited, or a file that exists or cannot
            be written.
    """
    _check(num, slots, temperature)
    check_seed(seed)
    if out is not None:
        check_new_file(out, (".png", ".npz", *(f".{kind}" for kind in VECTORS)))
    if condition is None and (keep_slots, remove_slots) != (None, None):
        raise UserError("--keep-slots and --remove-slots need an image; add --condition IMAGE")
    found = find_run(run)
    stem = "samples" if condition is None else "edited"
    path = out or _free_name(_samples_folder(found), f"{stem}-seed{seed}", ".png")
    image = None if condition is None else read_image(condition, found.config.image_size)
    model, guide = found.load()
    if untrained := found.config.untrained(found.step):
        note(f"warning: {untrained}")
    suffix = path.suffix.lower()
    bytes_per_pixel = 3 if suffix != ".npz" else 3 + 5 * (slots or model.num_slots)
    check_memory(f"{num} scenes in one file", bytes_per_pixel * found.config.image_size**2 * num)
    pyro.set_rng_seed(seed)
    if image is None:
        drawn = Drawn(num, draw_scenes(model, num, num_slots=slots, temperature=temperature), grid, {}, "")
    else:
        inferred = infer_slots(guide, image)
        edit = plan_edit(inferred.shape[1], keep_slots, remove_slots, slots)
        drawn = _draw_edited(model, guide, image, inferred, edit, num, temperature)
    if suffix != ".npz":
        picture = drawn.lay_out(np.concatenate([to_uint8(scenes.images) for scenes in drawn.pieces]))
        kind = next((kind for kind in VECTORS if suffix == f".{kind}"), None)
        content = png(picture) if kind is None else draw_vector(picture, kind)
        write_atomically(path, lambda file: file.write(content))
    else:
        arrays: dict[str, Any] = _arrays(drawn.pieces) | drawn.arrays
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
    say(f"wrote {drawn.num} {'scene' if drawn.num == 1 else 'scenes'} to {path}{drawn.remark}")


class Drawn(NamedTuple):
    """Scenes that are to be written to a file.

    Attributes:
        num: The number of scenes.
        pieces: The scenes, a few at a time.
        lay_out: Makes the picture from the images, uint8 [N, H, W, 3].
        arrays: Additional arrays for a .npz file.
        remark: Text to add to the message.
    """

    num: int
    pieces: Iterator[Scenes]
    lay_out: Callable[[NDArray[np.uint8]], Picture]
    arrays: dict[str, NDArray[Any]]
    remark: str


class Edit(NamedTuple):
    """What happens to the slots of an image.

    Attributes:
        kept: The slots that are kept.
        removed: The slots that are removed.
        places: The new positions of the kept slots, in the same order.
        num_slots: The number of slots afterwards. Slots at other positions are imagined.
    """

    kept: list[int]
    removed: list[int]
    places: list[int]
    num_slots: int

    @property
    def imagines(self) -> bool:
        """Whether any slot is imagined."""
        return len(self.places) < self.num_slots


def plan_edit(num_inferred: int, keep_slots: str | None, remove_slots: str | None, num_slots: int | None) -> Edit:
    """Checks the options for an edit.

    Args:
        num_inferred: The number of slots of the image.
        keep_slots: The option, or None.
        remove_slots: The option, or None.
        num_slots: The number of slots afterwards. None means all slots that are not removed.

    Raises:
        UserError: If an option is not a list of slots, or the options contradict each other.
    """
    removed = [] if remove_slots is None else _numbers("--remove-slots", remove_slots, num_inferred)
    left = [k for k in range(num_inferred) if k not in removed]
    kept = left if keep_slots is None else _numbers("--keep-slots", keep_slots, num_inferred)
    if not left:
        raise UserError("--remove-slots removes all slots; remove fewer")
    if both := sorted(set(kept) - set(left)):
        raise UserError(f"slot {both[0]} cannot be both kept and removed; use only one of the two options for it")
    places = [left.index(k) for k in kept]
    num_slots = len(left) if num_slots is None else num_slots
    if max(places) >= num_slots:
        raise UserError(f"--slots {num_slots} is too small to keep slot {kept[-1]}; use {max(places) + 1} or more")
    return Edit(kept, removed, places, num_slots)


def _numbers(option: str, text: str, num_slots: int) -> list[int]:
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise UserError(f"{option} '{text}' is not a list of slots; write numbers separated by commas, for example 0,2")
    numbers = sorted({int(number) for number in text.split(",")})
    if numbers[-1] >= num_slots:
        raise UserError(f"{option}: there is no slot {numbers[-1]}; the slots are 0 to {num_slots - 1}")
    return numbers


def read_image(source: str, size: int) -> Tensor:
    """Reads an image [1, 3, size, size] in [0, 1]. If it is cropped or resized, says so on standard error.

    Args:
        source: A picture file, or FILE.h5:INDEX for an image of a dataset file's last split (test if there is one).
        size: The side that the image should have.

    Raises:
        UserError: If there is no such image.
    """
    if place := re.fullmatch(r"(.+\.h5):(\d{1,9})", source):
        with DatasetFile(place[1]) as file:
            split, index = file.splits[-1], int(place[2])
            if index >= file.num_images(split):
                raise UserError(
                    f"{source} does not exist: the last image of split {split} is {file.num_images(split) - 1}"
                )
            pixels = file.read(file.images(split), [index])[0]
    elif many := re.fullmatch(r"(.+\.h5)(:.*)?", source):
        raise UserError(f"{many[1]} contains many images; choose one by its number, for example {many[1]}:0")
    elif not Path(source).is_file():
        raise UserError(f"there is no picture {source}; name a picture file, or FILE.h5:INDEX")
    else:
        pixels = read_rgb(Path(source))
    height, width, _ = pixels.shape
    side = min(height, width)
    if (height, width) != (size, size):
        cut = "" if height == width else f" cropped to the middle {side}x{side} and"
        note(f"{source} has {width}x{height} pixels:{cut} resized to {size}x{size}")
    fitted = resize_image(pixels[centre(height, width, side)], size).copy()  # Pillow's pixels are read-only
    return to_images(torch.from_numpy(fitted)[None], "cpu")


def _draw_edited(
    model: Model, guide: Guide, image: Tensor, inferred: Tensor, edit: Edit, num: int, temperature: float
) -> Drawn:
    """Draws `num` scenes with some slots of the image, or a single scene if no slot is imagined."""
    slots, remark = remove(inferred, edit.removed), ""
    if edit.imagines:
        options: dict[str, Any] = {
            "propose": guide.propose_scene,
            "num_slots": edit.num_slots,
            "temperature": temperature,
        }
        sizes = [min(SCENES_AT_ONCE, num - start) for start in range(0, num, SCENES_AT_ONCE)]
        imagined = [imagine_rest(model, slots.expand(n, -1, -1), edit.places, **options) for n in sizes]
        slots, effective = (torch.cat(tensors) for tensors in zip(*imagined, strict=True))
        remark = f"; each chosen from {CANDIDATES} candidates (effective number: {effective.mean():.0f})"

    def lay_out(images: NDArray[np.uint8]) -> Picture:
        return _edit_sheet(image, decode(model, inferred), edit, images)

    pieces = (decode(model, some) for some in slots.split(SCENES_AT_ONCE))
    return Drawn(len(slots), pieces, lay_out, {"kept": np.array(edit.places)}, remark)


def _edit_sheet(image: Tensor, inferred: Scenes, edit: Edit, images: NDArray[np.uint8]) -> Picture:
    """The image and its slots in the first row, the new scenes below."""
    first = [*to_uint8(image), *to_uint8(inferred.images), *slot_pictures(inferred.slot_rgb, inferred.slot_masks)[0]]
    words = dict.fromkeys(edit.kept, " kept") | dict.fromkeys(edit.removed, " out")
    headers = [Header(f"slot {k}{words.get(k, '')}", k) for k in range(len(first) - 2)]
    below = list(images) if edit.imagines or edit.removed else []
    rows = [first] + [below[i : i + len(first)] for i in range(0, len(below), len(first))]
    labels = ["inferred", "imagined" if edit.imagines else "edited"]
    return sheet(
        [[enlarge(picture) for picture in row] for row in rows],
        [Header("image"), Header("reconstruction"), *headers],
        labels[: len(rows)],
        row_breaks=[1],
    )


def _check(num: int, slots: int | None, temperature: float) -> None:
    if num < 1:
        raise UserError(f"--num is {num}: it must be 1 or more")
    if slots is not None and not 1 <= slots <= MOST_SLOTS:
        raise UserError(f"--slots {slots} is out of range; use 1 to {MOST_SLOTS}")
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:  # written so that NaN fails
        raise UserError(
            f"--temperature {temperature:g} is out of range; use 0 for the mean scene, or {COLDEST:g} to {HOTTEST:g} "
            "(1 samples from the model as it is)"
        )


def _samples_folder(run: Run) -> Path:
    """The run's own folder; `samples` in the working directory for bundled weights, whose folder belongs to the
    installation."""
    return Path("samples") if run.path.is_relative_to(WEIGHTS) else run.path / "samples"


def _free_name(folder: Path, stem: str, suffix: str) -> Path:
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{name}{suffix}" for name in names) if not path.exists())


def _arrays(pieces: Iterator[Scenes]) -> dict[str, NDArray[Any]]:
    """Images, slots' colours and slots' masks, each in one array."""
    parts = [
        (to_uint8(piece.images), to_uint8(piece.slot_rgb), piece.slot_masks.movedim(-3, -1).numpy().astype(np.float16))
        for piece in pieces
    ]
    return dict(zip(("images", "slot_rgb", "slot_masks"), map(np.concatenate, zip(*parts, strict=True)), strict=True))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(sample, "pyro-sri sample", args)
