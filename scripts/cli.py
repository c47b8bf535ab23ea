"""How every command reads its arguments and reports mistakes: one plain line on standard error, exit status 2."""

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from pyro_sri.data.format import Report
from pyro_sri.system.errors import UserError, printable

_BOX = re.compile(r"^[│|+╭╰]|[│|+╮╯]$")  # drawn with plain characters where the output is not UTF-8
_RULE = re.compile(r"[─-]{3,}")
_LEAK = re.compile(r" (could be instantiated from|Got errors:).*")  # how the library tried, no help to the user
_TYPES = {  # what it says of values of a wrong type, and what that means
    re.compile(r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)"): r"\1: \2 is not a whole number",
    re.compile(r"Error parsing (\S+): could not convert string to float: (.*)"): r"\1: \2 is not a number",
    re.compile(r"Error parsing (\S+): no type matching INT"): r"\1 must be a whole number",
    re.compile(r"Error parsing (\S+): no type matching FLOAT"): r"\1 must be a number",
}
_SUGGESTION = "Perhaps you meant:"
SHORTEST_BAR = 8  # characters
_OPTION = re.compile(r"--[\w-]+")

MARKERS = (tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether a user wants the help instead of the work."""
    return not {"-h", "--help"}.isdisjoint(args)


def parse(function: Callable[..., Any], prog: str, args: Sequence[str]) -> Any:
    """Calls a typed function with arguments from the command line.

    Args:
        function: Its docstring and annotations make the help.
        prog: What the command is called, for the help.
        args: What the user wrote after it.

    Returns:
        What the function returns.

    Raises:
        UserError: For arguments that do not fit.
    """
    return _parse(lambda: tyro.cli(_deferred(function), prog=prog, args=list(args), config=MARKERS), prog)


def parse_subcommand(functions: dict[str, Callable[..., Any]], prog: str, description: str, args: Sequence[str]) -> Any:
    """Like `parse`, for a command that is a group of commands."""
    if not args:
        raise UserError(f"{prog} needs a command: one of {', '.join(functions)} (see {prog} --help)")
    if args[0] not in functions and not args[0].startswith("-"):
        raise UserError(f"{prog} has no command '{args[0]}'; choose from {', '.join(functions)}")
    return _parse(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: _deferred(function) for name, function in functions.items()},
            prog=prog,
            description=description,
            args=list(args),
            config=MARKERS,
        ),
        prog,
    )


def _deferred(function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """The same signature and documentation, but calling it only binds the arguments."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    return bind


def _parse(parser: Callable[[], Callable[[], Any]], prog: str) -> Any:
    """Lets tyro bind the arguments, then calls; where tyro would draw a box around a mistake, raises one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            command = parser()
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        raise UserError(one_line(errors.getvalue(), prog)) from None
    return command()


def one_line(box: str, prog: str) -> str:
    """The gist of an argument library's error box."""
    lines = [_BOX.sub("", line.strip()).strip() for line in box.splitlines()]
    lines = [line for line in lines[1:-1] if line]
    while lines and _RULE.fullmatch(lines[0]):
        del lines[0]
    rule = next((i for i, line in enumerate(lines) if _RULE.fullmatch(line)), len(lines))
    words = _LEAK.sub("", " ".join(lines[:rule]))
    for pattern, meaning in _TYPES.items():
        words = pattern.sub(meaning, words)
    suggestion = ""
    if _SUGGESTION in lines:
        after = " ".join(lines[lines.index(_SUGGESTION) + 1 :])
        if option := _OPTION.search(after):
            suggestion = f"; did you mean {option.group()}?"
    return f"{words}{suggestion} (see {prog} --help)"


def note(text: str) -> None:
    """One plain line for people, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """One plain line of the result, on standard output."""
    print(printable(text), flush=True)


def can_redraw(console: Console) -> bool:
    """Whether bars can be drawn over and over: on a terminal that moves its cursor, whatever colours are forced."""
    return sys.stderr.isatty() and console.is_interactive and not console.is_dumb_terminal


def check_memory(what: str, num_bytes: int) -> None:
    """Raises UserError if something takes more memory than this machine has at all."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > there:
        raise UserError(f"{what} need more memory than the {there / 1e9:.3g} GB of this machine; ask for fewer")


def check_new_file(path: Path, suffixes: tuple[str, ...], option: str = "--out") -> None:
    """Raises UserError unless the file that an option names has one of the suffixes and is not there yet."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path} does not end in {' or '.join(suffixes)}; choose another {option}")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} already exists; choose another {option}")


def name_column() -> ProgressColumn:
    """What a bar is about, wrapped where there is little room."""
    return TextColumn("{task.description}", table_column=Column(ratio=1, overflow="fold"))


def bar_columns(*more: ProgressColumn) -> tuple[ProgressColumn, ...]:
    """A bar, the count and the time left, of which the bar alone gives way where there is little room."""
    whole = [Column(no_wrap=True) for _ in range(2)]
    return (
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=SHORTEST_BAR)),
        MofNCompleteColumn(table_column=whole[0]),
        *more,
        TimeRemainingColumn(table_column=whole[1]),
        TextColumn("left"),
    )


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar per task on standard error, gone at the end; nothing if that is not a terminal."""
    console = Console(stderr=True)
    columns = (name_column(), *bar_columns())
    with Progress(*columns, console=console, transient=True, disable=not can_redraw(console), expand=True) as bar:
        rows: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = bar.add_task(what, total=total)
            bar.update(rows[what], completed=done)

        yield report
