"""Data files: dataset files with and without checksums, the published formats, and what is kept between commands."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.generators.pieces import Pieces
from pyro_sri.data.loading import evaluation_batches, training_batches
from pyro_sri.data.making import make_dataset
from pyro_sri.data.preview import contact_sheet, info
from pyro_sri.data.readers import convert
from pyro_sri.features import cached_features, images_hash
from support.fuzz.hdf5_structures import STRUCTURES, Structure, write_plain
from support.fuzz.mutations import BYTES, ByteChange, bytes_of
from support.fuzz.outcomes import MARKER, OUTPUT, Kind, Numbers, same
from support.fuzz.tables import Change, Table, each, lifted, part

SCENES = "scenes.h5"
Reader = Callable[[Path], Numbers]


@contextmanager
def output(folder: Path, name: str) -> Iterator[Path]:
    """A path to write to; what was written is removed once it has been looked at."""
    path = folder / OUTPUT / name
    yield path
    path.unlink()


def arrays_of(path: Path) -> Numbers:
    with DatasetFile(path) as file:
        return {name: file.read(array, slice(None)) for name, array in file.arrays()}


# Dataset files


def checked(folder: Path) -> Numbers:
    check_dataset(folder / SCENES)
    return {}


def arrays(folder: Path) -> Numbers:
    return arrays_of(folder / SCENES)


def summary(folder: Path) -> Numbers:
    told = info(folder / SCENES)
    return {name: told[name] for name in ("splits", "background_entities", "image_size")}


def drawn_sheet(folder: Path) -> Numbers:
    with output(folder, "sheet.png") as path:
        contact_sheet(folder / SCENES, path, num=4)
        with Image.open(path) as sheet:
            return {"size": sheet.size}


def training(folder: Path, **options: int) -> Numbers:
    batches = training_batches(folder / SCENES, "train", 4, 0, **options)
    return {f"imgs {i}": batch["images"].numpy() for i, batch in enumerate(islice(batches, 6))}


def training_from_disk(folder: Path) -> Numbers:
    return training(folder, in_memory_limit_bytes=0)


def evaluation(folder: Path) -> Numbers:
    batches = list(evaluation_batches(folder / SCENES, "train", 5))
    return {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}


def image_features(folder: Path) -> Numbers:
    return {"length": len(images_hash(folder / SCENES, "train"))}


DATASET_READERS: dict[str, Reader] = {
    "check": checked,
    "arrays": arrays,
    "info": summary,
    "preview": drawn_sheet,
    "training": training,
    "training from disk": training_from_disk,
    "evaluation": evaluation,
    "features": image_features,
}


def make_checksummed(folder: Path) -> None:
    make_dataset("tetrominoes", folder / SCENES, size=32, train=24, val=4, test=0, seed=3)


def make_plain(folder: Path) -> None:
    write_plain(folder / SCENES)


def agree_checksummed(expected: Numbers, found: Numbers) -> None:
    """Every number is what it was; images, but for the two blind spots of HDF5's Fletcher checksum.

    It does not tell 16 zero bits from 16 one bits, and is itself 0 for nothing but zeros, so that a whole block that
    was zeroed together with its checksum reads as black images.
    """
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.shape[-1] == 3 and value.dtype == np.uint8:
            assert found[name].shape == value.shape
            assert found[name].dtype == value.dtype
            for before, after in zip(value, found[name], strict=True):
                words_before, words_after = before.reshape(-1).view(np.uint16), after.reshape(-1).view(np.uint16)
                unseen = np.array_equal(words_before % 0xFFFF, words_after % 0xFFFF)
                assert unseen or not after.any(), f"{name}: an image is another"
        else:
            same({name: value}, {name: found[name]})


def agree_layout(expected: Numbers, found: Numbers) -> None:
    """The shapes and types that the layout promises: without checksums, nobody can tell that a pixel is another."""
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            continue
        kind = name.split("/")[-1].split(" ")[0]
        if kind in ("imgs", "images"):
            assert value.dtype == np.uint8
            assert value.ndim == 4
            assert value.shape[3] == 3
            assert value.shape[1] == value.shape[2]
            assert len(value)
        elif kind == "masks":
            assert value.dtype == np.uint8
            assert value.ndim == 5
            assert value.shape[4] == 1
        elif kind == "factors":
            assert not value.dtype.hasobject


# Published formats


def converting(source: str, **options: int) -> Reader:
    """A reader that converts a source to a dataset file, checks that file, and reads it."""

    def read(folder: Path) -> Numbers:
        with output(folder, "converted.h5") as out:
            convert(folder / source, out, **options)
            check_dataset(out)
            return arrays_of(out)

    return read


def varint(value: int) -> bytes:
    text = bytearray()
    while value >= 0x80:
        text.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*text, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, np.ndarray]) -> bytes:
    """A tf.train.Example: uint8 as strings of one byte, else packed floats."""
    entries = b""
    for name, values in features.items():
        if values.dtype == np.uint8:
            feature = field(1, b"".join(field(1, bytes([value])) for value in values.flat))
        else:
            feature = field(2, field(1, values.astype("<f4").tobytes()))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def tfrecord(data: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def tetromino_example(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    entities = rng.integers(0, 4, (35, 35))
    return example(
        {
            "image": rng.integers(0, 256, (35, 35, 3), dtype=np.uint8),
            "mask": (255 * (entities == np.arange(4)[:, None, None])).astype(np.uint8),
            "x": rng.random(4, dtype=np.float32),
            "visibility": np.ones(4, dtype=np.float32),
        }
    )


UNPACKED = "none.tfrecords"


def make_tfrecords(folder: Path) -> None:
    data = b"".join(tfrecord(tetromino_example(seed)) for seed in range(6))
    (folder / UNPACKED).write_bytes(data)
    (folder / "gzip.tfrecords").write_bytes(gzip.compress(data))
    (folder / "zlib.tfrecords").write_bytes(zlib.compress(data))


def agree_beginning(expected: Numbers, found: Numbers) -> None:
    """Every number is what it was; a file that ends exactly behind a record may have lost the records after it."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value[: len(found[name])], found[name], err_msg=name)
        assert len(found[name])


def with_feature(length: int) -> ByteChange:
    """One more feature, of so many odd values."""

    def change(rng: np.random.Generator, record: bytes) -> bytes:
        values = rng.choice([np.nan, np.inf, -1e38, 0.5], length).astype("<f4")
        return record + field(1, field(1, field(1, b"x") + field(2, field(2, field(1, values.tobytes())))))

    return change


def numbers_one_by_one(rng: np.random.Generator, record: bytes) -> bytes:
    return field(1, field(1, field(1, b"image") + field(2, field(3, varint(8) + varint(1)) * 4000)))


def no_numbers(rng: np.random.Generator, record: bytes) -> bytes:
    return field(1, field(1, field(1, rng.bytes(20)) + field(2, field(3, field(1, b"\xff" * 40)))))


def in_record(change: ByteChange) -> Change:
    """Changes what is in a record, and makes the record's checksum fit."""

    def damage(rng: np.random.Generator, folder: Path) -> None:
        records = [tetromino_example(seed) for seed in range(6)]
        index = rng.integers(6)
        records[index] = change(rng, records[index])
        (folder / UNPACKED).write_bytes(b"".join(map(tfrecord, records)))

    return damage


RECORDS: Table[Change] = {
    **part("one more feature of length ", 1, each(in_record, {str(n): with_feature(n) for n in (0, 3, 4, 8, 4000)})),
    "numbers one by one": (1, in_record(numbers_one_by_one)),
    "no numbers": (1, in_record(no_numbers)),
    **part("bytes: ", 5, lifted(in_record, BYTES)),
}


def make_record(folder: Path) -> None:
    (folder / UNPACKED).write_bytes(b"".join(tfrecord(tetromino_example(seed)) for seed in range(6)))


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_mnist(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for stock, num in (("train", 40), ("t10k", 20)):
        digits = np.zeros((num, 28, 28), dtype=np.uint8)
        digits[:, 8:20, 10:18] = rng.integers(0, 256, (num, 12, 8))
        (folder / f"{stock}-images-idx3-ubyte").write_bytes(idx(digits))
        labels = rng.integers(0, 10, num, dtype=np.uint8)
        (folder / f"{stock}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def agree_digits(expected: Numbers, found: Numbers) -> None:
    """The layout, and labels that are digits: MNIST's idx files have no checksums unless they are packed."""
    agree_layout(expected, found)
    assert expected.keys() == found.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape
        if name.endswith("factors"):
            assert set(value[..., 1].flat) <= set(range(10))


SUFFIXES = ("png", "jpg", "bmp", "webp")


def smooth(seed: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def make_pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    for number, suffix in enumerate(SUFFIXES):
        Image.fromarray(smooth(number, 40, 48)).save(folder / "pictures" / f"{number}.{suffix}")


def huge_picture(rng: np.random.Generator, folder: Path) -> None:
    """A picture of 60,000 x 60,000 pixels, with the right checksum."""
    content = (folder / "pictures" / "0.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    (folder / "pictures" / f"{rng.integers(4)}.png").write_bytes(content)


def postscript(rng: np.random.Generator, folder: Path) -> None:
    """A page for which Pillow would start another program."""
    code = f"({folder / 'pictures' / MARKER}) (w) file closefile"
    page = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{code}\n"
    (folder / "pictures" / f"{rng.integers(4)}.png").write_text(page)


PICTURES: Table[Change] = {**bytes_of("*", 18), "huge": (1, huge_picture), "PostScript": (1, postscript)}


def agree_pictures(expected: Numbers, found: Numbers) -> None:
    """As many images as there were, and the PNG is as it was: the other formats have no checksums."""
    agree_layout(expected, found)
    assert found["train/imgs"].shape == expected["train/imgs"].shape
    np.testing.assert_array_equal(found["train/imgs"][0], expected["train/imgs"][0])


def make_towers(folder: Path) -> None:
    for split, scenario in (("train", "ccs-h=2"), ("eval", "blocks-h=3")):
        for place, name in (("recordings", "rgb-cam_1.png"), ("iseg", "iseg-cam_1.map")):
            (folder / place / scenario).mkdir(parents=True)
            picture = smooth(len(scenario), 224, 224)
            values = np.kron(np.array([[0, 40], [90, 0]], dtype=np.uint8), np.ones((112, 112), dtype=np.uint8))
            image = Image.fromarray(picture if place == "recordings" else values)
            image.save(folder / place / scenario / name, format="png")
        (folder / "splits" / "default").mkdir(parents=True, exist_ok=True)
        (folder / "splits" / "default" / f"{split}.txt").write_text(f"{scenario}\n")


SCENARIOS = {
    "the folder above": "..",
    "this folder": ".",
    "the root": "/",
    "very long": "a" * 5000,
    "a zero byte": "\x00",
    "an escape sequence": "\x1b[2J",
    "a line separator": "cc\u2028s",
    "another folder": "../../splits",
    "one twice": "ccs-h=2\nccs-h=2",
    "a playing card": "\N{PLAYING CARD ACE OF SPADES}",
}


def listed(text: str) -> Change:
    """Lists this as the scenarios for training."""

    def damage(rng: np.random.Generator, folder: Path) -> None:
        (folder / "splits" / "default" / "train.txt").write_text(text, encoding="utf-8")

    return damage


TOWERS: Table[Change] = {**bytes_of("*", 7), **part("scenario: ", 3, each(listed, SCENARIOS))}


def agree_towers(expected: Numbers, found: Numbers) -> None:
    """Every scene is one of those that there were: lists have no checksums, and may name fewer scenes or others."""
    scenes = {scene.tobytes() for name, value in expected.items() if name.endswith("imgs") for scene in value}
    assert {scene.tobytes() for name, value in found.items() if name.endswith("imgs") for scene in value} <= scenes
    agree_layout(expected, found)


# What is kept between commands

FEATURES = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)


class Extractor:
    """Only its name and size count here."""

    name, size = "fuzz", FEATURES.shape[1]


def features(folder: Path) -> Numbers:
    os.environ["PYRO_SRI_CACHE"] = str(folder / "cache")
    return {"features": cached_features(Extractor(), "images", len(FEATURES), lambda: FEATURES)}


def make_features(folder: Path) -> None:
    features(folder)


def saved(name: str) -> Callable[[Callable[[], np.ndarray]], Change]:
    """Saves another array under this name."""

    def lift(make: Callable[[], np.ndarray]) -> Change:
        def damage(rng: np.random.Generator, folder: Path) -> None:
            (path,) = (folder / "cache").rglob("*.npz")
            arrays: dict[str, Any] = {name: make()}
            np.savez_compressed(path, **arrays)

        return damage

    return lift


OTHER_FEATURES: dict[str, Callable[[], np.ndarray]] = {
    "too few": lambda: FEATURES[:-1],
    "float64": lambda: FEATURES.astype(float),
    "nan": lambda: FEATURES * np.nan,
    "100 MB": lambda: np.zeros((10_000, 10_000), bool),
}
KEPT_FEATURES: Table[Change] = {
    **bytes_of("*", 14),
    **part("features: ", 3, each(saved("features"), OTHER_FEATURES)),
    **part("by another name: ", 3, each(saved("other"), OTHER_FEATURES)),
}

PIECE = ("train", 0)


def make_piece(folder: Path) -> None:
    from pyro_sri.data.generators.family import Drawn

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    entities = rng.integers(0, 3, (4, 8, 8), dtype=np.uint8)
    Pieces(folder).save(*PIECE, Drawn(images, entities, rng.random((4, 3, 2), dtype=np.float32)))


def piece(folder: Path) -> Numbers:
    """The arrays of a finished piece; those of a new one where it is damaged."""
    drawn = Pieces(folder).load(*PIECE)
    if drawn is None:
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        make_piece(folder)
        drawn = Pieces(folder).load(*PIECE)
    assert drawn is not None
    return drawn._asdict()


def beside_pixels(behind: bool) -> Callable[[ByteChange], Change]:
    """Changes bytes of one of the two parts of a file that are not the pixels."""

    def lift(change: ByteChange) -> Change:
        def damage(rng: np.random.Generator, folder: Path) -> None:
            path = folder / SCENES
            with h5py.File(path) as file:
                start = file["train/imgs"].id.get_offset()
                stop = start + file["train/imgs"].id.get_storage_size()
            data = path.read_bytes()
            parts = (data[:stop], change(rng, data[stop:])) if behind else (change(rng, data[:start]), data[start:])
            path.write_bytes(b"".join(parts))

        return damage

    return lift


PLAIN: Table[Change] = {
    **part("before the pixels: ", 1, lifted(beside_pixels(False), BYTES)),
    **part("behind the pixels: ", 1, lifted(beside_pixels(True), BYTES)),
}


def in_scenes(change: Structure) -> Change:
    """Changes the structure of the file, in an old version of the format or a newer one."""

    def damage(rng: np.random.Generator, folder: Path) -> None:
        oldest = "earliest" if rng.random() < 0.5 else "v110"
        with h5py.File(folder / SCENES, "r+", libver=(oldest, "v110")) as file:
            change(rng, file)

    return damage


STRUCTURE = lifted(in_scenes, STRUCTURES)
EMORL = {"emorl": converting(SCENES), "emorl by objects": converting(SCENES, max_objects=2)}
TFRECORDS = {name: converting(f"{name}.tfrecords", val=1, test=1, size=35) for name in ("none", "gzip", "zlib")}

DATA_KINDS = {
    "dataset": Kind(make_checksummed, bytes_of(SCENES), DATASET_READERS, agree_checksummed),
    "dataset without checksums": Kind(make_plain, PLAIN, DATASET_READERS, agree_layout),
    "dataset structure": Kind(make_plain, STRUCTURE, DATASET_READERS, agree_layout),
    "EfficientMORL": Kind(make_plain, PLAIN, EMORL, agree_layout),
    "EfficientMORL structure": Kind(make_plain, STRUCTURE, EMORL, agree_layout),
    "TFRecords": Kind(make_tfrecords, bytes_of("*"), TFRECORDS, agree_beginning),
    "TFRecords structure": Kind(make_record, RECORDS, {"none": TFRECORDS["none"]}, agree_layout),
    "MNIST": Kind(make_mnist, bytes_of("*"), {"convert": converting("", train=4, val=2, test=2)}, agree_digits),
    "pictures": Kind(make_pictures, PICTURES, {"convert": converting("pictures", val=0, test=0)}, agree_pictures),
    "ShapeStacks": Kind(make_towers, TOWERS, {"convert": converting("")}, agree_towers),
    "features kept": Kind(make_features, KEPT_FEATURES, {"features": features}, same),
    "pieces kept": Kind(make_piece, bytes_of("*"), {"piece": piece}, same),
}
