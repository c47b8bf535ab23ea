"""`pyro-sri presets`: lists the presets."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pyro_sri.presets import PRESETS
from pyro_sri.scripts.cli import parse


def presets() -> None:
    """List the presets: what each one is and what it needs.

    Train one with `pyro-sri train NAME --data FILE`; `pyro-sri train NAME --help` shows every field and its value.
    """
    table = Table("preset", "what it is", "what it needs", title="Presets", title_justify="left")
    for name, preset in PRESETS.items():
        table.add_row(f"[bold]{name}[/bold]", preset.summary, preset.needs)
    Console().print(table)


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(presets, "pyro-sri presets", args)
