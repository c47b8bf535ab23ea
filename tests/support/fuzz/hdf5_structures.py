"""HDF5 files whose structure is not what the layout promises."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

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


def _pick(rng: np.random.Generator) -> str:
    return str(rng.choice(ARRAYS))


def _taken(rng: np.random.Generator, file: h5py.File) -> tuple[str, np.ndarray]:
    name = _pick(rng)
    values = file[name][:]
    del file[name]
    return name, values


def another_type(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    types = ["i1", ">u2", "u8", "f2", "f4", "f8", "longdouble", "c16", "S3", "V5", bool]
    types += [np.dtype([("x", "f4"), ("visibility", "S2")]), np.dtype([("a", "f8", (2,)), ("b", [("c", "i4")])])]
    types += [h5py.string_dtype(), h5py.vlen_dtype(np.uint8), h5py.ref_dtype, h5py.enum_dtype({"NO": 0, "YES": 255})]
    kind = np.dtype(types[rng.integers(len(types))])
    chunks = True if rng.random() < 0.5 else None
    array = file.create_dataset(name, values.shape, dtype=kind, chunks=chunks)
    if kind.kind in "iufcb":
        array[...] = values.astype(kind)


def another_shape(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    shapes = [(), (0,), (1,), values.shape[1:], (*values.shape, 1), values.shape[::-1], (0, *values.shape[1:])]
    shapes += [(values.shape[0] + 1, *values.shape[1:]), (values.shape[0], 256, *values.shape[2:]), (1,) * 30]
    shape = shapes[rng.integers(len(shapes))]
    file[name] = np.zeros(shape, dtype=values.dtype)


def no_space(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    file[name] = h5py.Empty(values.dtype)


def missing(rng: np.random.Generator, file: h5py.File) -> None:
    del file[str(rng.choice(["train", "val", *ARRAYS]))]


def group_for_array(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    if rng.random() < 0.5:
        file[name + "/deeper"] = values
    else:
        file[name] = np.dtype("u1")  # a named type


def absurd(rng: np.random.Generator, file: h5py.File) -> None:
    """Declares far more than is there, or than there is memory."""
    name, values = _taken(rng, file)
    shape = list(values.shape)
    shape[rng.integers(len(shape))] = int(rng.choice([10**5, 10**9, 10**12, 2**40]))
    if rng.random() < 0.3:
        shape[1:3] = [10**6] * 2
    chunks = tuple(int(rng.integers(1, 8)) if side > 1000 else side for side in shape)
    if rng.random() < 0.3:
        chunks = tuple(min(side, 40_000) for side in shape)
    if np.prod(chunks, dtype=float) * values.dtype.itemsize >= 2**32:
        chunks = (1,) * len(shape)
    file.create_dataset(name, tuple(shape), dtype=values.dtype, chunks=chunks, compression=rng.choice([None, "gzip"]))


def partly_written(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    array = file.create_dataset(name, values.shape, dtype=values.dtype, chunks=(2, *values.shape[1:]))
    if rng.random() < 0.7:
        array[:2] = values[:2]


def never_written(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    file.create_dataset(name, values.shape, dtype=values.dtype)


def small_bomb(rng: np.random.Generator, file: h5py.File) -> None:
    """A few bytes that unpack to far more than the block that they stand for."""
    name, values = _taken(rng, file)
    array = file.create_dataset(name, values.shape, dtype=values.dtype, chunks=values.shape, compression="gzip")
    array.id.write_direct_chunk((0,) * values.ndim, zlib.compress(bytes(256 * 1024**2), 9))


def link(rng: np.random.Generator, file: h5py.File) -> None:
    name = str(rng.choice(["train", *ARRAYS]))
    file.move(name, "kept")
    folder = Path(file.filename).parent
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    other = folder / "other.h5"
    write_plain(other)
    links = [h5py.SoftLink("/kept"), h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"), h5py.SoftLink("/")]
    links += [h5py.ExternalLink(str(path), f"/{name}") for path in (other, pipe, "/dev/zero", "nowhere.h5")]
    file[name] = links[rng.integers(len(links))]


def hard_links(rng: np.random.Generator, file: h5py.File) -> None:
    target = str(rng.choice(["test", "train/train", "train/val"]))
    file[target] = file[str(rng.choice(["/", "train", "val"]))]


def elsewhere(rng: np.random.Generator, file: h5py.File) -> None:
    """An array kept in other files."""
    name, values = _taken(rng, file)
    folder = Path(file.filename).parent
    if rng.random() < 0.5:
        (folder / "raw").write_bytes(values.tobytes())
        path = str(rng.choice([str(folder / "raw"), "/dev/zero", str(folder / "nowhere")]))
        file.create_dataset(name, values.shape, dtype=values.dtype, external=[(path, 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(str(rng.choice([".", "nowhere.h5"])), "/val/imgs", values.shape)
        file.create_virtual_dataset(name, layout)


def unknown_filter(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(values.shape)
    properties.set_filter(int(rng.choice([32004, 32015, 60000])), h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple(values.shape)
    kind = h5py.h5t.py_create(values.dtype)
    array = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, properties))
    array.id.write_direct_chunk((0,) * values.ndim, rng.bytes(100))


def attribute(rng: np.random.Generator, file: h5py.File) -> None:
    values = [
        *([], [[0, 1]], [[0], [1]], -1, 3, 2**63, 0.5, np.nan, True, "0", b"\xff\xfe", "caf\u00e9\x1b[2J", [0, 0]),
        *(np.zeros(0, "i4"), np.uint64(2**64 - 1), np.zeros(7000), np.array([["a", "b"]], dtype="S1")),
        *(h5py.Empty("f4"), file.ref, np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f4")]), 1 + 2j, "x" * 60_000),
    ]
    name = str(rng.choice(["background_entities", "factor_names", "source", "generator", "seed", "dataset", "\u2028"]))
    value = values[rng.integers(len(values))]
    place = file if rng.random() < 0.8 else file["train/factors"]
    if rng.random() < 0.1:
        place.attrs.create(name, [b"\xff\xfe"], dtype=h5py.string_dtype())
    elif rng.random() < 0.1:
        ragged = np.empty(2, dtype=object)
        ragged[:] = [np.arange(3), np.arange(2)]
        place.attrs.create(name, ragged, dtype=h5py.vlen_dtype(np.int32))
    else:
        place.attrs[name] = value


def values_out_of_range(rng: np.random.Generator, file: h5py.File) -> None:
    name, values = _taken(rng, file)
    if name.endswith("factors"):
        values[rng.integers(len(values)), 0, 0] = rng.choice([np.nan, np.inf, -np.inf])
        if rng.random() < 0.5:
            values = np.ascontiguousarray(values).view([("x", "f4"), ("visibility", "f4")])[..., 0]
    elif name.endswith("masks"):
        kind = rng.choice(["u1", "f4", "i2"])
        values = values.astype(kind)
        values[rng.integers(len(values)), :, 3, 3] = {"u1": 7, "f4": np.nan, "i2": -5}[kind]
    file[name] = values


STRUCTURES: tuple[Structure, ...] = (
    *(another_type, another_type, another_shape, another_shape, no_space, missing, group_for_array, absurd, absurd),
    *(partly_written, never_written, small_bomb, link, link, hard_links, elsewhere, elsewhere, unknown_filter),
    *(attribute, attribute, attribute, values_out_of_range),
)


def damage_structure(rng: np.random.Generator, path: Path) -> None:
    """Changes the structure of a file that `write_plain` wrote."""
    with h5py.File(path, "r+", libver=("earliest", "v110") if rng.random() < 0.5 else ("v110", "v110")) as file:
        STRUCTURES[rng.integers(len(STRUCTURES))](rng, file)
