"""Tables in plain text that cut nothing: neither in a narrow terminal, nor in a file or a pipe."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from pyro_sri.system.errors import printable

GAP = "  "  # between columns
LEAST_WORDS = 24  # columns of text that are worth a column; with less room, texts stand below their rows
WIDEST_TEXT = 120  # however wide the terminal is, longer lines are hard to read
INDENT = "    "  # of a text below its row


def output_width() -> int | None:
    """How many characters fit into a line of standard output; None where lines may be as long as they like."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", text_last: bool = False
) -> None:
    """Prints a table, as wide as standard output allows.

    Args:
        headers: One for each column; all empty for a table without them.
        rows: Cells; a row of a single cell is a heading.
        title: A line above it.
        text_last: Whether the last column holds text, which is wrapped. Otherwise columns that do not fit go into
            further tables below, which repeat the first column.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    for line in (
        *([printable(title)] if title else []),
        *table_lines([printable(header) for header in headers], shown, output_width(), text_last=text_last),
    ):
        print(line)


def table_lines(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, *, text_last: bool = False
) -> Iterator[str]:
    """The lines of a table; no cell is ever cut.

    Args:
        headers: One for each column.
        rows: Cells; a row of a single cell is a heading.
        width: What a line may hold, None for anything. A single column that is wider than that stays whole.
        text_last: As for `print_table`.
    """
    whole = [row for row in (headers, *rows) if len(row) > 1 or len(headers) == 1]
    widths = [max(len(row[i]) for row in whole) for i in range(len(headers))]
    shown = (headers, *rows) if any(headers) else rows
    if text_last:
        for row in shown:
            yield from _with_text(row, widths[:-1], width)
        return
    for number, columns in enumerate(_blocks(widths, width)):
        if number:
            yield ""
        for row in shown:
            if len(row) == 1 < len(headers):
                yield from _heading(row[0], width)
            else:
                yield _joined([row[i] for i in columns], [widths[i] for i in columns])


def _with_text(row: Sequence[str], widths: Sequence[int], width: int | None) -> Iterator[str]:
    """A row whose last cell is a text: beside the others if there is room, else below them."""
    if len(row) <= len(widths):
        yield from _heading(row[0], width)
        return
    *cells, text = row
    start = _joined(cells, widths, padded=True) + GAP
    if width is None:
        yield (start + text).rstrip()
        return
    room = min(width, WIDEST_TEXT) - len(start)
    if room >= LEAST_WORDS:
        lines = _wrapped(text, room) or [""]
        yield (start + lines[0]).rstrip()
        yield from (" " * len(start) + line for line in lines[1:])
    else:
        yield start.rstrip()
        yield from (INDENT + line for line in _wrapped(text, max(LEAST_WORDS, width - len(INDENT))))


def _heading(text: str, width: int | None) -> Sequence[str]:
    return [text] if width is None else _wrapped(text, width) or [""]


def _wrapped(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _blocks(widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """Which columns stand side by side: as many as fit, the first of all in every block."""
    block = [0]
    for column in range(1, len(widths)):
        taken = sum(widths[i] + len(GAP) for i in block)
        if width is not None and len(block) > 1 and taken + widths[column] > width:
            yield block
            block = [0]
        block.append(column)
    yield block


def _joined(cells: Sequence[str], widths: Sequence[int], *, padded: bool = False) -> str:
    line = GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
    return line if padded else line.rstrip()
