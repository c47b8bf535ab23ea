"""Decides which pictures of a folder are images, which are maps of images, and which split they are in."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyro_sri.data.readers.pictures import SUFFIXES, files_below, is_dropping, kind_of_picture
from pyro_sri.data.split_names import split_of
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
ALIKE = 0.8  # of two folders' file names: if this many are equal, one may contain maps of the other's pictures


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
    words: tuple[str, ...]
    name_words: tuple[str, ...]
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
    pictures = [_picture(folder, name) for name in files if Path(name).suffix.lower() in SUFFIXES]
    if without is not None and without.resolve() != folder.resolve():
        inside = f"{without.resolve()}{os.sep}"
        pictures = [picture for picture in pictures if not f"{Path(picture.path).resolve()}".startswith(inside)]
    images, maps = _divided(pictures)
    if not images:
        raise UserError(_no_images(folder, files, maps))
    _check_areas(images)
    sentences = []
    if maps and without is None:
        beside = ", ".join(_counted(_area_name(folder, picture) for picture in maps))
        sentences.append(
            f"left out {beside}: their names say that they are maps, not images; give masks with --masks {folder}"
        )
    unread = Counter(Path(name).suffix.lower() for name in files)
    if others := {suffix: count for suffix, count in unread.items() if suffix in UNREAD}:
        sentences.append("not read: " + ", ".join(f"{count} files {suffix}" for suffix, count in others.items()))
    return Found(_by_split(folder, images, sentences), maps, sentences)


def words_of(name: str) -> tuple[str, ...]:
    """The words and numbers of a name, in lower case, without those that say what kind of picture it is."""
    kinds = MAP_WORDS | WEAK_MAP_WORDS | IMAGE_WORDS
    words = (word.lower() for word in WORDS.findall(unicodedata.normalize("NFC", name)))
    return tuple(str(int(word)) if word.isdecimal() else word for word in words if word not in kinds)


def find_masks(folder: Path) -> list[Picture]:
    """All pictures of a folder of masks."""
    return [_picture(folder, name) for name in files_below(folder) if Path(name).suffix.lower() in SUFFIXES]


def _picture(folder: Path, name: str) -> Picture:
    *above, file = Path(name).relative_to(folder).parts
    split = next((found for part in above if (found := split_of(part))), None)
    rest = [part for part in above if not split_of(part)]
    stem = words_of(Path(file).stem)
    words = (*([split] if split else []), *(word for part in rest for word in words_of(part)), *stem)
    return Picture(name, split, words, stem, os.sep.join(rest), any(_words(part) & MAP_WORDS for part in rest))


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


def _check_areas(images: Sequence[Picture]) -> None:
    """Raises UserError if one of two folders with the same file names seems to contain maps of the other's pictures."""
    areas: dict[tuple[str | None, str], dict[tuple[str, ...], Picture]] = {}
    for picture in images:
        areas.setdefault((picture.split, picture.area), {})[picture.name_words] = picture
    folders = list(areas.items())
    for place, ((split, _), ours) in enumerate(folders):
        for (other_split, _), theirs in folders[place + 1 :]:
            shared = [name for name in ours if name in theirs]
            if split != other_split or len(shared) < ALIKE * max(len(ours), len(theirs)):
                continue
            if kind_of_picture(Path(ours[shared[0]].path)) != kind_of_picture(Path(theirs[shared[0]].path)):
                one, two = (os.path.dirname(some[shared[0]].path) for some in (ours, theirs))
                raise UserError(
                    f"{one} and {two} have pictures with the same names but of different kinds, so one seems to hold "
                    "maps; name the folder of the images itself, and that of the masks with --masks"
                )


def _by_split(folder: Path, images: Sequence[Picture], sentences: list[str]) -> dict[str | None, list[Picture]]:
    _check_split_folders(folder, images)
    splits: dict[str | None, list[Picture]] = {}
    for picture in images:
        splits.setdefault(picture.split, []).append(picture)
    others = splits.pop(None, []) if len(splits) > 1 else []
    if others and "train" not in splits:
        raise UserError(
            f"{folder} has {', '.join(map(str, splits))}, and {len(others)} other images, such as {others[0].path}; "
            "put those into a folder train, or name a folder in it"
        )
    if None not in splits:
        where = {split: _named_for_splits(folder, some[0])[0] for split, some in splits.items()}
        told = [f"{'/'.join(parts)} is {split}" for split, parts in where.items()]
        sentences.append(f"splits by folder: {', '.join(told)}")
    if others:
        outside = ", ".join(_counted(_area_name(folder, picture) for picture in others))
        sentences.append(f"left out {outside}: outside of the folders of the splits")
    return splits


def _check_split_folders(folder: Path, images: Sequence[Picture]) -> None:
    """Raises UserError if two folders side by side seem to be the same split, or one named for a split is empty.

    Folders directly inside the folder are checked even if they are empty.
    """
    places = {(parts[:-1], parts[-1]) for picture in images for parts in _named_for_splits(folder, picture)}
    top = {entry.name for entry in folder.iterdir() if entry.is_dir() and not is_dropping(entry.name)}
    empty = {((), name) for name in top if split_of(name)} - places
    named: dict[tuple[tuple[str, ...], str | None], str] = {}
    for above, name in sorted(places | empty):
        other = named.setdefault((above, split_of(name)), name)
        if other != name:
            where, split = folder.joinpath(*above), split_of(name)
            raise UserError(f"{where} has the folders {other} and {name}, which both seem to be {split}; rename one")
    for _, name in sorted(empty):
        raise UserError(f"{folder / name} has no images ({', '.join(sorted(SUFFIXES))})")


def _named_for_splits(folder: Path, picture: Picture) -> list[tuple[str, ...]]:
    """The folders above a picture that are named for splits, each with the folders above it."""
    above = Path(picture.path).relative_to(folder).parts[:-1]
    return [above[: place + 1] for place, part in enumerate(above) if split_of(part)]
