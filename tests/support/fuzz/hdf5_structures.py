"""HDF5 files whose structure is not what the layout promises."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from support.fuzz.tables import Table, each, part

NUM, SIDE, ENTITIES = 20, 12, 3
ARRAYS = [f"{split}/{name}" for split in ("train", "val") for name in ("imgs", "masks", "factors")]

Structure = Callable[[np.random.Generator, h5py.File], None]


def write_plain(path: Path) -> None:
    """A dataset file as h5py writes it by default: without checksums, in the oldest version of the format."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, num in (("train", NUM), ("val", 5)):
            entities = rng.integers(0, ENTITIES, (num, 1, SIDE, SIDE, 1))
            masks = np.where(entities == np.arange(ENTITIES).reshape(-1, 1, 1, 1), 255, 0).astype(np.uint8)
            file[f"{split}/imgs"] = rng.integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8)
            file.create_dataset(f"{split}/masks", data=masks, compression="gzip", chunks=(4, *masks.shape[1:]))
            file[f"{split}/factors"] = rng.random((num, ENTITIES, 2), dtype=np.float32)
        file["train/factors"].attrs["factor_names"] = ["x", "visibility"]


def _taken(rng: np.random.Generator, file: h5py.File, ending: str = "") -> tuple[str, np.ndarray]:
    """Takes one of the arrays, of a name with this ending, out of the file."""
    name = str(rng.choice([name for name in ARRAYS if name.endswith(ending)]))
    values = file[name][:]
    del file[name]
    return name, values


def another_type(kind: np.dtype) -> Structure:
    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file)
        array = file.create_dataset(name, values.shape, dtype=kind, chunks=True if rng.random() < 0.5 else None)
        if kind.kind in "iufcb":
            array[...] = values.astype(kind)

    return change


SIMPLE_TYPES = ("i1", ">u2", "u8", "f2", "f4", "f8", "longdouble", "c16", "S3", "V5", "bool")
TYPES = {name: np.dtype(name) for name in SIMPLE_TYPES} | {
    "columns": np.dtype([("x", "f4"), ("visibility", "S2")]),
    "columns in columns": np.dtype([("a", "f8", (2,)), ("b", [("c", "i4")])]),
    "text": h5py.string_dtype(),
    "ragged": h5py.vlen_dtype(np.uint8),
    "references": h5py.ref_dtype,
    "enumeration": h5py.enum_dtype({"NO": 0, "YES": 255}),
}


def another_shape(shape_of: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Structure:
    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file)
        file[name] = np.zeros(shape_of(values.shape), dtype=values.dtype)

    return change


SHAPES: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "a number": lambda shape: (),
    "empty": lambda shape: (0,),
    "one number": lambda shape: (1,),
    "one scene": lambda shape: shape[1:],
    "one axis more": lambda shape: (*shape, 1),
    "turned round": lambda shape: shape[::-1],
    "no scenes": lambda shape: (0, *shape[1:]),
    "one scene more": lambda shape: (shape[0] + 1, *shape[1:]),
    "256 in a scene": lambda shape: (shape[0], 256, *shape[2:]),
    "30 axes": lambda shape: (1,) * 30,
}


def no_space(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    file[name] = h5py.Empty(values.dtype)


def missing(rng: np.random.Generator, file: h5py.File) -> None:
    del file[str(rng.choice(["train", "val", *ARRAYS]))]


def group_for_array(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    file[name + "/deeper"] = values


def type_for_array(rng: np.random.Generator, file: h5py.File) -> None:
    file[_taken(rng, file)[0]] = np.dtype("u1")


def absurd(large_scenes: bool, large_chunks: bool) -> Structure:
    """Declares far more than is there, or than there is memory."""

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file)
        shape = list(values.shape)
        shape[rng.integers(len(shape))] = int(rng.choice([10**5, 10**9, 10**12, 2**40]))
        if large_scenes:
            shape[1:3] = [10**6] * 2
        chunks = tuple(int(rng.integers(1, 8)) if side > 1000 else side for side in shape)
        if large_chunks:
            chunks = tuple(min(side, 40_000) for side in shape)
        if np.prod(chunks, dtype=float) * values.dtype.itemsize >= 2**32:
            chunks = (1,) * len(shape)
        packed = rng.choice([None, "gzip"])
        file.create_dataset(name, tuple(shape), dtype=values.dtype, chunks=chunks, compression=packed)

    return change


def written(num: int) -> Structure:
    """An array in chunks, of which only so many scenes were written."""

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file)
        array = file.create_dataset(name, values.shape, dtype=values.dtype, chunks=(2, *values.shape[1:]))
        array[:num] = values[:num]

    return change


def never_written(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    file.create_dataset(name, values.shape, dtype=values.dtype)


def small_bomb(rng: np.random.Generator, file: h5py.File) -> None:
    """A few bytes that unpack to far more than the block that they stand for."""
    name, values = _taken(rng, file)
    array = file.create_dataset(name, values.shape, dtype=values.dtype, chunks=values.shape, compression="gzip")
    array.id.write_direct_chunk((0,) * values.ndim, zlib.compress(bytes(256 * 1024**2), 9))


def link(target: Callable[[Path, str], object]) -> Structure:
    """A link in place of an array or a group, given the folder and the name."""

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name = str(rng.choice(["train", *ARRAYS]))
        folder = Path(file.filename).parent
        file.move(name, "kept")
        os.mkfifo(folder / "pipe")
        write_plain(folder / "other.h5")
        file[name] = target(folder, name)

    return change


LINKS: dict[str, Callable[[Path, str], object]] = {
    "to the array": lambda folder, name: h5py.SoftLink("/kept"),
    "to nothing": lambda folder, name: h5py.SoftLink("/nowhere"),
    "to itself": lambda folder, name: h5py.SoftLink(f"/{name}"),
    "to the root": lambda folder, name: h5py.SoftLink("/"),
    "to another file": lambda folder, name: h5py.ExternalLink(str(folder / "other.h5"), f"/{name}"),
    "to a pipe": lambda folder, name: h5py.ExternalLink(str(folder / "pipe"), f"/{name}"),
    "to a device": lambda folder, name: h5py.ExternalLink("/dev/zero", f"/{name}"),
    "to no file": lambda folder, name: h5py.ExternalLink("nowhere.h5", f"/{name}"),
}


def hard_links(rng: np.random.Generator, file: h5py.File) -> None:
    target = str(rng.choice(["test", "train/train", "train/val"]))
    file[target] = file[str(rng.choice(["/", "train", "val"]))]


def in_raw_file(path: str) -> Structure:
    """An array kept in another file, as bytes."""

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file)
        folder = Path(file.filename).parent
        (folder / "raw").write_bytes(values.tobytes())
        external = [(str(folder / path), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(name, values.shape, dtype=values.dtype, external=external)

    return change


def in_dataset_file(path: str) -> Structure:
    """An array that is part of another one."""

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file)
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(path, "/val/imgs", values.shape)
        file.create_virtual_dataset(name, layout)

    return change


def unknown_filter(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(values.shape)
    properties.set_filter(int(rng.choice([32004, 32015, 60000])), h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple(values.shape)
    kind = h5py.h5t.py_create(values.dtype)
    array = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, properties))
    array.id.write_direct_chunk((0,) * values.ndim, rng.bytes(100))


def attribute(value_in: Callable[[h5py.File], object]) -> Structure:
    """An attribute, known or unknown, of the file or sometimes of an array."""
    names = ["background_entities", "factor_names", "source", "generator", "seed", "dataset", "\u2028"]

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        place = file if rng.random() < 0.8 else file["train/factors"]
        place.attrs[str(rng.choice(names))] = value_in(file)

    return change


def _ragged() -> np.ndarray:
    values = np.empty(2, dtype=h5py.vlen_dtype(np.int32))
    values[:] = [np.arange(3, dtype=np.int32), np.arange(2, dtype=np.int32)]
    return values


SIMPLE_VALUES = ([], [[0, 1]], [[0], [1]], -1, 3, 2**63, 0.5, np.nan, True, "0", b"\xff\xfe", [0, 0], 1 + 2j)
VALUES: dict[str, object] = {ascii(value): value for value in SIMPLE_VALUES} | {
    "an escape sequence": "caf\u00e9\x1b[2J",
    "no numbers": np.zeros(0, "i4"),
    "the largest number": np.uint64(2**64 - 1),
    "7000 numbers": np.zeros(7000),
    "letters": np.array([["a", "b"]], dtype="S1"),
    "empty": h5py.Empty("f4"),
    "columns": np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f4")]),
    "long text": "x" * 60_000,
}
RARE_VALUES = {"text that is not UTF-8": np.array([b"\xff\xfe"], dtype=h5py.string_dtype()), "ragged": _ragged()}


def factors_not_finite(columns: bool) -> Structure:
    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file, "factors")
        values[rng.integers(len(values)), 0, 0] = rng.choice([np.nan, np.inf, -np.inf])
        if columns:
            values = np.ascontiguousarray(values).view([("x", "f4"), ("visibility", "f4")])[..., 0]
        file[name] = values

    return change


def odd_masks(value: np.generic) -> Structure:
    """Masks of the type of the value, which one pixel of one scene has."""

    def change(rng: np.random.Generator, file: h5py.File) -> None:
        name, values = _taken(rng, file, "masks")
        values = values.astype(value.dtype)
        values[rng.integers(len(values)), :, 3, 3] = value
        file[name] = values

    return change


STRUCTURES: Table[Structure] = {
    **part("type: ", 2, each(another_type, TYPES)),
    **part("shape: ", 2, each(another_shape, SHAPES)),
    "no space": (1, no_space),
    "missing": (1, missing),
    "a group for an array": (0.5, group_for_array),
    "a type for an array": (0.5, type_for_array),
    "absurd size": (1, absurd(large_scenes=False, large_chunks=False)),
    "absurd size, large scenes": (0.4, absurd(large_scenes=True, large_chunks=False)),
    "absurd size, large chunks": (0.4, absurd(large_scenes=False, large_chunks=True)),
    "absurd size, large scenes and chunks": (0.2, absurd(large_scenes=True, large_chunks=True)),
    "partly written": (0.7, written(2)),
    "chunks never written": (0.3, written(0)),
    "never written": (1, never_written),
    "small bomb": (1, small_bomb),
    **part("link ", 2, each(link, LINKS)),
    "hard links": (1, hard_links),
    **part("kept in ", 1, each(in_raw_file, {"a file": "raw", "a device": "/dev/zero", "no file": "nowhere"})),
    **part("part of ", 1, each(in_dataset_file, {"this file": ".", "no dataset file": "nowhere.h5"})),
    "unknown filter": (1, unknown_filter),
    **part("attribute: ", 2.4, each(lambda value: attribute(lambda file: value), VALUES)),
    **part("attribute: ", 0.5, each(lambda value: attribute(lambda file: value), RARE_VALUES)),
    "attribute: a reference": (0.1, attribute(lambda file: file.ref)),
    "factors not finite": (0.25, factors_not_finite(columns=False)),
    "factors in columns not finite": (0.25, factors_not_finite(columns=True)),
    **part("masks ", 0.5, each(odd_masks, {"of 7": np.uint8(7), "of nan": np.float32(np.nan), "of -5": np.int16(-5)})),
}
