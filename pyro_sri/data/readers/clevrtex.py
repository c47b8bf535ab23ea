"""ClevrTex: CLEVR with textures, as its authors publish it.

clevrtex_VARIANT/N/CLEVRTEX_VARIANT_NNNNNN.png         240 x 320 pixels
clevrtex_VARIANT/N/CLEVRTEX_VARIANT_NNNNNN_flat.png    index map: 0 is the background, i is object i of the json
clevrtex_VARIANT/N/CLEVRTEX_VARIANT_NNNNNN.json        what the objects are

There may also be pictures of depth, shadows, normals and unlit colours, which are not read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import Report, SceneArrays
from pyro_sri.data.readers.account import Account, describe_cut
from pyro_sri.data.readers.geometry import centre, resize_image, window_attribute
from pyro_sri.data.readers.pictures import files_below, read_picture, read_rgb
from pyro_sri.data.readers.reader import Conversion, Options, reported
from pyro_sri.data.readers.splits import wanted_splits
from pyro_sri.data.readers.stacking import Scene, stack
from pyro_sri.system.errors import UserError

SHAPE = (240, 320)
WINDOW = centre(*SHAPE, side=192)  # 0.8 of the height, as the authors cut it
SIZE = 128
MAX_OBJECTS = 10
SCENE = re.compile(r"(CLEVRTEX_\w+_)(\d{6})(_flat)?\.(png|json)", re.IGNORECASE)
# The authors' splits: test is the first tenth of the scenes by their numbers, val the second.
SPLITS = {"train": (0.2, 1.0), "val": (0.1, 0.2), "test": (0.0, 0.1)}
ONLY_TEST = "outd"  # the variant with other shapes and textures has no splits: all of it is for testing
FACTOR_NAMES = ("visible", "shape", "material", "colour", "size", "rotation", "x", "y", "z", "pixel_x", "pixel_y")
TEXTS = {"shape": "shape", "material": "material", "colour": "color", "size": "size"}  # and their names in the json
LONGEST_JSON = 1024**2  # characters


def is_clevrtex_folder(path: Path) -> bool:
    """Whether a folder has scenes of ClevrTex."""
    if not path.is_dir():
        return False
    levels = (path.glob("*_flat.png"), path.glob("*/*_flat.png"), path.glob("*/*/*_flat.png"))
    return any(SCENE.fullmatch(file.name) for level in levels for file in level)


def read_clevrtex(path: Path, options: Options, progress: Report) -> Conversion:
    """Read a folder with one variant of ClevrTex.

    The central 192 x 192 pixels are resized to 128, as the authors do. Factors are (visible, shape, material, colour,
    size, rotation, x, y, z, pixel_x, pixel_y) of the background, all 0, and of up to 10 objects. Texts are numbered in
    alphabetical order, and pixels are those of the whole picture.

    Raises:
        UserError: If the folder has another layout or several variants, or lacks maps; while scenes are taken, if a
            file cannot be read or has the wrong content.
    """
    size, account, scenes = options.size or SIZE, Account(), _find(path)
    variant = scenes[0].name.split("_")[1].lower()
    shares = {"test": (0.0, 1.0)} if variant == ONLY_TEST else SPLITS
    parts = {split: scenes[int(a * len(scenes)) : int(b * len(scenes))] for split, (a, b) in shares.items()}
    wanted = wanted_splits([split for split, some in parts.items() if some], options, path)
    tables = _tables([scene for split in wanted for scene in parts[split]], progress)
    account.say(describe_cut(SHAPE, WINDOW, size))
    told = ", ".join(f"{len(parts[split])} {split}" for split in wanted)
    account.say(f"split by the numbers of the scenes, as the authors do: {told}")
    attributes: dict[str, object] = {
        "source": "clevrtex",
        "dataset": f"clevrtex_{variant}",
        "files": [path.resolve().name],
        "crop": window_attribute(WINDOW),
        "size": size,
        "factor_names": list(FACTOR_NAMES),
        **{f"{name}s": table for name, table in tables.items() if table},
    }

    def pieces(split: str) -> Iterator[SceneArrays]:
        chosen = parts[split][: options.counts[split]]
        read = (_scene(scene, tables, size, account) for scene in reported(chosen, split, len(chosen), progress))
        return stack(read, 1 + MAX_OBJECTS)

    return Conversion({split: pieces(split) for split in wanted}, attributes, account.sentences)


def _find(path: Path) -> list[Path]:
    """The pictures of all scenes, without their suffix, in the order of their numbers."""
    found: dict[str, set[str]] = {}
    places: dict[str, Path] = {}
    for name in files_below(path):
        match = SCENE.fullmatch(Path(name).name)
        if match:
            scene = f"{match[1]}{match[2]}"
            found.setdefault(scene, set()).add(f"{match[3] or ''}.{match[4]}")
            places[scene] = Path(name).with_name(scene)
    prefixes = sorted({scene[:-6] for scene in found})
    if not found:
        raise UserError(f"{path} has no files CLEVRTEX_VARIANT_NNNNNN.png, as ClevrTex has; complete the folder")
    if len(prefixes) > 1:
        raise UserError(f"{path} has several variants ({', '.join(prefixes)}); convert the folder of one")
    for scene, suffixes in found.items():
        for suffix in (".png", "_flat.png", ".json"):
            if suffix not in suffixes:
                raise UserError(f"{places[scene]}{suffix} is missing; complete the folder")
    return [places[scene] for scene in sorted(found)]


def _objects(scene: Path) -> list[Mapping[str, Any]]:
    """What the json says about each object, in the order of their numbers."""
    file = scene.with_name(f"{scene.name}.json")
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(LONGEST_JSON + 1)
        objects = json.loads(text)["objects"] if len(text) <= LONGEST_JSON else None
        if not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
            raise ValueError("objects")
        ordered = sorted(enumerate(objects, 1), key=lambda pair: int(pair[1].get("index", pair[0])))
        if [int(item.get("index", place)) for place, item in ordered] != list(range(1, len(objects) + 1)):
            raise ValueError("indices")
        return [item for _, item in ordered]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UserError(
            f"{file} does not describe up to {MAX_OBJECTS} objects as in ClevrTex; download it again"
        ) from None


def _tables(scenes: Sequence[Path], progress: Report) -> dict[str, list[str]]:
    """The values of each factor that is a text, in alphabetical order."""
    texts: dict[str, set[str]] = {name: set() for name in TEXTS}
    for scene in reported(scenes, "json files", len(scenes), progress):
        for item in _objects(scene):
            for name, key in TEXTS.items():
                if item.get(key) is not None:
                    texts[name].add(str(item[key]))
    return {name: sorted(found) for name, found in texts.items()}


def _scene(scene: Path, tables: Mapping[str, Sequence[str]], size: int, account: Account) -> Scene:
    picture, flat = (scene.with_name(f"{scene.name}{suffix}") for suffix in (".png", "_flat.png"))
    image, entities = read_rgb(picture), np.asarray(read_picture(flat))
    for file, array in ((picture, image), (flat, entities)):
        if array.shape[:2] != SHAPE:
            shape = f"{array.shape[0]} x {array.shape[1]}"
            raise UserError(f"{file} has {shape} pixels; pictures of ClevrTex have {SHAPE[0]} x {SHAPE[1]}")
    objects = _objects(scene)
    if entities.ndim != 2 or entities.max() > len(objects):
        raise UserError(f"{flat} is not a map of the {len(objects)} objects in its json; download it again")
    cut = account.cut(entities.astype(np.uint8), WINDOW, size)
    return Scene(resize_image(image[WINDOW], size), cut, _factors(objects, tables, scene))


def _factors(
    objects: Sequence[Mapping[str, Any]], tables: Mapping[str, Sequence[str]], scene: Path
) -> NDArray[np.float32]:
    factors = np.zeros((1 + MAX_OBJECTS, len(FACTOR_NAMES)), dtype=np.float32)
    try:
        for number, item in enumerate(objects, 1):
            texts = [
                tables[name].index(str(item[key])) if item.get(key) is not None else 0 for name, key in TEXTS.items()
            ]
            places = (*(item.get("3d_coords") or (0, 0, 0))[:3], *(item.get("pixel_coords") or (0, 0))[:2])
            factors[number] = (1, *texts, item.get("rotation", 0), *places)
    except (TypeError, ValueError):
        raise UserError(f"{scene}.json has values that are not numbers; download it again") from None
    if not np.isfinite(factors).all():
        raise UserError(f"{scene}.json has values that are not finite; download it again")
    return factors
