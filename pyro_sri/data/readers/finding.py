"""Decides which pictures of a folder are images, which are maps of images, and which split they are in."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pyro_sri.data.readers.pictures import SUFFIXES, files_below, is_dropping
from pyro_sri.data.readers.twins import check_twins
from pyro_sri.data.split_names import is_held_out, may_be_split, split_names
from pyro_sri.system.errors import UserError

WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+")
# Words in the names of maps of images. Those in the names of images are below.
MAP_WORDS = frozenset(
    {"mask", "masks", "seg", "segs", "segm", "segmentation", "segmentations", "semantic", "panoptic", "instance"}
    | {"instances", "label", "labels", "labelmap", "annotation", "annotations", "annot", "gt", "groundtruth"}
    | {"depth", "depths", "disparity", "normals", "flow", "albedo", "matte", "saliency"}
)
# Also such words, but only next to images of the same names: they may also describe a picture.
WEAK_MAP_WORDS = frozenset(
    {"normal", "flat", "shadow", "shadows", "edges", "alpha", "target", "targets", "truth", "ids", "index"}
)
IMAGE_WORDS = frozenset(
    {"image", "images", "img", "imgs", "im", "picture", "pictures", "photo", "photos", "rgb", "jpeg", "frame", "frames"}
)
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm"})
UNREAD = VIDEOS | {".heic", ".heif", ".avif", ".jp2", ".svg", ".exr", ".tga", ".npy", ".npz", ".dng", ".raw"}

Parts = tuple[str, ...]  # of a path below the folder


class Picture(NamedTuple):
    """A picture in a folder.

    Attributes:
        path: The file.
        split: The split that a folder above it is named for, or None.
        words: The words of its path below the folder that identify it; numbers without leading zeros.
        name_words: Those of its file name alone.
        area: The folders above it, below the split.
        is_map: Whether names of folders say that it is a map of an image.
    """

    path: str
    split: str | None
    words: Parts
    name_words: Parts
    area: str
    is_map: bool


class Found(NamedTuple):
    """The pictures of a folder.

    Attributes:
        images: The images by split; under None if there are no splits.
        maps: Pictures that are maps of images, according to their names.
        sentences: What was left out.
    """

    images: dict[str | None, list[Picture]]
    maps: list[Picture]
    sentences: list[str]


def find_pictures(folder: Path, without: Path | None = None) -> Found:
    """Finds the images of a folder.

    Args:
        folder: The folder, searched with all folders in it.
        without: A folder of masks, which is skipped if it is in the folder.

    Raises:
        UserError: If there are no images, or it is not clear which pictures are images or which split they are in.
    """
    files = files_below(folder)
    splits = _split_folders(folder, files)
    pictures = _pictures(folder, files, splits)
    if without is not None and without.resolve() != folder.resolve():
        inside = f"{without.resolve()}{os.sep}"
        pictures = [picture for picture in pictures if not f"{Path(picture.path).resolve()}".startswith(inside)]
    images, maps = _divided(pictures)
    if not images:
        raise UserError(_no_images(folder, files, maps))
    for split in dict.fromkeys(picture.split for picture in images):
        check_twins({picture.path: picture.area for picture in images if picture.split == split})
    sentences: list[str] = []
    if maps and without is None:
        beside = ", ".join(_counted(_area_name(folder, picture) for picture in maps))
        sentences.append(
            f"left out {beside}: their names say that they are maps, not images; give masks with --masks {folder}"
        )
    unread = Counter(Path(name).suffix.lower() for name in files)
    if others := {suffix: count for suffix, count in unread.items() if suffix in UNREAD}:
        sentences.append("not read: " + ", ".join(f"{count} files {suffix}" for suffix, count in others.items()))
    return Found(_by_split(folder, images, splits, sentences), maps, sentences)


def words_of(name: str) -> tuple[str, ...]:
    """The words and numbers of a name, in lower case, without those that say what kind of picture it is."""
    kinds = MAP_WORDS | WEAK_MAP_WORDS | IMAGE_WORDS
    words = (word.lower() for word in WORDS.findall(unicodedata.normalize("NFC", name)))
    return tuple(str(int(word)) if word.isdecimal() else word for word in words if word not in kinds)


def find_masks(folder: Path) -> list[Picture]:
    """All pictures of a folder of masks."""
    files = files_below(folder)
    return _pictures(folder, files, _split_folders(folder, files))


def _pictures(folder: Path, files: Iterable[str], splits: Mapping[Parts, str]) -> list[Picture]:
    return [_picture(folder, name, splits) for name in files if Path(name).suffix.lower() in SUFFIXES]


def _picture(folder: Path, name: str, splits: Mapping[Parts, str]) -> Picture:
    above = _above(folder, name)
    named = [splits.get(above[: place + 1]) for place in range(len(above))]
    split = next(filter(None, named), None)
    rest = [part for part, of_split in zip(above, named, strict=True) if not of_split]
    stem = words_of(Path(name).stem)
    words = (*([split] if split else []), *(word for part in rest for word in words_of(part)), *stem)
    return Picture(name, split, words, stem, os.sep.join(rest), any(_words(part) & MAP_WORDS for part in above))


def _above(folder: Path, name: str) -> Parts:
    """The folders above a file, below the folder."""
    return Path(name).relative_to(folder).parts[:-1]


def _split_folders(folder: Path, files: Iterable[str]) -> dict[Parts, str]:
    """The folders that are named for splits, with the folders above them; also empty ones directly in the folder."""
    beside: dict[Parts, dict[str, None]] = {(): dict.fromkeys(_folders_in(folder))}
    for name in files:
        above = _above(folder, name)
        for place, part in enumerate(above):
            beside.setdefault(above[:place], {})[part] = None
    return {(*above, name): split for above, names in beside.items() for name, split in split_names(names).items()}


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_dropping(entry.name))


def _words(name: str) -> set[str]:
    return {word.lower() for word in WORDS.findall(name)}


def _divided(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Images, and maps: by the names of their folders, or by their own names next to images of the same names."""
    plain = {picture.words for picture in pictures if not _may_be_map(picture)}
    images: list[Picture] = []
    maps: list[Picture] = []
    for picture in pictures:
        beside = _may_be_map(picture) and any(picture.words[:end] in plain for end in range(1, len(picture.words) + 1))
        (maps if picture.is_map or beside else images).append(picture)
    return images, maps


def _may_be_map(picture: Picture) -> bool:
    words = _words(picture.area) | _words(Path(picture.path).stem)
    return bool(words & (MAP_WORDS | WEAK_MAP_WORDS))


def _no_images(folder: Path, files: Sequence[str], maps: Sequence[Picture]) -> str:
    if maps:
        beside = ", ".join(_counted(_area_name(folder, picture) for picture in maps))
        return f"{folder} has no images, only what seem to be maps of images ({beside}); name the folder of the images"
    if any(Path(name).suffix.lower() in VIDEOS for name in files):
        return f"{folder} has videos, as CATER does, which are not read; extract pictures from them first"
    return f"{folder} has no images ({', '.join(sorted(SUFFIXES))})"


def _area_name(folder: Path, picture: Picture) -> str:
    return picture.area or folder.name


def _counted(names: Iterable[str]) -> list[str]:
    return [f"{count} in {name}" for name, count in sorted(Counter(names).items())]


def _by_split(
    folder: Path, images: Sequence[Picture], named: Mapping[Parts, str], sentences: list[str]
) -> dict[str | None, list[Picture]]:
    places = {picture.path: _named_for_splits(folder, picture, named) for picture in images}
    _check_split_folders(folder, {parts for some in places.values() for parts in some}, named)
    splits: dict[str | None, list[Picture]] = {}
    for picture in images:
        splits.setdefault(picture.split, []).append(picture)
    if None in splits:
        _check_unclear(folder, splits, sentences)
    others = splits.pop(None, []) if len(splits) > 1 else []
    if others and "train" not in splits:
        raise UserError(
            f"{folder} has {', '.join(map(str, splits))}, and {len(others)} other images, such as {others[0].path}; "
            "put those into a folder train, or name a folder in it"
        )
    if None not in splits:
        told = [f"{'/'.join(places[some[0].path][0])} is {split}" for split, some in splits.items()]
        sentences.append(f"splits by folder: {', '.join(told)}")
    if others:
        outside = ", ".join(_counted(_area_name(folder, picture) for picture in others))
        sentences.append(f"left out {outside}: outside of the folders of the splits")
    return splits


def _check_split_folders(folder: Path, places: Collection[Parts], named: Mapping[Parts, str]) -> None:
    """Raises UserError if two folders side by side seem to be the same split, or one named for a split has no images.

    Args:
        folder: The folder.
        places: The folders in it that are named for splits and have images.
        named: All folders that are named for splits.
    """
    empty = [parts for parts in named if len(parts) == 1 and parts not in places and not _words(parts[0]) & MAP_WORDS]
    known: dict[tuple[Parts, str], str] = {}
    for *above, name in sorted({*places, *empty}):
        split = named[(*above, name)]
        other = known.setdefault((tuple(above), split), name)
        if other != name:
            where = folder.joinpath(*above)
            raise UserError(
                f"{where} has the folders {other} and {name}, which both seem to be {split}; rename one, or put both "
                f"into a folder {split}"
            )
    for (name,) in sorted(empty):
        raise UserError(f"{folder / name} has no images ({', '.join(sorted(SUFFIXES))})")


def _check_unclear(folder: Path, splits: Mapping[str | None, Sequence[Picture]], sentences: list[str]) -> None:
    """Raises UserError if images would be mixed with others that are held out; says which folders may be splits."""
    unclear = {name for picture in splits[None] for name in _above(folder, picture.path) if may_be_split(name)}
    for name in sorted(filter(is_held_out, unclear)):
        if "train" not in splits and any(name not in _above(folder, picture.path) for picture in splits[None]):
            raise UserError(
                f"{folder}: the images in {name} seem to be held out; rename {name} to val or test and put the others "
                "into a folder train, or name a folder in it"
            )
    if unclear and len(splits) == 1:
        names = ", ".join(sorted(unclear))
        sentences.append(f"no splits by folder: if {names} is one, rename it to train, val or test")


def _named_for_splits(folder: Path, picture: Picture, named: Mapping[Parts, str]) -> list[Parts]:
    """The folders above a picture that are named for splits, each with the folders above it."""
    above = _above(folder, picture.path)
    return [above[: place + 1] for place in range(len(above)) if above[: place + 1] in named]
