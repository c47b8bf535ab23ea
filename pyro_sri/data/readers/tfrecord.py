"""Reads and verifies the records of a TFRecord file.

A record is its length (uint64), the masked crc32c of those 8 bytes (uint32), the data, and the masked crc32c of the
data (uint32), all little-endian. The file as a whole may be compressed with gzip or zlib.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from pyro_sri.data.format import Report
from pyro_sri.data.readers.bytestream import READ_ERRORS, ByteStream, looks_compressed, open_stream
from pyro_sri.system.errors import UserError

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")

# The largest records, those of CLEVR, have 3 MB. A length beyond this is an error, for which no memory is allocated.
LONGEST_RECORD = 16 * 1024**2
MEGABYTE = 1024**2


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecords: crc32c, rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_tfrecord_file(path: Path) -> bool:
    """Whether a file starts with the header of a record, compressed or not, or has tfrecord in its name."""
    if not path.is_file():
        return False
    return "tfrecord" in path.name or any(_starts_with_record(path, compressed) for compressed in (False, True))


def _starts_with_record(path: Path, compressed: bool) -> bool:
    with open_stream(path, compressed) as stream:
        try:
            return _sound_header(stream.read(HEADER.size))
        except READ_ERRORS:
            return False


def _sound_header(header: bytes) -> bool:
    if len(header) < HEADER.size:
        return False
    _, checksum = HEADER.unpack(header)
    return masked_crc32c(header[:8]) == checksum


def read_records(path: Path, progress: Report) -> Iterator[bytes]:
    """The data of every record, in order.

    An uncompressed file that was cut off exactly after a record cannot be told from a complete one.

    Args:
        path: A TFRecord file, compressed with gzip, zlib or not at all.
        progress: Called as progress("MB of FILE", megabytes read, megabytes in total).

    Raises:
        UserError: If the file cannot be read, has no records, or is damaged; names the damaged record.
    """
    with open_stream(path, _is_compressed(path)) as stream:
        total = -(-path.stat().st_size // MEGABYTE)
        told, index = -1, 0
        while (data := _next_record(stream, path, index)) is not None:
            yield data
            index += 1
            if (done := stream.position // MEGABYTE) > told:
                progress(f"MB of {path.name}", done, total)
                told = done
        if index == 0:
            raise UserError(f"{path} is empty; download it again")


def _is_compressed(path: Path) -> bool:
    with open_stream(path, compressed=False) as stream:
        start = stream.read(HEADER.size)
    return looks_compressed(start) and not _sound_header(start)  # the length of a record may look like compression


def _next_record(stream: ByteStream, path: Path, index: int) -> bytes | None:
    try:
        return _verified_record(stream)
    except EOFError:
        reason = "the file ends within it"
    except OSError as error:
        reason = error.strerror or "the disk failed"
    except (ValueError, *READ_ERRORS) as error:
        reason = str(error)
    raise UserError(f"{path}: record {index} cannot be read ({reason}); download the file again")


def _verified_record(stream: ByteStream) -> bytes | None:
    """The next record, or None at the end.

    Raises:
        EOFError: If it is cut short.
        ValueError: If its checksums are wrong.
    """
    header = stream.read(HEADER.size)
    if not header:
        return None
    if len(header) < HEADER.size:
        raise EOFError
    if not _sound_header(header):
        raise ValueError("the checksum of its length is wrong")
    length, _ = HEADER.unpack(header)
    if length > LONGEST_RECORD:
        raise ValueError(f"it claims to have {length} bytes")
    data, checksum = stream.read(length), stream.read(CHECKSUM.size)
    if len(data) < length or len(checksum) < CHECKSUM.size:
        raise EOFError
    if CHECKSUM.pack(masked_crc32c(data)) != checksum:
        raise ValueError("its checksum is wrong")
    return data
