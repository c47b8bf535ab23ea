"""Configurations as plain YAML."""

import dataclasses
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from pyro_sri.config.run import LARGEST_NUMBER, RunConfig, nearest
from pyro_sri.system.errors import UserError, one_line

# Fields that have another name today: the new name, and what the old values are called.
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {"semiconv": ("colour_start", {True: "position", False: "none"})}

LONGEST_TEXT = 100_000  # characters of a configuration; those that are written here have about 1,000
LONGEST_VALUE = 4096  # characters, as long as a path can be

_NO_VALUE = object()  # in place of what cannot be a field's value


def systems() -> dict[str, type[RunConfig]]:
    """The configuration of every system by its name: of those in this package, and of others that are imported."""
    return {config.system: config for config in RunConfig.__subclasses__()}


def to_yaml(config: RunConfig) -> str:
    """The configuration as plain YAML, as `from_yaml` reads it."""
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    return yaml.safe_dump({"system": config.system, **fields}, sort_keys=False, allow_unicode=True)


def from_yaml(text: str, source: str) -> RunConfig:
    """Reads a configuration.

    Args:
        text: YAML as `to_yaml` writes it: one value for each field, none of them given twice.
        source: Where the text comes from, for error messages.

    Raises:
        UserError: If it is not YAML, names an unknown system or field, lacks one that has no default, or holds a
            wrong value.
    """
    fields = _fields(text, source)
    if "system" not in fields:
        raise UserError(f"{source} is not a configuration: it names no system")
    system = fields.pop("system")
    known_systems = systems()
    if not isinstance(system, str) or system not in known_systems:
        raise UserError(f"{source} names an unknown system {_shown(system)}: {nearest(_shown(system), known_systems)}")
    config = known_systems[system]
    known = {field.name: field for field in dataclasses.fields(config)}
    types = get_type_hints(config)
    for old in RENAMED.keys() & fields.keys():
        name, values = RENAMED[old]
        if name in fields:
            raise UserError(f"{source} has the field '{name}' twice, once as '{old}': remove one of them")
        value = fields.pop(old)
        fields[name] = values.get(value, _NO_VALUE) if isinstance(value, bool) else _NO_VALUE
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"{source} has an unknown field {_shown(name)}: {nearest(_shown(name), known)}")
        fields[name] = _typed(value, types[name], f"{source}: field '{name}'")
    # Fields with a default may be missing: runs outlive versions, and a new field starts as what was done before it.
    if missing := [name for name, field in known.items() if name not in fields and field.default is MISSING]:
        raise UserError(f"{source} has no field '{missing[0]}': add it")
    try:
        return config(**fields)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _fields(text: str, source: str) -> dict[str, Any]:
    """The values of a YAML mapping by name.

    Nested values are not built and aliases not followed, since a few lines of them could fill the memory.
    """
    fields: dict[str, Any] = {}
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{source} is too long to be a configuration: replace it")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and node.tag not in loader.yaml_constructors:
            raise yaml.YAMLError(f"unknown tag {node.tag}")
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{source} is not a configuration: it names no system")
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{source} has a field name that is not text: remove it")
            name = key.value
            if name in fields:
                raise UserError(f"{source} has the field {_shown(name)} twice: remove one of them")
            plain = isinstance(value, yaml.ScalarNode) and len(value.value) <= LONGEST_VALUE
            fields[name] = loader.construct_object(value) if plain else _NO_VALUE
    except UserError:
        raise
    except Exception as error:  # the library fails in many ways on bad dates, bad numbers and deep nesting
        raise UserError(f"{source} is not YAML: {one_line(error)}") from error
    return fields


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """Checks a value read from YAML against a field's annotation."""
    if type(None) in (options := get_args(annotation)):
        return None if value is None else _typed(value, options[0], where)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except (ValueError, OverflowError):
            pass
    if choices := get_args(annotation):
        if value in choices:
            return value
        raise UserError(f"{where} is {_shown(value)}: it must be one of {', '.join(map(str, choices))}")
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    kind = getattr(annotation, "__name__", annotation)
    raise UserError(f"{where} is {_shown(value)}: it must be of type {kind}")


def _shown(value: object) -> str:
    """A value as a message quotes it: printable and short, whatever the file holds."""
    if value is _NO_VALUE:
        return "a list, a mapping or a very long text"
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        return "a huge number"
    text = ascii(value) if not str(value).isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...'"
