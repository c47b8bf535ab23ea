"""Kills this process with SIGKILL at a chosen moment of its writing; Python runs this if PYTHONPATH leads here.

A moment is just before a file below $FAULT_FOLDER is opened for writing, flushed, renamed, linked or removed, or a
folder is made or removed there, and half-way through a write. Of the many openings of a file, and writes to it, only
those count whose number is 1, 4, 16, 64, ... The process dies at moment $FAULT_MOMENT, a number from 1 or what `name`
calls it, and with $FAULT_GROUP its process group too; before, it writes that name to $FAULT_REPORT. Processes that it
starts count for themselves.
"""

import builtins
import io
import os
import signal
import sys
import threading
from collections import Counter
from typing import Any

FOLDER = os.environ.get("FAULT_FOLDER")
MOMENT = os.environ.get("FAULT_MOMENT")
CHANGES = ("os.mkdir", "os.rmdir", "os.rename", "os.link", "os.remove")

lock = threading.RLock()  # TensorBoard writes in a thread of its own
count = 0
openings: Counter[str] = Counter()
writes: Counter[str] = Counter()


def watched(file: Any) -> str | None:
    """The path of a file, or of one open by number, if it is in the folder."""
    try:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.path.abspath(os.fsdecode(file))
    except (OSError, TypeError):
        return None
    return path if path.startswith(f"{FOLDER}/") else None


def name(what: str, path: str) -> str:
    """What a moment is called, like `write 4 of run/checkpoints/.last.pt.unfinished`."""
    return f"{what} {os.path.relpath(path, FOLDER)}"


def rare(number: int) -> bool:
    """Whether it is 1, 4, 16, 64, ..."""
    return number & (number - 1) == 0 and number.bit_length() % 2 == 1


def moment(what: str, path: str, half: Any = None) -> None:
    """Dies if it is time, after half of a write."""
    global count
    with lock:
        count += 1
        if MOMENT not in (str(count), name(what, path)):
            return
        if half is not None:
            half()
        report = os.open(os.environ["FAULT_REPORT"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(report, name(what, path).encode())
        os.kill(0 if os.environ.get("FAULT_GROUP") else os.getpid(), signal.SIGKILL)
        signal.pause()


def audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = args
        if flags & (os.O_WRONLY | os.O_RDWR) and (found := watched(path)):
            openings[found] += 1
            if rare(openings[found]):
                moment(f"open {openings[found]} of", found)
    elif event in CHANGES and (found := watched(args[0])):
        moment(event.removeprefix("os."), found)


class File(io.FileIO):
    """A file whose writes are counted."""

    def write(self, data: Any, /) -> int:
        path = watched(self.fileno())
        if path is not None:
            writes[path] += 1
            if rare(writes[path]):
                view = memoryview(data).cast("B")
                moment(f"write {writes[path]} of", path, lambda: super(File, self).write(view[: len(view) // 2]))
        return super().write(data)


def opened(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """What `open` does, with the system's writes counted."""
    if isinstance(file, int) or not set(mode) & set("wax+") or watched(file) is None:
        return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if "w" in mode or "x" in mode:
        writes[watched(file) or ""] = 0
    raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)


def flushed(file: Any) -> None:
    if (path := watched(file)) is not None:
        moment("fsync", path)
    plain_fsync(file)


if FOLDER and MOMENT:
    plain_open, plain_fsync = builtins.open, os.fsync
    sys.addaudithook(audit)
    builtins.open = io.open = opened  # type: ignore[assignment]
    io.FileIO = File  # type: ignore[misc]
    os.fsync = flushed
