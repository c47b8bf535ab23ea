"""ShapeStacks: recorded towers of blocks, with maps of which block is where.

recordings/SCENARIO/rgb-*-cam_N-*.png      224 x 224 pixels
iseg/SCENARIO/iseg-*-cam_N-*.map           an image of one channel: 0 is background, each block has its own value
splits/SPLIT_NAME/train.txt, eval.txt, test.txt     scenarios, one per line
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import Report, SceneArrays
from pyro_sri.data.readers.geometry import centre, resize_image, resize_map, window_attribute
from pyro_sri.data.readers.pictures import files_below, read_picture, read_rgb
from pyro_sri.data.readers.reader import Conversion, Options, reported
from pyro_sri.data.readers.splits import at_most, wanted_splits
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.system.errors import UserError

PUBLISHED_SHAPE = (224, 224)
WINDOW = centre(*PUBLISHED_SHAPE, side=196)
SIZE = 64
MAX_OBJECTS = 6
LISTS = {"train": "train.txt", "val": "eval.txt", "test": "test.txt"}
LAYOUT = "recordings/SCENARIO/*cam_N*.png, iseg/SCENARIO/*cam_N*.map, splits/SPLIT_NAME/train.txt, eval.txt, test.txt"
LONGEST_NAME = 60  # of a scenario; the published ones have about 50 letters
CAMERA = re.compile(r"cam_(\d+)")


def is_shapestacks_folder(path: Path) -> bool:
    """Whether a folder has ShapeStacks' recordings."""
    return (path / "recordings").is_dir()


def read_shapestacks(path: Path, options: Options, progress: Report) -> Conversion:
    """Read a folder of ShapeStacks: the pictures of every scenario of a split, by camera.

    Blocks are numbered by their values in the map. A split has masks if there is any map for it.

    Raises:
        UserError: If the folder has another layout, or, while scenes are taken, if a map is missing, a picture cannot
            be read or is not 224 x 224 pixels, or a map has more blocks than `max_objects`.
    """
    if not is_shapestacks_folder(path) or not (path / "splits").is_dir():
        raise UserError(f"{path} is not a complete ShapeStacks folder, which has {LAYOUT}")
    split_name = _split_name(path / "splits", options.split_name)
    lists = {split: path / "splits" / split_name / name for split, name in LISTS.items()}
    available = [split for split, file in lists.items() if file.is_file()]
    if not available:
        raise UserError(f"{path}/splits/{split_name} has none of {', '.join(LISTS.values())}; add one")
    wanted = wanted_splits(available, options, path)
    size, max_objects = options.size or SIZE, options.max_objects or MAX_OBJECTS
    attributes: dict[str, object] = {
        "source": "shapestacks",
        "dataset": "shapestacks",
        "split_name": split_name,
        "files": [lists[split].relative_to(path).as_posix() for split in wanted],
        "crop": window_attribute(WINDOW),
        "size": size,
        "max_objects": max_objects,
    }
    if options.cameras is not None:
        attributes["cameras"] = list(options.cameras)

    def pieces(split: str) -> Iterator[SceneArrays]:
        scenarios = _scenarios(lists[split], path / "recordings")
        has_masks = any(_by_camera(path / "iseg" / scenario, "iseg") for scenario in scenarios)
        counted = reported(scenarios, f"scenarios of {split}", len(scenarios), progress)
        shots = _shots(path, counted, options.cameras, has_masks)
        scenes = (_scene(picture, blocks, size, max_objects) for picture, blocks in shots)
        limited = at_most(scenes, options.counts[split], f"scenes in {lists[split]}")
        return stack(limited, 1 + max_objects if has_masks else None)

    return Conversion({split: pieces(split) for split in wanted}, attributes)


def _split_name(folder: Path, name: str | None) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if name in names:
        return name
    if not names:
        raise UserError(f"{folder} is empty; it must have SPLIT_NAME/train.txt, eval.txt, test.txt")
    if name is not None:
        raise UserError(f"{folder} has no {name!r}; it has {', '.join(names)}")
    if len(names) > 1:
        raise UserError(f"{folder} has {', '.join(names)}; choose one with --split-name")
    return names[0]


def _scenarios(file: Path, recordings: Path) -> list[str]:
    """The scenarios in a list, perhaps with a path before their names or a suffix after them."""
    try:
        lines = [Path(line.strip()) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        raise UserError(f"{file} cannot be read; it must have one scenario per line") from None
    for number, line in enumerate(lines, 1):
        if line.name in ("", "..") or len(line.name) > LONGEST_NAME or not line.name.isprintable():
            raise UserError(f"{file}: scenario {number} is not a folder name; download the list again")
    return [line.name if (recordings / line.name).is_dir() else line.stem for line in lines]


def _by_camera(folder: Path, prefix: str) -> dict[int, list[Path]]:
    """The files of a folder by the camera in their names: those with the prefix, or all if there are none."""
    files = [Path(name) for name in files_below(folder)] if folder.is_dir() else []
    named = [(file, match) for file in files if (match := CAMERA.search(file.name))]
    cameras: dict[int, list[Path]] = {}
    for file, match in [item for item in named if item[0].name.startswith(prefix)] or named:
        cameras.setdefault(int(match[1]), []).append(file)
    return cameras


def _shots(
    path: Path, scenarios: Iterable[str], cameras: Sequence[int] | None, has_masks: bool
) -> Iterator[tuple[Path, Path | None]]:
    """Every picture with the map of its camera."""
    for scenario in scenarios:
        pictures = _by_camera(path / "recordings" / scenario, "rgb")
        maps = _by_camera(path / "iseg" / scenario, "iseg")
        if not pictures:
            raise UserError(f"{path}/recordings/{scenario} has no picture with cam_N in its name; complete the folder")
        for camera in sorted(pictures) if cameras is None else cameras:
            if camera not in pictures:
                raise UserError(f"{path}/recordings/{scenario} has no picture of camera {camera}; see --cameras")
            found = maps.get(camera, [])
            if has_masks and len(found) != 1:
                number = "no map" if not found else f"{len(found)} maps"
                raise UserError(f"{path}/iseg/{scenario} has {number} for camera {camera}; there must be one")
            for picture in pictures[camera]:
                yield picture, found[0] if has_masks else None


def _scene(picture: Path, blocks: Path | None, size: int, max_objects: int) -> Scene:
    image = _of_published_shape(read_rgb(picture), picture)
    entities = None if blocks is None else resize_map(_block_map(blocks, max_objects)[WINDOW], size)
    return Scene(resize_image(image[WINDOW], size), entities)


def _block_map(path: Path, max_objects: int) -> NDArray[np.uint8]:
    """The block of each pixel of a map, [224, 224]: 0 is none, 1 is the one with the smallest value."""
    values = _of_published_shape(np.asarray(read_picture(path)), path)
    if values.ndim == 3:
        colours = values[..., : max(1, values.shape[2] // 3 * 3)]
        if (colours != colours[..., :1]).any():
            raise UserError(f"{path} is coloured; a map must have one channel, or equal channels")
        values = colours[..., 0]
    blocks = np.unique(values[values != 0])
    if len(blocks) > max_objects:
        raise UserError(f"{path} has {len(blocks)} blocks; use --max-objects {len(blocks)}, or replace the map")
    return np.searchsorted(blocks, values, side="right").astype(np.uint8)


def _of_published_shape(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.shape[:2] != PUBLISHED_SHAPE:
        height, width = array.shape[:2]
        raise UserError(f"{path} is {width} x {height} pixels; pictures of ShapeStacks are 224 x 224")
    return array
