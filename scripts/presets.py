"""The command `pyro-sri presets`: lists the presets, or shows one of them."""

import dataclasses
import inspect
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import tyro

from pyro_sri.data.generators import GENERATORS
from pyro_sri.presets import PRESETS, Preset, find_preset
from pyro_sri.runs import WEIGHTS
from pyro_sri.scripts.cli import parse
from pyro_sri.scripts.tables import print_table
from pyro_sri.system.shell import command_line


def presets(
    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None,
    /,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the presets, or show one of them.

    For example:

    pyro-sri presets

    pyro-sri presets sri-quick

    pyro-sri presets sri-quick --json

    Args:
        name: Preset to show: a description, what it needs, the fields in which it differs from its system's defaults,
            and the commands that train and evaluate it.
        as_json: Print JSON with all fields. This is a list of all presets, or the named preset.
    """
    shown = list(PRESETS.values()) if name is None else [find_preset(name)]
    if as_json:
        told = [describe(preset) for preset in shown]
        print(json.dumps(told if name is None else told[0], indent=2))
    elif name is None:
        print_list(shown)
    else:
        print_preset(shown[0])


def print_list(shown: Iterable[Preset]) -> None:
    """Prints the presets, grouped by the data that they need."""
    groups: dict[str, list[list[str]]] = {}
    for preset in shown:
        data, _, remark = preset.needs.partition("; ")
        groups.setdefault(data, []).append([preset.config.preset, "; ".join(filter(None, (preset.summary, remark)))])
    rows: list[list[str]] = []
    for data, of_group in groups.items():
        rows += [[""], [f"{data}:"], *of_group]
    print_table(["preset", "what it is"], rows, text_last=True)
    print("\nTo show a preset and its commands: pyro-sri presets NAME")


def print_preset(preset: Preset) -> None:
    """Prints what a preset is, how it differs from its system's defaults, and its commands."""
    told = describe(preset)
    facts = {
        "preset": told["preset"],
        "what it is": told["summary"],
        "system": f"{told['system']}: {told['system_is']}",
        "needs": told["needs"],
        "images": f"{told['image_size']}x{told['image_size']} pixels",
    }
    print_table(["", ""], [[fact, str(value)] for fact, value in facts.items()], text_last=True)
    rows = [[field, str(value["preset"]), str(value["default"])] for field, value in told["differs"].items()]
    if rows:
        print()
        print_table(
            ["field", "preset", "default"], rows, title=f"How it differs from the defaults of {told['system']}:"
        )
    print("\nCommands:")
    for command in told["commands"]:
        print(f"  {command}")


def describe(preset: Preset) -> dict[str, Any]:
    """Describes a preset in plain values, for JSON."""
    config, bundled = preset.config, (WEIGHTS / preset.config.preset).is_dir()
    return {
        "preset": config.preset,
        "summary": preset.summary,
        "system": config.system,
        "system_is": (inspect.getdoc(type(config)) or "").splitlines()[0],
        "needs": preset.needs,
        "dataset": config.dataset,
        "image_size": config.image_size,
        "makes_data": preset.makes_data is not None,
        "weights_bundled": bundled,
        "differs": {
            name: {"preset": value, "default": default} for name, (value, default) in preset.differences().items()
        },
        "fields": {name: _plain(value) for name, value in dataclasses.asdict(config).items()},
        "commands": [command_line(words) for words in commands(preset, bundled)],
    }


def commands(preset: Preset, bundled: bool) -> list[list[str]]:
    """The commands that generate the data, train, evaluate and write the report, in this order."""
    config, given = preset.config, []
    made: list[list[str]] = []
    if preset.makes_data is None:
        file = f"{config.dataset}.h5"
        given = ["--data", file]
        if config.dataset in GENERATORS:
            size = ["--size", str(config.image_size)]
            made = [["pyro-sri", "data", "make", config.dataset, *size, "--out", file]]
        else:
            made = [["pyro-sri", "data", "convert", "FOLDER", "--out", file]]
    run = f"runs/{config.preset}"
    trained = [
        ["pyro-sri", "train", config.preset, *given],
        ["pyro-sri", "evaluate", run],
        ["pyro-sri", "report", run, "--out", f"{config.preset}.html"],
    ]
    return [*made, *trained, *([["pyro-sri", "sample", config.preset]] if bundled else [])]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(presets, "pyro-sri presets", args)
