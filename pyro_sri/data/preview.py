"""A dataset file at a glance: a contact sheet, and a summary in numbers."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.hdf5 import pieces
from pyro_sri.metrics.segmentation import entity_labels
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home
from pyro_sri.system.seeds import check_seed

# Pixels of the sheet.
SHEET_WIDTH = 1760  # at most
TILE_SIDE = 104  # at least, by whole-number enlargement, so that no pixel is blurred
GAP, PAIR_GAP = 1, 6
TITLE_HEIGHT = 26
PAIRS_PER_ROW = 8

PAPER, INK = (255, 255, 255), (20, 20, 20)
OBJECT_COLOURS = np.array(
    [
        (230, 57, 60),
        (61, 176, 76),
        (68, 119, 255),
        (255, 225, 25),
        (66, 212, 244),
        (240, 50, 230),
        (245, 130, 49),
        (191, 239, 69),
        (250, 190, 212),
        (145, 30, 180),
    ],
    dtype=np.uint8,
)
BACKGROUND_COLOURS = np.array([(40, 40, 44), (62, 62, 68), (84, 84, 92), (106, 106, 116)], dtype=np.uint8)

# Attributes that `info` reports under their own names. The other attributes of a file are its parameters.
NOT_PARAMETERS = ("source", "generator", "generator_version", "factor_names", "background_entities")


def contact_sheet(path: Path | str, out: Path | str, num: int = 32, split: str = "train", seed: int = 0) -> None:
    """Write a sheet of random scenes, each image next to its coloured instance masks if the file has them.

    The background is dark. Objects at the same place among the masks have the same colour. The title says "generated"
    if the scenes are.

    Args:
        path: A dataset file.
        out: The PNG to write. An existing file is never changed.
        num: Number of scenes; all if the split has fewer.
        split: The split to show.
        seed: Seed of the choice of scenes. They are shown in the order of the file.

    Raises:
        UserError: If the file does not have the layout or the split, or the sheet cannot be written.
    """
    out = from_home(out)
    check_seed(seed)
    if num < 1:
        raise UserError(f"a preview of {num} scenes is empty; use --num 1 or more")
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} does not end in .png; a preview is a PNG picture")
    if out.exists():
        raise UserError(f"{out} already exists; choose another name or remove it first")
    with DatasetFile(path) as file:
        total = file.num_images(split)
        items = np.sort(np.random.default_rng(seed).permutation(total)[:num]).tolist()
        images, masks = file.read(file.images(split), items), file.visible_masks(split, items)  # [n, H, W, 3]
        tiles = [images] if masks is None else [images, colour_masks(masks, file)]
        shown = "" if masks is None else "  |  right: instance masks"
        drawn = "" if num >= total else f" at random (seed {seed})"
        title = f"{_origin(file)}  |  {split}, {len(images)} of {total}{drawn}  |  {file.image_size} px{shown}"
    sheet = _arrange(tiles, title)
    temporary = out.with_name(f".{out.name}.unfinished")  # if a kill leaves it behind, the next attempt overwrites it
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(temporary, "PNG")
        temporary.rename(out)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {out} ({error.strerror}); check the folder and the free space") from None


def colour_masks(masks: NDArray[np.uint8], file: DatasetFile) -> NDArray[np.uint8]:
    """Instance masks as pictures: backgrounds in dark greys, objects in bright colours, the rest in black.

    Args:
        masks: [n, O, H, W, 1], 255 inside; where they overlap, the higher entity is in front.
        file: Their file, which knows the background entities.

    Returns:
        uint8 [n, H, W, 3].
    """
    objects = [entity for entity in range(masks.shape[1]) if entity not in file.background_entities]
    colours = np.zeros((masks.shape[1], 3), dtype=np.uint8)
    for entities, table in ((objects, OBJECT_COLOURS), (file.background_entities, BACKGROUND_COLOURS)):
        for place, entity in enumerate(entities):
            colours[entity] = table[place % len(table)]
    return np.concatenate([colours, np.zeros((1, 3), dtype=np.uint8)])[entity_labels(masks)]  # -1: no entity


def info(path: Path | str) -> dict[str, Any]:
    """A summary of a dataset file, which is read once in full.

    Args:
        path: A dataset file.

    Returns:
        Plain values, ready for JSON: path; source ("generated", another name from the file, or "unknown"); generated;
        generator and generator_version, or None; parameters, by name; factor_names; image_size; background_entities;
        splits; unused, the groups with images that are no splits; content_hash (sha256 of all arrays). Each split has
        num_images; the shapes of images, masks and factors, or None; objects_per_scene, the number of scenes by their
        number of objects with at least one pixel; and background_share, the share of pixels in no object. The last two
        are None without masks.

    Raises:
        UserError: If the file does not have the layout or is damaged.
    """
    with DatasetFile(path) as file:
        return {
            "path": str(file.path),
            "source": file.attributes.get("source", "unknown"),
            "generated": file.generated,
            "generator": file.attributes.get("generator"),
            "generator_version": file.attributes.get("generator_version"),
            "parameters": {name: value for name, value in file.attributes.items() if name not in NOT_PARAMETERS},
            "factor_names": file.attributes.get("factor_names"),
            "image_size": file.image_size,
            "background_entities": list(file.background_entities),
            "splits": {split: _split_info(file, split) for split in file.splits},
            "unused": file.unused,
            "content_hash": file.content_hash(),
        }


def _split_info(file: DatasetFile, split: str) -> dict[str, Any]:
    arrays = {"images": file.images(split), "masks": file.masks(split), "factors": file.factors(split)}
    shapes = {name: None if array is None else list(array.shape) for name, array in arrays.items()}
    return {"num_images": file.num_images(split), **shapes, **_object_info(file, split)}


def _object_info(file: DatasetFile, split: str) -> dict[str, Any]:
    masks = file.masks(split)
    if masks is None:
        return {"objects_per_scene": None, "background_share": None}
    objects = [entity for entity in range(masks.shape[1]) if entity not in file.background_entities]
    counts: Counter[int] = Counter()
    covered = 0
    for items in pieces(masks):
        visible = file.visible_masks(split, items)
        assert visible is not None
        piece = visible[:, objects]
        counts.update(piece.any((2, 3, 4)).sum(1).tolist())
        covered += int(np.count_nonzero(piece.any(1)))
    share = 1 - covered / (len(masks) * file.image_size**2)
    return {"objects_per_scene": dict(sorted(counts.items())), "background_share": share}


def _origin(file: DatasetFile) -> str:
    attributes = file.attributes
    if file.generated:
        return f"{attributes.get('generator', 'scenes')}, generated, seed {attributes.get('seed')}"
    return f"{file.path.name}, {attributes.get('source', 'source unknown')}"


def _arrange(tiles: list[NDArray[np.uint8]], title: str) -> Image.Image:
    """Arrange scenes in rows under a title, with the tiles of a scene side by side."""
    num, side = len(tiles[0]), tiles[0].shape[1]
    enlarge = -(-TILE_SIDE // side)
    tile = side * enlarge + GAP
    pair = tile * len(tiles) + PAIR_GAP
    columns = max(1, min(num, PAIRS_PER_ROW, SHEET_WIDTH // pair))
    rows = -(-num // columns)
    sheet = Image.new("RGB", (columns * pair + PAIR_GAP, TITLE_HEIGHT + rows * (tile + PAIR_GAP)), PAPER)
    for scene in range(num):
        row, column = divmod(scene, columns)
        for place, pictures in enumerate(tiles):
            picture = Image.fromarray(pictures[scene]).resize((side * enlarge,) * 2, Image.Resampling.NEAREST)
            sheet.paste(picture, (PAIR_GAP + column * pair + place * tile, TITLE_HEIGHT + row * (tile + PAIR_GAP)))
    ImageDraw.Draw(sheet).text((PAIR_GAP, 5), title, fill=INK, font=ImageFont.load_default(14))
    return sheet
