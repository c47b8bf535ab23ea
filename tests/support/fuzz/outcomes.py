"""What becomes of a damaged file: it is read as it was, refused in one plain line, or the reader fails."""

import gc
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_sri.system.errors import UserError
from support.fuzz.tables import Change, Table

READ, REFUSED, FAILED = "read", "refused", "failed"
LONGEST_LINE = 1000  # characters of a plain line
MARKER = "code-was-run"  # a file that only code hidden in another file makes
OUTPUT = "output"  # the folder for what a reader writes; nothing may be there when it refuses

Numbers = Mapping[str, Any]


class Outcome(NamedTuple):
    """What became of a case, and the message."""

    result: str
    message: str


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: Writes the sound files into a folder.
        mutations: The ways to damage the files of a folder that is a copy.
        readers: What reads them, by name: each gives numbers, or raises UserError.
        agree: Raises AssertionError unless the numbers of a reader, from a damaged file, are right; given first the
            reader's numbers from the sound file.
    """

    make: Callable[[Path], None]
    mutations: Table[Change]
    readers: Mapping[str, Callable[[Path], Numbers]]
    agree: Callable[[Numbers, Numbers], None]


def same(expected: Numbers, found: Numbers) -> None:
    """Every number is what it was."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == found[name].dtype, name
            np.testing.assert_array_equal(value, found[name], err_msg=name)
        else:
            assert repr(value) == repr(found[name]), f"{name}: {value!r} became {found[name]!r}"


def judge(kind: Kind, expected: Mapping[str, Numbers], folder: Path) -> Outcome:
    """Lets every reader of a kind read a folder; `failed` if one of them fails, `read` if all of them read it."""
    outcomes = [_judge_reader(kind, name, expected[name], folder) for name in kind.readers]
    by_result = {outcome.result: outcome for outcome in outcomes}
    return next(by_result[result] for result in (FAILED, REFUSED, READ) if result in by_result)


def _judge_reader(kind: Kind, name: str, expected: Numbers, folder: Path) -> Outcome:
    open_before = _open_files()
    refusal: UserError | None = None
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # of old libraries about new ones; no user sees them
            try:
                numbers = kind.readers[name](folder)
            except UserError as error:
                refusal = error
                _check_refusal(error, folder)
            else:
                kind.agree(expected, numbers)
        assert not warned, f"warning: {warned[0].message} ({warned[0].filename}:{warned[0].lineno})"
        assert not list(folder.rglob(MARKER)), "code in the file was run"
    except BaseException:
        return Outcome(FAILED, f"{name}: {traceback.format_exc()}")
    message = "" if refusal is None else f"{name}: {refusal}"
    refusal = numbers = None
    if _open_files() > open_before:
        gc.collect()
    if _open_files() > open_before:
        return Outcome(FAILED, f"{name}: a file is left open; {message}")
    return Outcome(REFUSED if message else READ, message)


def _check_refusal(error: UserError, folder: Path) -> None:
    message = str(error)
    assert message.isprintable(), f"not one plain line: {message!r}"
    assert len(message) <= LONGEST_LINE, f"a line of {len(message)} characters: {message[:200]}..."
    for cause in _causes(error):
        assert not isinstance(cause, MemoryError), "it was refused only after the memory had run out"
        assert "allocate memory" not in str(cause), f"it was refused only after the memory had run out: {cause}"
    output = folder / OUTPUT
    assert not output.exists() or not any(output.iterdir()), f"half-written: {sorted(output.rglob('*'))}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
