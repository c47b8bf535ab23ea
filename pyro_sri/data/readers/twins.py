"""Notices pictures that belong to others of the same name: masks, depth and other maps, whatever they are called."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.readers.pictures import kind_of_picture, read_picture
from pyro_sri.system.errors import UserError

PIECES = re.compile(r"\d+|[^\W\d_]+")
ALIKE = 0.8  # of two series' names: if this many are equal, one may hold maps of the other's pictures
MOST_SERIES = 16  # side by side: more are classes or scenes, not kinds of maps
LOOKED_AT = 8  # pictures of each of two series
SIDE = 64  # pixels of what is compared
SHADES = 4  # per channel, by which the pixels of a picture are grouped
FEW_COLOURS, COVERED = 16, 0.95  # of a flat picture: so many, with 16 shades per channel, cover this share of it
CLOSER = 0.1  # by so much more of the variance do maps explain their own pictures than others, on average
MOSTLY = 0.75  # of the pictures for which this holds

Pieces = tuple[str | int, ...]
Series = dict[Pieces, str]  # pictures by the part of their path that those of another series may share


class Look(NamedTuple):
    """What a picture looks like.

    Attributes:
        kind: As `kind_of_picture` says.
        style: Whether it is flat, with few colours, and whether it is grey.
        pixels: In [0, 1], [64, 64, 3].
    """

    kind: Literal["photograph", "drawing", "map"]
    style: tuple[bool, bool]
    pixels: NDArray[np.float64]


def check_twins(areas: Mapping[str, str]) -> None:
    """Raises UserError if some pictures seem to be maps, or copies, of others.

    Two pictures of the same name in one folder are refused. Others that differ in nothing but a folder, a word or the
    suffix are refused if they are of different kinds, or if their regions fit their own partners better than others.

    Args:
        areas: The folders of the pictures, as far as these matter, by the paths of the pictures.
    """
    _check_names(areas)
    looks: dict[str, Look] = {}
    for one, two in _pairs_of_series(areas):
        shared = [name for name in one if name in two]
        if len(shared) < ALIKE * min(len(one), len(two)):
            continue
        chosen = shared[:: -(-len(shared) // LOOKED_AT)]
        for path in (*(one[name] for name in chosen), *(two[name] for name in chosen)):
            if path not in looks:
                looks[path] = _look(path)
        ours, theirs = ([looks[some[name]] for name in chosen] for some in (one, two))
        of_all = len(shared) >= ALIKE * max(len(one), len(two))
        if (of_all and ours[0].kind != theirs[0].kind) or _belong_together(ours, theirs):
            raise UserError(
                f"{one[chosen[0]]} and {two[chosen[0]]}, and others like these, have the same names but seem to be of "
                "different kinds, so one may be a map of the other: name the folder of the images itself, and that of "
                "the masks with --masks (if all are images, give them other names)"
            )


def _check_names(paths: Sequence[str] | Mapping[str, str]) -> None:
    known: dict[str, str] = {}
    for path in paths:
        other = known.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise UserError(
                f"{other} and {os.path.basename(path)} have the same name, so one seems to be a mask or a copy of the "
                "other: put masks into a folder of their own and name it with --masks, or rename one if both are images"
            )


def _pairs_of_series(areas: Mapping[str, str]) -> Iterator[tuple[Series, Series]]:
    """Pictures that may be maps of each other: they differ in the folder, in one folder above, or in a word."""
    folders = {path: area.split(os.sep) if area else [] for path, area in areas.items()}
    names = {path: _pieces(os.path.splitext(os.path.basename(path))[0]) for path in areas}
    keys: list[dict[str, tuple[Pieces, Pieces]]] = [
        {path: ((area,), names[path]) for path, area in areas.items()},
        _by_numbers(folders, names),
        _by_added_words(areas, names),
    ]
    for depth in range(max(map(len, folders.values()), default=0)):
        deep = {path: parts for path, parts in folders.items() if len(parts) > depth}
        keys.append({p: ((f[depth],), (*f[:depth], *f[depth + 1 :], *names[p])) for p, f in deep.items()})
    for of_paths in keys:
        series: dict[Pieces, Series] = {}
        for path, (label, name) in of_paths.items():
            series.setdefault(label, {})[name] = path
        if len(series) <= MOST_SERIES:
            yield from combinations(series.values(), 2)


def _by_numbers(folders: Mapping[str, Sequence[str]], names: Mapping[str, Pieces]) -> dict[str, tuple[Pieces, Pieces]]:
    """Pictures with numbers in their paths: the words, and the numbers."""
    pieces = {path: (*_pieces(" ".join(folders[path])), *name) for path, name in names.items()}
    words = {path: tuple(piece for piece in some if isinstance(piece, str)) for path, some in pieces.items()}
    numbers = {path: tuple(piece for piece in some if isinstance(piece, int)) for path, some in pieces.items()}
    return {path: ((*words[path], os.path.splitext(path)[1]), numbers[path]) for path in names if numbers[path]}


def _by_added_words(areas: Mapping[str, str], names: Mapping[str, Pieces]) -> dict[str, tuple[Pieces, Pieces]]:
    """Pictures whose name is that of another in the folder with words added: the words, and the other's name."""
    known = {(area, names[path]) for path, area in areas.items()}
    keys: dict[str, tuple[Pieces, Pieces]] = {}
    for path, area in areas.items():
        name = names[path]
        ends = (end for end in range(1, len(name)) if (area, name[:end]) in known)
        end = next((end for end in ends if all(isinstance(piece, str) for piece in name[end:])), len(name))
        keys[path] = (name[end:], (area, *name[:end]))
    return keys


def _pieces(text: str) -> Pieces:
    """The words and numbers of a name."""
    return tuple(int(piece) if piece.isdecimal() else piece.lower() for piece in PIECES.findall(text))


def _look(path: str) -> Look:
    image = read_picture(Path(path))
    if image.mode.startswith(("I", "F")):  # more than 8 bits
        values = np.asarray(image, dtype=np.float64)[..., None].repeat(3, -1)
        values /= max(values.max(), 1e-9)
    else:
        values = np.asarray(image.convert("RGB")) / 255
    rows, columns = (np.arange(SIDE) * length // SIDE for length in values.shape[:2])
    pixels = values[rows][:, columns]
    return Look(kind_of_picture(image), (_is_flat(pixels), bool((pixels == pixels[..., :1]).all())), pixels)


def _is_flat(pixels: NDArray[np.float64]) -> bool:
    counts = np.sort(np.bincount(_codes(pixels, 16)))[::-1]
    return bool(counts[:FEW_COLOURS].sum() >= COVERED * counts.sum())


def _codes(pixels: NDArray[np.float64], shades: int) -> NDArray[np.intp]:
    """A number for the colour of each pixel, with so many shades per channel, [h * w]."""
    levels = np.minimum((pixels * shades).astype(int), shades - 1)
    return np.asarray((levels @ (shades**2, shades, 1)).ravel())


def _belong_together(ours: Sequence[Look], theirs: Sequence[Look]) -> bool:
    """Whether regions of the pictures of one series fit their partners in the other better than its other pictures.

    Photographs are not compared with each other if both have colours, or both have none: they may be views of a scene.
    """
    flat, _ = ours[0].style
    if len(ours) < 2 or (not flat and all(look.style == ours[0].style for look in (*ours, *theirs))):
        return False
    return _fits(ours, theirs) or _fits(theirs, ours)


def _fits(maps: Sequence[Look], images: Sequence[Look]) -> bool:
    explained = np.array([[_explained(a.pixels, b.pixels) for b in images] for a in maps])
    own = explained.diagonal()
    closer = own - (explained.sum(1) - own) / (len(own) - 1)
    return bool(closer.mean() > CLOSER and (closer > 0).mean() >= MOSTLY)


def _explained(regions: NDArray[np.float64], pixels: NDArray[np.float64]) -> float:
    """The share of the variance of a picture that is left out when each region of another has its mean colour."""
    codes = _codes(regions, SHADES)
    values = pixels.reshape(-1, 3) - pixels.mean((0, 1))
    counts = np.maximum(np.bincount(codes), 1)
    means = np.stack([np.bincount(codes, values[:, channel]) / counts for channel in range(3)], axis=-1)
    return float((means[codes] ** 2).sum() / max((values**2).sum(), 1e-9))
