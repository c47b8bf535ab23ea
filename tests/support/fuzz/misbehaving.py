"""Readers that do what no reader may: to see that it is noticed."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyro_sri.system.errors import UserError
from support.fuzz.outcomes import MARKER, OUTPUT, Kind, Numbers, same


def sound(folder: Path) -> bool:
    return (folder / "file").read_text() == "sound"


def crashes(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(folder: Path) -> None:
    time.sleep(10**6)


def leaves_the_interpreter(folder: Path) -> None:
    raise SystemExit(1)


def takes_memory(folder: Path) -> None:
    np.ones(10**10)


def refuses_for_lack_of_memory(folder: Path) -> None:
    try:
        takes_memory(folder)
    except MemoryError:
        raise UserError("too large") from None


def raises(folder: Path) -> None:
    raise KeyError("step")


def says_two_lines(folder: Path) -> None:
    raise UserError("one\ntwo")


def says_too_much(folder: Path) -> None:
    raise UserError("x" * 10_000)


def warns(folder: Path) -> None:
    warnings.warn("careful", stacklevel=1)


def leaves_a_file_open(folder: Path) -> None:
    os.open(folder / "file", os.O_RDONLY)


def leaves_half_an_output(folder: Path) -> None:
    (folder / OUTPUT).mkdir()
    (folder / OUTPUT / "half").touch()
    raise UserError("it is damaged")


def runs_code(folder: Path) -> None:
    (folder / MARKER).touch()


def reads_other_numbers(folder: Path) -> None:
    (folder / "file").write_text("other")


def refuses(folder: Path) -> None:
    raise UserError("it is damaged")


def reads(folder: Path) -> None:
    return


WELL = (refuses, reads)
BADLY = (
    *(crashes, hangs, leaves_the_interpreter, takes_memory, refuses_for_lack_of_memory, raises, says_two_lines),
    *(says_too_much, warns, leaves_a_file_open, leaves_half_an_output, runs_code, reads_other_numbers),
)


def kind(misbehave: Callable[[Path], None]) -> Kind:
    def read(folder: Path) -> Numbers:
        if not sound(folder):
            misbehave(folder)
        return {"number": int((folder / "file").read_text() == "other")}

    def make(folder: Path) -> None:
        (folder / "file").write_text("sound")

    def damage(rng: np.random.Generator, folder: Path) -> None:
        (folder / "file").write_text("damaged")

    return Kind(make, {"written over": (1, damage)}, {"reader": read}, same)


KINDS = {function.__name__: kind(function) for function in (*WELL, *BADLY)}
