"""A plain folder of images, perhaps with their masks in another."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pyro_sri.data.format import SPLITS, Report, SceneArrays
from pyro_sri.data.readers.account import Account, describe_cut
from pyro_sri.data.readers.finding import Found, Picture, find_masks, find_pictures
from pyro_sri.data.readers.geometry import centre, resize_image
from pyro_sri.data.readers.mask_files import Maps, ObjectMasks, check_fit, pair_masks
from pyro_sri.data.readers.pictures import read_picture, rgb
from pyro_sri.data.readers.reader import Conversion, Options, reported
from pyro_sri.data.readers.splits import wanted_splits
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.system.errors import UserError

SIZE = 64
HELD_OUT = 0.1  # of the images become val, and as many test, if a folder has no splits


def read_folder(path: Path, options: Options, progress: Report) -> Conversion:
    """Read a folder of images; folders in it are searched too.

    Folders in it that are named for splits (train, Training, validation, ..) are the splits, in the order of names.
    Without them, images are shuffled by the seed: a tenth is val, a tenth test. Each image is cut to its central
    square, resized, and converted to RGB.

    Raises:
        UserError: If there are no images, or it is not clear what they are; while scenes are taken, for the first that
            cannot be read.
    """
    size, account = options.size or SIZE, Account()
    found = find_pictures(path, options.masks)
    for sentence in found.sentences:
        account.say(sentence)
    splits = _splits(found, options, path, account)
    masks = None
    if options.masks is not None:
        masks = _masks(
            found, options.masks, path, [image for some in splits.values() for image in some], account, progress
        )
    attributes: dict[str, object] = {
        "source": "folder",
        "dataset": path.resolve().name,
        "files": [path.resolve().name],
        "size": size,
    }
    background = (0,) if options.background_entities is None else tuple(options.background_entities)
    if options.background_entities is not None:
        _check_background(background, masks)
        attributes["background_entities"] = list(background)
    shapes: dict[tuple[int, int], int] = {}

    def pieces(split: str) -> Iterator[SceneArrays]:
        scenes = _scenes(splits[split], split, size, masks, shapes, account, progress)
        yield from stack(scenes, None if masks is None else masks.num_entities)
        if masks is not None:
            masks.check()

    def sentences() -> list[str]:
        told = [] if masks is None else masks.sentences()
        return [*_cuts(shapes, size), *account.sentences(), *told]

    return Conversion({split: pieces(split) for split in splits}, attributes, sentences)


def _splits(found: Found, options: Options, path: Path, account: Account) -> dict[str, list[Picture]]:
    """The images of each wanted split."""
    if None in found.images:
        return _divide(found.images[None], options, path, account)
    wanted = wanted_splits([split for split in SPLITS if split in found.images], options, path)
    return {split: found.images[split][: options.counts[split]] for split in wanted}


def _divide(images: Sequence[Picture], options: Options, path: Path, account: Account) -> dict[str, list[Picture]]:
    """The images shuffled by the seed: val, test, and the rest for train."""
    seed, total = options.seed or 0, len(images)
    tenth = max(1, round(HELD_OUT * total)) if total >= 1 / HELD_OUT else int(total > 2)
    val = tenth if options.val is None else options.val
    test = tenth if options.test is None else options.test
    left = total - val - test
    if left < 0 or (left == 0 and options.train != 0):
        asked = f"--val {val} and --test {test}" + ("" if options.train == 0 else ", with at least one left for train")
        raise UserError(f"{total} images of {path} are too few for {asked}; choose smaller numbers")
    if total in (val, test, left) and options.train is None:
        account.say(f"all {total} images are in one split, in the order of their names")
        return {next(split for split, count in (("val", val), ("test", test), ("train", left)) if count): list(images)}
    order = [images[place] for place in np.random.default_rng(seed).permutation(total)]
    parts = {"train": order[val + test :][: options.train], "val": order[:val], "test": order[val : val + test]}
    splits = {split: some for split, some in parts.items() if some}
    counts = ", ".join(f"{len(some)} {split}" for split, some in splits.items())
    account.say(f"{total} images were shuffled with seed {seed} and split: {counts}")
    return splits


def _masks(
    found: Found, folder: Path, path: Path, images: Sequence[Picture], account: Account, progress: Report
) -> Maps | ObjectMasks:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the folder of the masks with --masks")
    beside = folder.resolve() == path.resolve()
    every = [image for some in found.images.values() for image in some]
    files, sentence = pair_masks(every, found.maps if beside else find_masks(folder), folder)
    if sentence:
        account.say(sentence)
    chosen = {image.path for image in images}
    files = files._replace(files={name: some for name, some in files.files.items() if name in chosen})
    return ObjectMasks(files) if files.per_object else Maps(files, progress)


def _check_background(background: Sequence[int], masks: Maps | ObjectMasks | None) -> None:
    if masks is None:
        raise UserError("--background-entities says which masks are background; give masks with --masks")
    if not all(0 <= entity < masks.num_entities for entity in background):
        raise UserError(f"--background-entities must be numbers of entities, 0 to {masks.num_entities - 1}")


def _scenes(
    images: Sequence[Picture],
    what: str,
    size: int,
    masks: Maps | ObjectMasks | None,
    shapes: dict[tuple[int, int], int],
    account: Account,
    progress: Report,
) -> Iterator[Scene]:
    for picture in reported(images, f"images of {what}", len(images), progress):
        decoded = read_picture(Path(picture.path))
        image = rgb(decoded, Path(picture.path))
        height, width, _ = image.shape
        shapes[height, width] = shapes.get((height, width), 0) + 1
        window, entities = centre(height, width, min(height, width)), None
        if masks is not None:
            entities = masks.entities(picture.path)
            check_fit(entities, decoded, picture.path, masks.files[picture.path])
            entities = account.cut(entities, window, size)
        yield Scene(resize_image(image[window], size), entities)


def _cuts(shapes: Mapping[tuple[int, int], int], size: int) -> list[str]:
    """What was done to images of these sizes, in a sentence."""
    if len(shapes) == 1:
        height, width = next(iter(shapes))
        told = describe_cut((height, width), centre(height, width, min(height, width)), size)
        return [told] if told else []
    sides = [min(shape) for shape in shapes]
    square = sum(count for (height, width), count in shapes.items() if height == width)
    other = sum(shapes.values()) - square
    cut = f"{other} images were cut to the square in their middle, and " if other else ""
    return [f"{cut}images with sides of {min(sides)} to {max(sides)} pixels were resized to {size}"]
