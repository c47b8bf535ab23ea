"""Commands that take a preset: its name, then any of its fields as options, in groups."""

import ast
import dataclasses
import inspect
import itertools
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from pyro_sri.config import FIELD_GROUPS, NOT_OPTIONS, RunConfig, flag
from pyro_sri.config.shared import UnreachableGoal
from pyro_sri.presets import PRESETS, Preset, find_preset
from pyro_sri.runs import CONFIG, open_run
from pyro_sri.scripts.cli import asks_for_help, parse
from pyro_sri.system.errors import UserError


def preset_named(args: Sequence[str], prog: str, help_text: str, usage: str) -> Preset | None:
    """The preset that the first argument names; None if help was asked for, which is printed here.

    Args:
        args: What the user wrote after the command.
        prog: What the command is called.
        help_text: What it does, and what its arguments are.
        usage: Its arguments after the preset's name, in short.

    Raises:
        UserError: If there is none, or no such preset.
    """
    if args and not args[0].startswith("-"):
        if args[0] not in PRESETS and os.path.isfile(os.path.join(args[0], CONFIG)):
            known = open_run(Path(args[0])).config.preset
            given = f", and give the run with --out {args[0]}" if "--out" in usage else ""
            raise UserError(f"{args[0]} is a run directory, not a preset; name its preset, {known}{given}")
        return find_preset(args[0])
    if not asks_for_help(args):
        raise UserError(f"which preset? '{prog} PRESET' needs one of {', '.join(PRESETS)}")
    print(help_text.split("\n\nArgs")[0])
    print(f"\nusage: {prog} PRESET {usage} [any field of the preset]")
    print(f"\npresets: {', '.join(PRESETS)}\nTo see the fields of a preset: {prog} PRESET --help")
    return None


def parse_fields(read: Callable[..., Any], default: RunConfig, help_text: str, prog: str, args: Sequence[str]) -> Any:
    """Calls a function with a configuration, changed by options, and with further options.

    Args:
        read: Takes `config`, and further arguments with annotations and defaults.
        default: The configuration if nothing is changed.
        help_text: What the command does; its Args explain the further arguments.
        prog: What the command is called.
        args: The user's options.

    Returns:
        What the function returns.

    Raises:
        UserError: For arguments that do not fit.
    """
    groups = _groups(default, _field_docs(type(default)) if asks_for_help(args) else {})
    further = [parameter for name, parameter in inspect.signature(read).parameters.items() if name != "config"]

    def bind(**given: Any) -> Any:
        fields: dict[str, Any] = {}
        for title in groups:
            fields |= vars(given.pop(title))
        if _only_says(fields, default, "geco_target", "geco_mse"):
            fields["geco_mse"] = 0.0  # of two ways to give the same thing, what the user says counts
        try:
            config = dataclasses.replace(default, **fields)
        except UnreachableGoal as error:
            error_of_preset = getattr(default, "goal_mse", 0)
            hint = f" (that of {default.preset} is {error_of_preset:.2g})" if error_of_preset > 0 else ""
            raise UserError(f"{error}{hint}") from error
        return read(config, **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    grouped = [
        inspect.Parameter(title, keyword, default=group(), annotation=_flat(group)) for title, group in groups.items()
    ]
    parameters = [*(parameter.replace(kind=keyword) for parameter in further), *grouped]
    bind.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    bind.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    bind.__doc__ = help_text
    return parse(bind, prog, args)


def given_fields(args: Sequence[str], names: Iterable[str]) -> set[str]:
    """Those of these fields that a user's options give, be it with the value that the preset has."""
    words = {arg.partition("=")[0].replace("_", "-") for arg in args}
    return {name for name in names if words & {flag(name), f"--no-{flag(name).removeprefix('--')}"}}


def _only_says(fields: dict[str, Any], default: RunConfig, said: str, other: str) -> bool:
    """Whether a user gave one field another value and left the other as it was."""
    if said not in fields:
        return False
    return bool(fields[said] != getattr(default, said) and fields[other] == getattr(default, other))


def _groups(default: RunConfig, docs: Mapping[str, str]) -> dict[str, type[Any]]:
    """The fields of a configuration as a dataclass for each group, with its values as defaults, and these docs."""
    config = type(default)
    types = get_type_hints(config, include_extras=True)
    names = [field.name for field in dataclasses.fields(config) if field.name not in NOT_OPTIONS]
    members = {title: [name for name in names if name in of_group] for title, of_group in FIELD_GROUPS.items()}
    shared = {name for of_group in FIELD_GROUPS.values() for name in of_group}
    members["system"] = [name for name in names if name not in shared]
    return {
        title: dataclasses.make_dataclass(
            title.capitalize(),
            [
                (name, Annotated[types[name], tyro.conf.arg(help=docs.get(name, ""))], getattr(default, name))
                for name in of_group
            ],
        )
        for title, of_group in members.items()
    }


def _flat(group: Any) -> Any:
    """A type whose fields are options without a prefix."""
    return Annotated[group, tyro.conf.OmitArgPrefixes]


def _field_docs(config: type[Any]) -> dict[str, str]:
    """The docstrings below the fields of a dataclass and of those it comes from."""
    docs: dict[str, str] = {}
    for parent in reversed(config.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(parent)))
        except (OSError, TypeError):  # not from a file
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            if not isinstance(below, ast.Expr):
                continue
            if isinstance(field, ast.AnnAssign) and isinstance(below.value, ast.Constant):
                docs[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return docs
