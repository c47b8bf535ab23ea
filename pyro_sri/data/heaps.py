"""Checks the heaps of HDF5 files, which store the texts of attributes: HDF5 hangs on some damaged ones."""

import io
import os
import re
import struct
from typing import Any

import h5py

HEAP = re.compile(rb"GCOL\x01\0\0\0")  # how a heap begins: its signature, its version and three zero bytes
HEADER_BYTES = 16  # of a heap, and of each of its objects


class _Watched(io.FileIO):
    """A file that checks every heap before HDF5 reads it."""

    def readinto(self, buffer: Any, /) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        for heap in HEAP.finditer(bytes(memoryview(buffer)[:count])):
            self._check(start + heap.start())
        return count

    def _check(self, start: int) -> None:
        """Steps through the objects by size, as HDF5 does. HDF5 never gets past a free one of size 0."""
        header = os.pread(self.fileno(), HEADER_BYTES, start)
        size = int.from_bytes(header[8:16].ljust(8, b"\0"), "little")
        heap = os.pread(self.fileno(), min(size, os.fstat(self.fileno()).st_size), start)
        place = HEADER_BYTES
        while place + HEADER_BYTES <= len(heap):
            index, length = struct.unpack_from("<H6xQ", heap, place)
            if not index and not length:
                raise OSError("a heap has an empty object")
            place += HEADER_BYTES + -(-length // 8) * 8 if index else length


def check_heaps(item: Any) -> None:
    """Reads the attributes of an open file, group or dataset of h5py, after a check of their heaps.

    Raises:
        OSError: If HDF5 cannot read one, or would hang on it.
    """
    if item.file.driver == "fileobj":
        return  # it is being written
    with _Watched(item.file.filename, "r") as raw, h5py.File(raw, "r") as file:
        for _ in file[item.name].attrs.values():
            pass
