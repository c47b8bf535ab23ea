"""When bars are drawn, and what becomes of messages that nobody reads."""

import io
import os
import sys

import pytest
from rich.console import Console

from pyro_sri.scripts.cli import can_redraw
from pyro_sri.scripts.main import _Messages


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "env", "bars"),
    [
        (Terminal, {"TERM": "xterm"}, True),
        (Terminal, {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (Terminal, {"TERM": "dumb", "FORCE_COLOR": "1"}, False),
        (Terminal, {"TERM": "unknown"}, False),
        (Terminal, {"TERM": "xterm", "TTY_INTERACTIVE": "0"}, False),
        (io.StringIO, {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
        (io.StringIO, {"TERM": "xterm", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}, False),
    ],
)
def test_bars_are_for_terminals_that_can_redraw(
    stream: type[io.StringIO], env: dict[str, str], bars: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream())
    assert can_redraw(Console(stderr=True)) is bars


def test_messages_that_nobody_reads_are_dropped() -> None:
    """As where a terminal was closed, or `tee` was stopped before the command."""
    reader, writer = os.pipe()
    os.close(reader)
    with _Messages(writer, "wb") as messages:
        assert messages.write(b"a line\n") == 7
