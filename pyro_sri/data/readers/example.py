"""A small reader of the message tf.train.Example, in protocol buffers' wire format.

    message Example { Features features = 1; }
    message Features { map<string, Feature> feature = 1; }
    message Feature { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }

Each list is `repeated value = 1`. The Multi-Object Datasets store an image as a list of one-byte strings, up to a
million per scene. Such a list is read all at once.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
FIXED_LENGTHS = {FIXED64: 8, FIXED32: 4}
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3

LONGEST_VARINT = 10

Values = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int64]


def parse_example(data: bytes) -> dict[str, memoryview]:
    """The features of an Example by name, each to be read by `feature_values`.

    Raises:
        ValueError: If the data is not such a message.
    """
    features: dict[str, memoryview] = {}
    for number, content in _fields(memoryview(data), LENGTH_DELIMITED):
        if number == 1:
            features.update(_feature(entry) for number, entry in _fields(content, LENGTH_DELIMITED) if number == 1)
    return features


def _feature(entry: memoryview) -> tuple[str, memoryview]:
    parts = dict(_fields(entry, LENGTH_DELIMITED))
    return str(parts.get(1, b""), "utf-8"), parts.get(2, memoryview(b""))


def feature_values(feature: memoryview) -> Values:
    """The values of a feature: [n], float32, int64, or uint8 for strings of one byte each.

    Raises:
        ValueError: If the feature is damaged, or has strings of other lengths.
    """
    values: Values = np.empty(0, dtype=np.float32)
    for kind, content in _fields(feature, LENGTH_DELIMITED):
        if kind == BYTES_LIST:
            values = _one_byte_strings(content)
        elif kind == FLOAT_LIST:
            values = np.frombuffer(_joined(content, FIXED32), dtype="<f4")
        elif kind == INT64_LIST:
            values = _varints(_joined(content, VARINT))
    return values


def feature_strings(feature: memoryview) -> list[bytes]:
    """The strings of a feature; empty if it has numbers.

    Raises:
        ValueError: If the feature is damaged.
    """
    lists = [content for kind, content in _fields(feature, LENGTH_DELIMITED) if kind == BYTES_LIST]
    return [bytes(part) for content in lists for number, part in _fields(content, LENGTH_DELIMITED) if number == 1]


def first_string(feature: memoryview) -> bytes:
    """The first string of a feature, without reading the others; empty if there is none.

    Raises:
        ValueError: If the feature is damaged.
    """
    for kind, content in _fields(feature, LENGTH_DELIMITED):
        if kind == BYTES_LIST:
            return next((bytes(part) for number, part in _fields(content, LENGTH_DELIMITED) if number == 1), b"")
    return b""


def _one_byte_strings(content: memoryview) -> NDArray[np.uint8]:
    """One-byte strings are the triples (tag of field 1, length 1, the byte). Others are read one by one."""
    triples = np.frombuffer(content, dtype=np.uint8)
    tag = 1 << 3 | LENGTH_DELIMITED
    if len(triples) % 3 == 0 and (triples[0::3] == tag).all() and (triples[1::3] == 1).all():
        return triples[2::3]
    values = bytearray()
    for number, string in _fields(content, LENGTH_DELIMITED):
        if number == 1 and len(string) != 1:
            raise ValueError("it has strings that are not one byte long")
        if number == 1:
            values += string
    return np.frombuffer(bytes(values), dtype=np.uint8)


def _joined(content: memoryview, wire_type: int) -> bytes:
    """The bytes of a list of numbers, whether they were packed or written one by one."""
    data = bytearray()  # part by part: a list of all parts of a hostile record would take far more memory
    for number, part in _fields(content, LENGTH_DELIMITED, wire_type):
        if number == 1:
            data += part
    return bytes(data)


def _varints(data: bytes) -> NDArray[np.int64]:
    message = memoryview(data)

    def values() -> Iterator[int]:
        place = 0
        while place < len(message):
            value, place = _varint(message, place)
            yield value

    return np.fromiter(values(), dtype=np.uint64).view(np.int64)


def _fields(message: memoryview, *wire_types: int) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that have one of these wire types, as (number, content); others are skipped.

    Raises:
        ValueError: If the message is damaged.
    """
    place = 0
    while place < len(message):
        tag, start = _varint(message, place)
        wire_type = tag & 7
        if wire_type == VARINT:
            _, place = _varint(message, start)
        elif wire_type == LENGTH_DELIMITED:
            length, start = _varint(message, start)
            place = start + length
        elif wire_type in FIXED_LENGTHS:
            place = start + FIXED_LENGTHS[wire_type]
        else:
            raise ValueError(f"it has a field of the unknown type {wire_type}")
        if place > len(message):
            raise ValueError("it has a field that is longer than the record")
        if wire_type in wire_types:
            yield tag >> 3, message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number at a place in a message (seven bits per byte, low ones first), and the place after it."""
    value = 0
    for shift, byte in enumerate(message[place : place + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value & (2**64 - 1), place + shift + 1
    raise ValueError("it has a number that does not end")
