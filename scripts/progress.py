"""How far a training is: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from pyro_sri.scripts.cli import bar_columns, can_redraw, note

Advance = Callable[[int, dict[str, float] | None], None]

SPEED_SECONDS = 300.0  # by which the time left is estimated: steps may take a minute each
LONGEST_SILENCE = 60.0  # seconds without a line in a log file


class TrainingBar(Progress):
    """A line with the bar, and below it the terms of the latest log line, wrapped where they do not fit."""

    def __init__(self, console: Console, total: int) -> None:
        self.terms = ""
        elapsed = TimeElapsedColumn(table_column=Column(no_wrap=True))
        super().__init__(*bar_columns(elapsed), console=console, expand=True, speed_estimate_period=SPEED_SECONDS)
        self.training = self.add_task("train", total=total, visible=False)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The two."""
        yield from super().get_renderables()
        if self.terms:
            yield Text(self.terms)

    def advance_to(self, step: int, terms: str | None) -> None:
        """Moves the bar; terms that are not given stay as they are."""
        if terms is not None:
            self.terms = terms
        self.update(self.training, completed=step, visible=True)


class TrainingLines:
    """A line after the first step, for each line of the log, and whenever a minute was silent."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seen: tuple[int, float] | None = None  # step and time of the latest line

    def advance_to(self, step: int, terms: str | None) -> None:
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if self.seen is None:  # before the first step
            self.seen, self.first = (step, now), step + 1
            return
        since, before = self.seen
        if step <= since or not (terms is not None or step == self.first or now - before > LONGEST_SILENCE):
            return
        self.seen = step, now
        left = timedelta(seconds=round((now - before) / (step - since) * (self.total - step)))
        note("  ".join([f"step {step}/{self.total}", *([terms] if terms else []), f"{left} left"]))


@contextmanager
def training_progress(total: int, summary: Callable[[dict[str, float]], str]) -> Iterator[Advance]:
    """Shows how far a training is.

    Args:
        total: Its number of steps.
        summary: A log line in few words.

    Yields:
        A function of the step reached and the log line, if there is one, to be called before the first step and after
        each.
    """
    console = Console(stderr=True)
    if not can_redraw(console):
        lines = TrainingLines(total)
        yield lambda step, line: lines.advance_to(step, None if line is None else summary(line))
        return
    with TrainingBar(console, total) as bar:
        yield lambda step, line: bar.advance_to(step, None if line is None else summary(line))
