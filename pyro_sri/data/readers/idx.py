"""MNIST's idx files: a header of 4 bytes (0, 0, type, number of axes), the lengths (uint32, big-endian), the values."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.readers.bytestream import GZIP_MAGIC, READ_ERRORS, ByteStream, open_stream
from pyro_sri.system.errors import UserError

UINT8 = 8  # the type
LARGEST = 128 * 1024**2  # bytes; MNIST has 47 million


def read_idx(path: Path, num_axes: int) -> NDArray[np.uint8]:
    """The array of an idx file of bytes, perhaps compressed with gzip.

    Args:
        path: The file.
        num_axes: How many axes the array must have.

    Raises:
        UserError: If the file cannot be read, is cut short, or has another type or number of axes.
    """
    with open_stream(path, compressed=False) as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    with open_stream(path, compressed) as stream:
        try:
            return _array(stream, num_axes)
        except EOFError:
            reason = "it is truncated"
        except (ValueError, *READ_ERRORS) as error:
            reason = str(error)
    raise UserError(f"{path} cannot be read ({reason}); download it again")


def _array(stream: ByteStream, num_axes: int) -> NDArray[np.uint8]:
    start, lengths = stream.read(4), stream.read(4 * num_axes)
    if start != bytes((0, 0, UINT8, num_axes)):
        raise ValueError(f"it is not an idx file of bytes with {num_axes} axes")
    if len(lengths) < 4 * num_axes:
        raise EOFError
    shape = struct.unpack(f">{num_axes}I", lengths)
    size = math.prod(shape)
    if size > LARGEST:
        raise ValueError(f"it claims to have {size} values")
    values = stream.read(size)
    if len(values) < size:
        raise EOFError
    if stream.read(1):
        raise ValueError("it is longer than it says")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)
