"""Writes dataset files, complete or not at all."""

import errno
import io
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from pyro_sri.data.format import ARRAYS, IMAGES_PER_BLOCK, DatasetFile, SceneArrays
from pyro_sri.system.allocation import require_memory_for_hdf5
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home
from pyro_sri.system.signals import ENDING, handling

# Since HDF5 1.10, the layout itself has checksums too. Every h5py in use can read it.
LAYOUT_VERSION = ("v110", "v110")

# Where Linux lists the open files of this process by number.
OPEN_FILES = Path("/proc/self/fd")
# The errors of systems that cannot make a file without a name.
NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


def write_dataset(
    path: Path | str, splits: Mapping[str, Iterable[SceneArrays]], attributes: Mapping[str, object]
) -> None:
    """Write a dataset file, complete or not at all.

    The scenes are written to a file without a name, which gets its name once everything is written, checked and on
    disk. So nothing is left behind if this fails or is killed, and an existing file is never changed. (If the system
    has no files without names, a temporary file next to `path` is used. Only a kill leaves it behind.)

    Args:
        path: The file to write. Missing folders are created.
        splits: The scenes of each split, in pieces of any length. They are taken one at a time, so a generator keeps
            memory bounded. All pieces of a split have the same arrays.
        attributes: The file's attributes: strings, numbers and lists of these.

    Raises:
        UserError: If the file exists, the folder cannot be written, the disk is full, or the scenes do not fit.
    """
    path = from_home(path)
    refuse_existing(path)
    require_memory_for_hdf5()
    with _Output(path) as output:
        with _signals_held():
            file = h5py.File(output, "w", libver=LAYOUT_VERSION)
            file.attrs.update({name: _writable(value) for name, value in attributes.items()})
        try:
            for split, pieces in splits.items():
                for scenes in pieces:
                    with _signals_held():
                        _append(file.require_group(split), scenes)
                    output.raise_failure()
        finally:
            with _signals_held():
                file.close()
        output.sync()
        DatasetFile(path, output).close()
        output.publish()


def _writable(value: object) -> object:
    """The value of an attribute. Bytes in file names that are not UTF-8 are escaped."""
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


class _Output(io.FileIO):
    """A new file without a name that never fails while HDF5 writes to it.

    HDF5 crashes when it closes a file on a full disk. So the first failure is kept for `raise_failure`, and later
    writes are dropped.
    """

    def __init__(self, path: Path):
        self._path = path
        self._failure: OSError | None = None
        self._temporary: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(self._open(), "w+")
        except OSError as error:
            self._failure = error
            self.raise_failure()

    def _open(self) -> int:
        if OPEN_FILES.is_dir():
            try:
                return os.open(self._path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
            except OSError as error:
                if error.errno not in NO_NAMELESS_FILES:
                    raise
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._temporary = temporary
        return file

    def publish(self) -> None:
        """Give the file its name, unless another file has that name."""
        try:
            if self._temporary is not None:
                os.link(self._temporary, self._path)
                return
            folder = os.open(OPEN_FILES, os.O_RDONLY)  # so that the link leads to the file, not to its entry there
            try:
                os.link(str(self.fileno()), self._path, src_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(folder)
        except FileExistsError:
            refuse_existing(self._path)
        except OSError as error:
            self._failure = error
            self.raise_failure()

    def close(self) -> None:
        """Close the file. If it was not published, nothing is left of it."""
        super().close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        while len(rest) and self._failure is None:
            with self._kept():
                rest = rest[super().write(rest) :]
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        with self._kept():
            super().truncate(size)
        return self.tell()

    def sync(self) -> None:
        """Wait until everything is on disk."""
        with self._kept():
            os.fsync(self.fileno())
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the first failure so far, as a UserError."""
        if self._failure is not None:
            reason = self._failure.strerror
            raise UserError(f"cannot write {self._path} ({reason}); check the folder and the free space")

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay interrupts: an exception from a handler while HDF5 calls `_Output` would lose a write."""
    received: list[int] = []
    try:
        with handling(lambda number, _: received.append(number), *ENDING):
            yield
    finally:
        for held in received:
            signal.raise_signal(held)


def _append(group: Any, scenes: SceneArrays) -> None:
    for name, values in zip(ARRAYS, scenes, strict=True):
        if values is None:
            continue
        if name not in group:
            group.create_dataset(
                name,
                shape=(0, *values.shape[1:]),
                maxshape=(None, *values.shape[1:]),
                dtype=values.dtype,
                chunks=(max(1, min(len(values), IMAGES_PER_BLOCK)), *values.shape[1:]),
                fletcher32=True,  # checksums: without them a flipped bit in an image would go unnoticed
                **({} if name == "imgs" else {"compression": "gzip", "compression_opts": 1}),
            )
        array = group[name]
        array.resize(len(array) + len(values), axis=0)
        array[len(array) - len(values) :] = values


def refuse_existing(path: Path) -> None:
    """Raise a UserError if there is anything at a path to be written, even a broken link."""
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} already exists; choose another name or remove it first")
