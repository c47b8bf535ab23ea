"""The Multi-Object Datasets, from files written by protobuf and TensorBoard."""

import gzip
import io
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import NamedTuple

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.data.readers.example import feature_values, parse_example
from pyro_sri.data.readers.tfrecord import masked_crc32c, read_records
from pyro_sri.metrics import entity_labels
from pyro_sri.system.errors import UserError

COMPRESSIONS = {"gzip": gzip.compress, "zlib": zlib.compress, "none": bytes}


def example_class():
    """tf.train.Example, from a description of its fields."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, kind in (("Bytes", kinds.TYPE_BYTES), ("Float", kinds.TYPE_FLOAT), ("Int64", kinds.TYPE_INT64)):
        file.message_type.add(name=f"{name}List").field.add(
            name="value", number=1, type=kind, label=kinds.LABEL_REPEATED
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("Bytes", "Float", "Int64"), 1):
        feature.field.add(
            name=f"{name.lower()}_list",
            number=number,
            type=kinds.TYPE_MESSAGE,
            type_name=f".tf.{name}List",
            label=kinds.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, type_name=".tf.Feature", label=kinds.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".tf.Features.FeatureEntry",
        label=kinds.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features", number=1, type=kinds.TYPE_MESSAGE, type_name=".tf.Features", label=kinds.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


Example = example_class()


def encode(arrays):
    """A record: uint8 arrays as strings of one byte, float32 as floats, int64 as integers."""
    example = Example()
    for name, array in arrays.items():
        feature = example.features.feature[name]
        if array.dtype == np.uint8:
            feature.bytes_list.value.extend([bytes([value]) for value in array.flat])
        else:
            values = feature.float_list if array.dtype == np.float32 else feature.int64_list
            values.value.extend(array.ravel().tolist())
    return example.SerializeToString()


def write_records(path, records, compression="gzip"):
    unpacked = path.with_name("unpacked")
    with unpacked.open("wb") as file:
        for record in records:
            RecordWriter(file).write(record)
    path.write_bytes(COMPRESSIONS[compression](unpacked.read_bytes()))
    unpacked.unlink()
    return path


# As published: shape of the image, number of entities, axis of the entities in the mask, components of the factors.
SPRITES = {"x": 1, "y": 1, "shape": 1, "color": 3, "visibility": 1, "orientation": 1, "scale": 1}
LAYOUTS = {
    "tetrominoes": ((35, 35, 3), 4, 0, {"x": 1, "y": 1, "shape": 1, "color": 3, "visibility": 1}),
    "multi_dsprites_binarized": ((64, 64, 1), 4, 2, {**SPRITES, "color": 1}),
    "multi_dsprites_colored_on_grayscale": ((64, 64, 3), 6, 2, SPRITES),
    "multi_dsprites_colored_on_colored": ((64, 64, 3), 5, 2, SPRITES),
    "objects_room train": ((64, 64, 3), 7, 0, {}),
    "objects_room six_objects": ((64, 64, 3), 10, 0, {}),
    "objects_room empty_room": ((64, 64, 3), 4, 0, {}),
    "clevr_with_masks": (
        (240, 320, 3),
        11,
        0,
        dict.fromkeys(("x", "y", "z", "rotation", "visibility", "size", "material", "shape", "color"), 1)
        | {"pixel_coords": 3},
    ),
}
STRINGS = {"clevr_with_masks": ("size", "material", "shape", "color")}
COLOURS = ["red", "green", "blue"]
FACTOR_NAMES = {
    "tetrominoes": ["visibility", "shape", *COLOURS, "x", "y"],
    "multi_dsprites_binarized": ["visibility", "shape", "color", "scale", "x", "y", "orientation"],
    "multi_dsprites_colored_on_grayscale": ["visibility", "shape", *COLOURS, "scale", "x", "y", "orientation"],
    "multi_dsprites_colored_on_colored": ["visibility", "shape", *COLOURS, "scale", "x", "y", "orientation"],
    "clevr_with_masks": [
        *["visibility", "shape", "color", "material", "size", "x", "y", "z", "rotation"],
        *["pixel_x", "pixel_y", "pixel_depth"],
    ],
}


class Stored(NamedTuple):
    arrays: dict  # as in the record
    image: np.ndarray  # [H, W, 3]
    entities: np.ndarray  # [H, W]
    factors: np.ndarray  # [O, F]


def some_scene(layout, seed, num_objects=None):
    """A random scene: the background and so many objects, by default all that there is room for."""
    (height, width, channels), num_entities, axis, factors = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    num_visible = num_entities if num_objects is None else 1 + num_objects
    entities = np.kron(rng.integers(0, num_visible, (height // 5 + 1, width // 5 + 1)), np.ones((5, 5), dtype=int))
    entities = entities[:height, :width]
    masks = np.stack([np.where(entities == entity, 255, 0).astype(np.uint8) for entity in range(num_entities)], axis)
    image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    arrays, columns = {"image": image, "mask": masks[..., None]}, {}
    for name, number in factors.items():
        is_string = name in STRINGS.get(layout, ())
        values = rng.integers(0, 9, (num_entities, number)) if is_string else rng.normal(size=(num_entities, number))
        if name == "visibility":
            values = (np.arange(num_entities) < num_visible)[:, None]
        arrays[name] = values.astype(np.uint8 if is_string else np.float32)
        components = {"color": COLOURS, "pixel_coords": ["pixel_x", "pixel_y", "pixel_depth"]} if number == 3 else {}
        columns |= dict(zip(components.get(name, [name]), arrays[name].T, strict=True))
    table = [columns[name] for name in FACTOR_NAMES.get(layout, [])]
    return Stored(arrays, np.broadcast_to(image, (height, width, 3)), entities, np.array(table, np.float32).T)


def write_scenes(path, scenes, compression="gzip"):
    return write_records(path, [encode(scene.arrays) for scene in scenes], compression)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Seven tetrominoes scenes, and the file."""
    scenes = [some_scene("tetrominoes", seed) for seed in range(7)]
    return scenes, write_scenes(tmp_path_factory.mktemp("pieces") / "tetrominoes_train.tfrecords", scenes)


@pytest.fixture(scope="module")
def clevr(tmp_path_factory):
    """CLEVR scenes of 3, 7 and 6 objects, and the file."""
    scenes = [some_scene("clevr_with_masks", number, number) for number in (3, 7, 6)]
    return scenes, write_scenes(tmp_path_factory.mktemp("clevr") / "clevr_with_masks_train.tfrecords", scenes)


def one_hot(entities, num_entities):
    return np.stack([np.where(entities == entity, 255, 0) for entity in range(num_entities)])[..., None]


def refused(source, out, *words, **options):
    with pytest.raises(UserError) as caught:
        convert(source, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not out.exists()
    return message


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "clevr_with_masks"])
def test_every_array_of_every_data_set_arrives(tmp_path, layout):
    _, num_entities, _, _ = LAYOUTS[layout]
    scenes = [some_scene(layout, seed) for seed in range(3)]
    source = write_scenes(tmp_path / "a.tfrecords", scenes)
    convert(source, tmp_path / "a.h5", train=0, val=1, test=2)
    check_dataset(tmp_path / "a.h5")
    with DatasetFile(tmp_path / "a.h5") as file:
        for split, index, scene in (("val", 0, scenes[0]), ("test", 0, scenes[1]), ("test", 1, scenes[2])):
            np.testing.assert_array_equal(file.images(split)[index], scene.image)
            np.testing.assert_array_equal(file.masks(split)[index], one_hot(scene.entities, num_entities))
            if layout in FACTOR_NAMES:
                np.testing.assert_array_equal(file.factors(split)[index], scene.factors)
        attributes = {
            "source": "multi_object_datasets",
            "dataset": layout.partition(" ")[0],
            "files": ["a.tfrecords"],
            "size": scenes[0].image.shape[0],
        }
        if layout in FACTOR_NAMES:
            attributes["factor_names"] = FACTOR_NAMES[layout]
        else:
            attributes["background_entities"] = [0, 1, 2, 3]
            assert file.background_entities == (0, 1, 2, 3)
        assert file.attributes == attributes


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression_is_recognised(tmp_path, pieces, compression):
    scenes, _ = pieces
    source = write_scenes(tmp_path / "data", scenes, compression)  # by content: the name says nothing
    convert(source, tmp_path / "a.h5", val=1, test=1)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.splits == ("train", "val", "test")
        np.testing.assert_array_equal(file.images("train")[:], [scene.image for scene in scenes[2:]])


def test_a_gzip_of_several_members_and_padding(tmp_path, pieces):
    scenes, source = pieces
    content = gzip.decompress(source.read_bytes())
    path = tmp_path / "a.tfrecords"
    path.write_bytes(gzip.compress(content[:50_000]) + gzip.compress(content[50_000:]) + bytes(100))
    assert len(list(read_records(path, lambda *_: None))) == len(scenes)


def test_a_record_whose_length_looks_like_zlib(tmp_path):
    length = 0x0178  # 78 01: the start of a zlib stream
    path = write_records(tmp_path / "a", [bytes(length)], "none")
    assert path.read_bytes()[:2] == b"\x78\x01"
    assert list(read_records(path, lambda *_: None)) == [bytes(length)]


def test_clevr6_as_published(tmp_path, clevr):
    (three, _, six), source = clevr
    convert(source, tmp_path / "clevr6.h5", val=1, test=0)
    check_dataset(tmp_path / "clevr6.h5")
    with DatasetFile(tmp_path / "clevr6.h5") as file:
        assert file.image_size == 96
        assert (file.num_images("val"), file.num_images("train")) == (1, 1)  # the scene of 7 objects is left out
        for split, scene in (("val", three), ("train", six)):
            window = scene.image[29:221, 64:256]
            small = Image.fromarray(window).resize((96, 96), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(file.images(split)[0], np.asarray(small))
            # Nearest: pixel i of 96 covers pixels 2i and 2i + 1 of 192; Pillow takes the latter.
            entities = scene.entities[29:221, 64:256][1::2, 1::2]
            np.testing.assert_array_equal(file.masks(split)[0], one_hot(entities, 7))
            np.testing.assert_array_equal(file.factors(split)[0], scene.factors[:7])
        assert file.attributes["crop"] == [29, 221, 64, 256]
        assert (file.attributes["dataset"], file.attributes["max_objects"]) == ("clevr_with_masks", 6)
        assert file.attributes["factor_names"] == FACTOR_NAMES["clevr_with_masks"]


def test_clevr10_at_the_size_of_the_window(tmp_path, clevr):
    scenes, source = clevr
    convert(source, tmp_path / "a.h5", size=192, max_objects=10, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        for index, scene in enumerate(scenes):
            np.testing.assert_array_equal(file.images("train")[index], scene.image[29:221, 64:256])
            np.testing.assert_array_equal(file.masks("train")[index], one_hot(scene.entities[29:221, 64:256], 11))
            np.testing.assert_array_equal(file.factors("train")[index], scene.factors)


def test_a_white_pixel_lands_where_it_should(tmp_path):
    scene = some_scene("clevr_with_masks", 0, 1)
    scene.arrays["image"][:] = 0
    scene.arrays["image"][29 + 100 : 29 + 102, 64 + 20 : 64 + 22] = 255  # pixel (50, 10) of the small image
    convert(write_scenes(tmp_path / "a.tfrecords", [scene]), tmp_path / "a.h5", val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        image = file.images("train")[0, :, :, 0].astype(int)
        # The filter reaches over half a pixel more on each side, with weights 1 : 3 : 3 : 1.
        assert image[50, 10] == round(255 * 0.75**2)
        assert image[49, 10] == image[50, 11] == round(255 * 0.75 * 0.125)
        assert image.sum() - image[49:52, 9:12].sum() == 0


def test_visible_objects_move_up_when_entities_are_cut(tmp_path):
    scene = some_scene("multi_dsprites_colored_on_colored", 0)  # entities 0 to 4
    scene.arrays["visibility"][[1, 3]] = 0
    convert(write_scenes(tmp_path / "a.tfrecords", [scene]), tmp_path / "a.h5", max_objects=2, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        expected = one_hot(scene.entities, 5)[[0, 2, 4]]
        np.testing.assert_array_equal(file.masks("train")[0], expected)
        np.testing.assert_array_equal(file.factors("train")[0, :, 0], [1, 1, 1])


def test_objects_are_counted_by_masks_where_no_factor_says_them(tmp_path):
    few, many = (some_scene("objects_room train", seed, number) for seed, number in ((0, 4), (1, 6)))
    source = write_scenes(tmp_path / "a.tfrecords", [many, few])
    convert(source, tmp_path / "a.h5", max_objects=1, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert file.num_images("train") == 1
        np.testing.assert_array_equal(file.masks("train")[0], one_hot(few.entities, 5))


def test_other_ways_to_write_the_same_message(tmp_path):
    """Floats that are not packed, integers in place of floats, strings among fields that nobody knows."""
    scene = some_scene("tetrominoes", 0)
    scene.factors[:, 1] = [0, 5, -1, 2**40]
    usual = {**scene.arrays, "shape": scene.factors[:, 1].astype(np.int64)}
    floats = b"".join(b"\x0d" + value.tobytes() for value in usual.pop("x").ravel())
    strings = b"".join(b"\x0a\x01" + bytes([value]) + b"\x10\x05" for value in usual.pop("image").flat)
    features = Example.FromString(encode(usual)).features.SerializeToString()
    for name, number, values in ((b"x", b"\x12", floats), (b"image", b"\x0a", strings)):
        feature = number + varint(len(values)) + values
        entry = b"\x0a" + varint(len(name)) + name + b"\x12" + varint(len(feature)) + feature
        features += b"\x0a" + varint(len(entry)) + entry
    features += b"\x19" + bytes(8)
    record = b"\x15" + bytes(4) + b"\x0a" + varint(len(features)) + features + b"\x78\x05"
    read_by_protobuf = Example.FromString(record).features.feature
    assert list(read_by_protobuf["x"].float_list.value) == scene.arrays["x"].ravel().tolist()
    assert b"".join(read_by_protobuf["image"].bytes_list.value) == scene.arrays["image"].tobytes()
    convert(write_records(tmp_path / "a.tfrecords", [record]), tmp_path / "a.h5", val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.images("train")[0], scene.image)
        np.testing.assert_array_equal(file.factors("train")[0], scene.factors)


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def test_the_splits_of_a_file_that_has_none(tmp_path, pieces):
    scenes, source = pieces
    images = np.stack([scene.image for scene in scenes])

    def split(name, **counts):
        convert(source, tmp_path / name, **counts)
        with DatasetFile(tmp_path / name) as file:
            return {split: file.images(split)[:] for split in file.splits}

    whole = split("a.h5", val=2, test=1)
    for name, expected in (("val", images[:2]), ("test", images[2:3]), ("train", images[3:])):
        np.testing.assert_array_equal(whole[name], expected)
    part = split("b.h5", val=0, test=1, train=2)
    assert part.keys() == {"train", "test"}
    np.testing.assert_array_equal(part["train"], images[1:3])
    np.testing.assert_array_equal(split("c.h5", val=0, train=0, test=7)["test"], images)
    assert len(split("d.h5", val=1, test=1, train=100)["train"]) == 5  # "at most"


def test_too_few_scenes(tmp_path, pieces, clevr):
    out = tmp_path / "a.h5"
    refused(pieces[1], out, "7 scenes of tetrominoes_train.tfrecords are too few", "--val 1000 and --test 1000")
    refused(pieces[1], out, "7 scenes", "one left for train", val=3, test=4)
    refused(pieces[1], out, "7 scenes", "--val 0 and --test 8;", val=0, test=8, train=0)
    refused(clevr[1], out, "2 scenes", "with at most 6 objects", val=3, test=0, train=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 4}, "--size 4 is out of range"),
        ({"max_objects": 0}, "--max-objects 0"),
        ({"train": -1}, "--train -1"),
        ({"train": 0, "val": 0, "test": 0}, "nothing to convert"),
        ({"seed": 1}, "--seed does not apply to tfrecords"),
        ({"cameras": [1]}, "--cameras does not apply"),
        ({"split_name": "a"}, "--split-name does not apply"),
        ({"format": "emorl"}, "not an HDF5 file"),
        ({"format": "shapestacks"}, "recordings/SCENARIO"),
        ({"format": "mnist"}, "idx3-ubyte"),
        ({"format": "folder"}, "Not a directory"),
    ],
)
def test_options_that_do_not_fit(tmp_path, pieces, options, words):
    refused(pieces[1], tmp_path / "a.h5", words, **options)


def test_sources_that_are_something_else(tmp_path, pieces):
    out = tmp_path / "a.h5"
    refused(tmp_path / "none", out, "no file or folder", "none")
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text", out, "not a TFRecord file, an HDF5 file or a folder")
    (tmp_path / "empty.tfrecords").touch()
    refused(tmp_path / "empty.tfrecords", out, "is empty")
    refused(tmp_path, out, "Is a directory", format="tfrecords")
    other = write_records(tmp_path / "other.tfrecords", [encode({"image": np.zeros(7, np.uint8)})])
    refused(other, out, "not one of the Multi-Object Datasets", "image has 7 values")
    other = write_records(tmp_path / "log.tfrecords", [b"\x07\x07"])
    refused(other, out, "not one of the Multi-Object Datasets", "record 0")
    out.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        convert(pieces[1], out, val=1, test=1)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": np.zeros(5, np.uint8)}, "its feature mask has 5 values instead of 4900"),
        ({"image": np.zeros((35, 35, 3), np.float32)}, "its feature image does not consist of one-byte strings"),
        ({"x": np.zeros(5, np.float32)}, "its feature x has 5 values instead of 4"),
        ({"x": None}, "it has no feature x"),
    ],
)
def test_a_record_unlike_the_first(tmp_path, change, words):
    scenes = [some_scene("tetrominoes", seed) for seed in range(3)]
    changed = {**scenes[2].arrays, **change}
    records = [encode(scene.arrays) for scene in scenes[:2]]
    records.append(encode({name: array for name, array in changed.items() if array is not None}))
    source = write_records(tmp_path / "a.tfrecords", records)
    refused(source, tmp_path / "a.h5", str(source), "record 2", words, val=0, test=0)


def test_strings_longer_than_a_byte(tmp_path):
    example = Example.FromString(encode(some_scene("tetrominoes", 0).arrays))
    example.features.feature["image"].bytes_list.value[7] = b"two"
    source = write_records(tmp_path / "a.tfrecords", [example.SerializeToString()])
    refused(source, tmp_path / "a.h5", "strings that are not one byte long", val=0, test=0)


# Damage


def frame(data):
    """A record with sound checksums, by another implementation than the reader's."""
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", pywrap_tensorflow.masked_crc32c(header)) + data


def test_a_length_with_a_sound_checksum_does_not_take_all_memory(tmp_path):
    header = struct.pack("<Q", 2**40)
    path = tmp_path / "a.tfrecords"
    path.write_bytes(header + struct.pack("<I", masked_crc32c(header)) + bytes(100))
    tracemalloc.start()
    refused(path, tmp_path / "a.h5", "record 0", f"claims to have {2**40} bytes")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 1024**2


def outcome(source, out, **options):
    """What a damaged file gives: the arrays, or the one line of the refusal."""
    try:
        convert(source, out, **options)
    except UserError as error:
        assert not out.exists()
        message = str(error)
        assert "\n" not in message
        assert source.name in message
        return message
    with DatasetFile(out) as file:
        content = file.content_hash()
    out.unlink()
    return content


@pytest.fixture(scope="module", params=COMPRESSIONS)
def two_records(request, tmp_path_factory):
    """A file of two scenes: its folder, its content, and what it converts to."""
    folder = tmp_path_factory.mktemp("two")
    scenes = [some_scene("tetrominoes", seed) for seed in range(2)]
    source = write_scenes(folder / "two.tfrecords", scenes, request.param)
    return folder, source.read_bytes(), outcome(source, folder / "a.h5", val=0, test=2, train=0)


def test_truncated_files_are_refused(two_records):
    folder, content, whole = two_records
    source = folder / "cut.tfrecords"
    middle = len(content) // 2
    for length in (*range(0, 30, 3), middle - 16, *range(middle - 5, middle + 5), middle + 12, len(content) - 9):
        source.write_bytes(content[:length])
        found = outcome(source, folder / "a.h5", val=0, test=2, train=0)
        reasons = ("is empty", "cannot be read (", "1 scenes of cut.tfrecords are too few")
        # The end of a compressed file tells nothing about the scenes, and is not read when there are enough.
        assert any(reason in found for reason in reasons) or (length > middle + 12 and found == whole), length


def test_a_single_damaged_byte_changes_nothing_or_is_refused(two_records):
    folder, content, whole = two_records
    source = folder / "flipped.tfrecords"
    rng = np.random.default_rng(0)
    places = [*range(0, 24, 2), *rng.integers(0, len(content), 40), *range(len(content) - 12, len(content), 2)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        source.write_bytes(damaged)
        found = outcome(source, folder / "a.h5", val=0, test=2, train=0)
        assert found == whole or "cannot be read (" in found, (place, found)


def test_the_damaged_record_is_named(tmp_path, pieces):
    scenes, _ = pieces
    source = write_scenes(tmp_path / "a.tfrecords", scenes[:3], "none")
    content = bytearray(source.read_bytes())
    content[len(content) // 3 + 5_000] ^= 1
    source.write_bytes(content)
    refused(source, tmp_path / "a.h5", str(source), "record 1", "its checksum is wrong", val=0, test=0)
    source.write_bytes(content[: len(content) // 3 + 5_000])
    refused(source, tmp_path / "a.h5", "record 1", "ends within it", val=0, test=0)


def test_damaged_messages_are_value_errors():
    """Records with sound checksums and unsound content."""
    record = encode(
        {
            "image": np.arange(9, dtype=np.uint8),
            "x": np.arange(3, dtype=np.float32),
            "shape": np.array([1, -1, 300]),
        }
    )
    rng = np.random.default_rng(0)
    failures = 0
    for _ in range(3_000):
        damaged = bytearray(record)
        for place in rng.integers(0, len(record), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            for feature in parse_example(bytes(damaged[: rng.integers(len(record) // 2, len(record) + 1)])).values():
                feature_values(feature)
        except ValueError:
            failures += 1
    assert failures > 1_000


def test_progress_is_told_in_megabytes(tmp_path, clevr):
    told = []
    convert(clevr[1], tmp_path / "a.h5", val=0, test=0, progress=lambda *news: told.append(news))
    assert all(what == "MB of clevr_with_masks_train.tfrecords" for what, _, _ in told)
    total = -(-clevr[1].stat().st_size // 2**20)
    assert told[-1][1:] == (total - 1, total)


def test_memory_is_bounded(tmp_path, pieces):
    """Pieces of 256 scenes: more than three of them take no more than two."""
    record = encode(pieces[0][0].arrays)
    frames = frame(record) + struct.pack("<I", masked_crc32c(record))
    peaks = []
    for num in (512, 1_000):
        source = tmp_path / f"{num}.tfrecords"
        with gzip.open(source, "wb", 1) as file:
            for _ in range(num):
                file.write(frames)
        tracemalloc.start()
        convert(source, tmp_path / f"{num}.h5", val=0, test=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_killed_conversion_leaves_nothing(tmp_path, pieces):
    record = encode(pieces[0][0].arrays)
    frames = frame(record) + struct.pack("<I", masked_crc32c(record))
    source = tmp_path / "long.tfrecords"
    source.write_bytes(frames * 3_000)
    out = tmp_path / "made" / "a.h5"
    program = (
        "import sys; from pyro_sri.data.readers import convert;"
        "convert(*sys.argv[1:], val=0, test=0, progress=lambda *news: print(*news, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", program, source, out], stdout=subprocess.PIPE) as process:
        next(line for line in process.stdout if line.startswith(b"MB of long.tfrecords 20 "))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(out.parent.iterdir()) == []


# Records of coded pictures


def coded(array, kind="PNG", palette=None, **options):
    with io.BytesIO() as file:
        picture = Image.fromarray(array)
        if palette is not None:
            picture.putpalette(palette)
        picture.save(file, kind, **options)
        return file.getvalue()


def encode_pictures(strings):
    example = Example()
    for name, values in strings.items():
        example.features.feature[name].bytes_list.value.extend(values)
    return example.SerializeToString()


def flat_scene(index):
    image = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    entities = np.zeros((40, 40), np.uint8)
    entities[5:15, 5:15], entities[20:30, index : index + 10] = 1, 2
    return image, entities


@pytest.mark.parametrize("masks", ["index", "objects", "all", None])
def test_records_of_coded_pictures(tmp_path, masks):
    scenes = [flat_scene(index) for index in range(3)]
    records = []
    for image, entities in scenes:
        strings = {"image": [coded(image)]}
        if masks == "index":
            strings["segmentations"] = [coded(entities)]
        elif masks is not None:
            numbers = (1, 2) if masks == "objects" else (0, 1, 2)
            strings["mask"] = [coded((entities == number) * np.uint8(255)) for number in numbers]
        records.append(encode_pictures(strings))
    source = write_records(tmp_path / "a.tfrecords", records)
    said = convert(source, tmp_path / "a.h5", size=40, val=0, test=0)
    with DatasetFile(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.images("train")[:], [image for image, _ in scenes])
        if masks is None:
            assert file.masks("train") is None
        else:
            labels = entity_labels(file.masks("train")[:])
            np.testing.assert_array_equal(labels, [entities for _, entities in scenes])
    assert "factors, if there are any, were left out" in said[-1]


def test_coded_pictures_that_are_wrong(tmp_path):
    image, entities = flat_scene(0)
    good = encode_pictures({"image": [coded(image)], "mask": [coded(entities)]})
    for strings, words in (
        ({"image": [coded(image)[:-20]], "mask": [coded(entities)]}, "is not a valid image"),
        ({"image": [coded(image)]}, "no masks"),
        ({"image": [coded(image[:30])], "mask": [coded(entities)]}, "30 x 40"),
        ({"image": [coded(image)], "mask": [coded(entities[:30])]}, "30 x 40"),
        ({"image": [coded(image)], "mask": [coded(image)]}, "coloured"),
        ({"image": [coded(image)], "mask": [coded(entities * 6)]}, "record 1 has 12 objects"),
    ):
        source = write_records(tmp_path / "a.tfrecords", [good, encode_pictures(strings)])
        refused(source, tmp_path / "a.h5", "record 1", words, val=0, test=0)


def masks_of(index, *numbers):
    """The masks of entities of a flat scene, 255 inside; None is the whole image."""
    entities = flat_scene(index)[1]
    whole = np.full_like(entities, 255)
    return [whole if number is None else (entities == number) * np.uint8(255) for number in numbers]


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ([255 - mask for mask in masks_of(0, 0, 1, 2)], "record 0 is not like the first: its masks are inverted"),
        (masks_of(0, 1, 2, None), "a background must come first"),
        ([np.asarray(Image.fromarray(flat_scene(0)[1] * 80).resize((40, 40), 2, (1, 1, 26, 26)))], "have soft edges"),
    ],
)
def test_masks_of_coded_pictures_that_would_be_misread_are_refused(tmp_path, masks, words):
    strings = {"image": [coded(flat_scene(0)[0])], "mask": [coded(mask) for mask in masks]}
    source = write_records(tmp_path / "a.tfrecords", [encode_pictures(strings)] * 2)
    refused(source, tmp_path / "a.h5", words, val=0, test=0, max_objects=200)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (masks_of(0, 1, 2, 0), "have an object along most of the image's edge in 1 of 1 scenes"),
        ([255 - mask for mask in masks_of(0, 1)], "leave 6 % of the pixels to the background"),
        (masks_of(0, None), "leave 0 % of the pixels to the background"),
    ],
)
def test_odd_masks_of_coded_pictures_are_named(tmp_path, masks, words):
    strings = {"image": [coded(flat_scene(0)[0])], "mask": [coded(mask) for mask in masks]}
    source = write_records(tmp_path / "a.tfrecords", [encode_pictures(strings)])
    said = convert(source, tmp_path / "a.h5", size=40, val=0, test=0)
    assert "" not in said
    assert words in said[-1]


def test_palettes_of_coded_masks(tmp_path):
    image, entities = flat_scene(0)
    one = {"image": [coded(image)]}
    black_red, red_black = [0, 0, 0, 9, 9, 9, 200, 0, 0], [200, 0, 0, 0, 0, 0, 9, 9, 9]
    records = [encode_pictures(one | {"mask": [coded(entities, palette=some)]}) for some in (black_red, red_black)]
    source = write_records(tmp_path / "a.tfrecords", records)
    refused(source, tmp_path / "a.h5", "record 1", "another palette", val=0, test=0)
    inside = (entities > 0).astype(np.uint8)
    white = ((inside, [0, 0, 0, 255, 255, 255]), (1 - inside, [255, 255, 255, 0, 0, 0]))
    records = [encode_pictures(one | {"mask": [coded(mask, palette=some)]}) for mask, some in white]
    convert(write_records(tmp_path / "b.tfrecords", records), tmp_path / "b.h5", size=40, val=0, test=0)
    with DatasetFile(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(entity_labels(file.masks("train")[:]), [inside, inside])


def test_a_coded_image_that_exif_turns_needs_masks_that_are_turned_too(tmp_path):
    image, entities = flat_scene(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    strings = {"image": [coded(image, "JPEG", exif=exif)], "mask": [coded(entities)]}
    source = write_records(tmp_path / "a.tfrecords", [encode_pictures(strings)])
    refused(source, tmp_path / "a.h5", "turned by its EXIF orientation, but not its masks", val=0, test=0)


def test_cater_is_named(tmp_path):
    record = encode_pictures({"image": [bytes(33 * 64 * 64 * 3)]})
    refused(write_records(tmp_path / "a.tfrecords", [record]), tmp_path / "a.h5", "CATER with masks, videos")
