"""The bytes of a file from beginning to end, decompressed if necessary."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pyro_sri.system.errors import UserError

BYTES_PER_READ = 64 * 1024
GZIP_MAGIC = b"\x1f\x8b"
GZIP_OR_ZLIB = 47  # zlib's code for "either, with its checksum"

# What reading may raise: the compressed data is damaged; it ends too early; the disk fails.
READ_ERRORS = (zlib.error, EOFError, OSError)


class ByteStream:
    """A file read from beginning to end.

    Args:
        file: The file, at its beginning.
        compressed: Whether to decompress it: gzip with any number of members, or zlib.
    """

    def __init__(self, file: BinaryIO, compressed: bool):
        self._file = file
        self._unpacker = zlib.decompressobj(GZIP_OR_ZLIB) if compressed else None
        self._packed = b""

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._file.tell()

    def read(self, num: int) -> bytes:
        """The next `num` bytes; fewer only at the end of the file.

        Raises:
            zlib.error: If the compressed data is damaged.
            EOFError: If the compressed data ends too early.
            OSError: If the disk fails.
        """
        if self._unpacker is None:
            return self._file.read(num)
        pieces, missing = [], num
        while missing:
            if self._unpacker.eof and not self._next_member():
                break
            packed = self._packed or self._file.read(BYTES_PER_READ)
            more = self._unpacker.decompress(packed, missing)
            self._packed = self._unpacker.unconsumed_tail
            if not packed and not more and not self._unpacker.eof:
                raise EOFError
            pieces.append(more)
            missing -= len(more)
        return b"".join(pieces)

    def _next_member(self) -> bool:
        assert self._unpacker is not None
        rest = self._unpacker.unused_data
        while not (rest := rest.lstrip(b"\0")):  # padding is allowed
            rest = self._file.read(BYTES_PER_READ)
            if not rest:
                return False
        self._packed = rest
        self._unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
        return True


@contextmanager
def open_stream(path: Path, compressed: bool) -> Iterator[ByteStream]:
    """A file as a stream.

    Raises:
        UserError: If it cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from None
    with file:
        yield ByteStream(file, compressed)


def looks_compressed(start: bytes) -> bool:
    """Whether a file that starts with these bytes may be gzip or zlib."""
    is_zlib = len(start) >= 2 and start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return start.startswith(GZIP_MAGIC) or is_zlib
