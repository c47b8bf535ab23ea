"""Files that are written completely or not at all, by one process at a time."""

import contextlib
import errno
import fcntl
import itertools
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pyro_sri.system.errors import UserError, causes

POLL = 0.2  # seconds between attempts to take a lock


@contextlib.contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Turns the errors of a full or read-only disk into one plain line about `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises its own error after the disk's, or instead of it
        failure = next((cause for cause in causes(error) if isinstance(cause, OSError)), None)
        if failure is None and "write" not in str(error):
            raise
        reason = "the disk may be full" if failure is None else failure.strerror or str(failure)
        full = failure is None or failure.errno in (errno.ENOSPC, errno.EDQUOT)
    else:
        return
    raise UserError(f"cannot write {path}: {reason}; {'free some space' if full else 'choose another place'}")


def unfinished(path: Path) -> Path:
    """The temporary path of a file while `write_atomically` writes it."""
    return path.with_name(f".{path.name}.unfinished")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under another name in the same folder, flushes it to the disk, and renames it.

    A kill leaves at most the file `unfinished(path)`, which the next write of `path` takes over. If two processes write
    `path`, one waits for the other.

    Raises:
        UserError: If the disk is full or read-only. The old file, if any, is kept.
    """
    temporary = unfinished(path)
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(temporary, wait=True) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def open_locked(path: Path, wait: bool) -> Iterator[IO[bytes]]:
    """Opens and empties a file. No other process can open it this way until it is closed, renamed or removed.

    The kernel releases the lock when this process ends, for whatever reason. Forked processes do not have the lock. On
    file systems without locks, several processes can open the file.

    Raises:
        BlockingIOError: If another process has the file and `wait` is False.
    """
    while True:
        with open(path, "wb", opener=open_in_place) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise BlockingIOError(errno.EAGAIN, "in use by another process") from None
            try:
                still_there = os.path.samestat(path.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                still_there = False
            if still_there:  # otherwise the process that had it has renamed or removed it
                file.truncate()
                yield file
                return


@contextlib.contextmanager
def sole_use(lock: Path, taken: str) -> Iterator[None]:
    """Holds a lock file, and removes it afterwards. After a kill, it stays, empty, and the next process takes it over.

    Args:
        lock: The file. Its folder is created.
        taken: The message if another process holds it.

    Raises:
        UserError: If another process holds it.
        OSError: If the file cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(open_locked(lock, wait=False))
        except BlockingIOError:
            raise UserError(taken) from None
        stack.callback(lock.unlink, missing_ok=True)
        yield


@contextlib.contextmanager
def wait_for_sole_use(lock: Path, told: Callable[[int | None], None]) -> Iterator[None]:
    """Holds a lock file like `sole_use`, but waits until no other process holds it.

    Args:
        lock: The file. Its folder is created.
        told: Called once before a wait, with the number of the process that holds it, if that is known.

    Raises:
        OSError: If the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        waits = False
        while True:
            try:
                stack.enter_context(sole_use(lock, "in use"))
            except UserError:
                if not waits:
                    told(lock_holder(lock))
                waits = True
                time.sleep(POLL)
            else:
                break
        yield


def lock_folder(descriptor: int) -> None:
    """Locks an open folder until it is closed. Does nothing if the file system has no locks.

    Raises:
        BlockingIOError: If another process has it locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def from_home(path: Path | str) -> Path:
    """A path with a leading ~ expanded, or unchanged if there is no such home."""
    return Path(os.path.expanduser(path))


def is_locked(path: Path) -> bool:
    """Whether another process has a file open by `open_locked` at this moment. Does not take the lock."""
    return lock_holder(path) is not None


def lock_holder(path: Path) -> int | None:
    """The number of the process that has a file open by `open_locked`; None if there is none, or it is not known.

    If the process runs on another machine that shares the disk, the number means nothing.
    """
    if not sys.platform.startswith("linux"):  # the call differs on other systems
        return None
    question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:  # it is missing, or its file system has no locks
        return None
    kind, *_, process = struct.unpack("hhqqi", answer)
    return None if kind == fcntl.F_UNLCK else int(process)


def unused(path: Path) -> Path:
    """The path, or one with a number behind its stem that nothing has."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(place for place in itertools.chain([path], others) if not os.path.lexists(place))


def write_numbered(path: Path, content: bytes) -> None:
    """Writes a file, and keeps an earlier one next to it, as NAME.1.SUFFIX and so on.

    Raises:
        UserError: If the disk is full or read-only. The earlier file is still in its place.
    """
    earlier = path.read_bytes() if path.exists() else None
    if earlier is None:
        write_atomically(path, lambda file: file.write(content))
        return
    number = 1
    while (aside := path.with_suffix(f".{number}{path.suffix}")).exists():
        number += 1
    write_atomically(aside, lambda file: file.write(earlier))
    try:
        write_atomically(path, lambda file: file.write(content))
    except BaseException:
        aside.unlink()
        raise


def open_in_place(path: str, flags: int) -> int:
    """Opens a file without emptying it, and without following a link that came with a run directory."""
    return os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW, 0o666)
