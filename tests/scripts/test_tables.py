"""Tables in plain text: whatever the width, every cell is there in one piece."""

import io
import sys

import pytest

from pyro_sri.scripts.tables import output_width, table_lines

HEADERS = ["metric", *(f"seed {n}" for n in range(9)), "what it is"]
NUMBERS = [f"{-1.234e-17 * (n + 1):.4g}" for n in range(9)]
TEXT = "adjusted Rand index over the foreground's pixels, of the decoder's masks, at a number-of-words"


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200, None])
@pytest.mark.parametrize("text_last", [False, True])
def test_no_cell_is_cut(width: int | None, text_last: bool) -> None:
    name = "order_consistency_attention_stderr"
    rows = [["a heading of several words that may be wrapped"], [name, *NUMBERS, TEXT]]
    lines = list(table_lines(HEADERS, rows, width, text_last=text_last))
    words = " ".join(lines).split()
    assert {name, *NUMBERS, *TEXT.split()} <= set(words)
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_what_can_be_made_to_fit_fits(width: int) -> None:
    lines = list(table_lines(HEADERS[:-1], [["ari_fg", *NUMBERS]], width))
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("ari_fg") for line in lines) == sum(line.startswith("metric") for line in lines) > 0
    lines = list(table_lines(["metric", "what it is"], [["heading " * 30], ["ari_fg", TEXT]], width, text_last=True))
    assert max(map(len, lines)) <= width


def test_a_long_text_stands_below_where_there_is_no_room_beside() -> None:
    lines = list(table_lines(["preset", "what it is"], [["a-very-long-name-of-a-preset", TEXT]], 40, text_last=True))
    assert lines[2].startswith("a-very-long-name-of-a-preset") or lines[1].startswith("a-very-long-name-of-a-preset")
    assert any(line.startswith("    adjusted") for line in lines)


def test_a_pipe_has_no_width_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output_width() is None
    monkeypatch.setenv("COLUMNS", "33")
    assert output_width() == 33
