"""Configurations as plain YAML."""

import contextlib
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from pyro_sri.config.run import NOT_OPTIONS, RunConfig
from pyro_sri.config.shared import UnreachableGoal
from pyro_sri.config.values import NO_VALUE, checked, shown
from pyro_sri.system.choices import nearest
from pyro_sri.system.errors import UserError, one_line

# Renamed fields: the new name, and the new name of each old value.
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {"semiconv": ("colour_start", {True: "position", False: "none"})}

LONGEST_TEXT = 100_000  # characters of a configuration; `to_yaml` writes about 1,000
LONGEST_VALUE = 4096  # characters, as long as a path can be


def systems() -> dict[str, type[RunConfig]]:
    """The configurations of all systems by name: those of this package, and others that have been imported."""
    return {config.system: config for config in RunConfig.__subclasses__()}


def to_yaml(config: RunConfig) -> str:
    """The configuration as plain YAML, as `from_yaml` reads it."""
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    return yaml.safe_dump({"system": config.system, **fields}, sort_keys=False, allow_unicode=True)


def from_yaml(text: str, source: str) -> RunConfig:
    """Reads a configuration.

    Args:
        text: YAML as `to_yaml` writes it: one value for each field, and no field twice.
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
        raise UserError(f"{source} names an unknown system {shown(system)}: {nearest(shown(system), known_systems)}")
    config = known_systems[system]
    known = {field.name: field for field in dataclasses.fields(config)}
    for old in RENAMED.keys() & fields.keys():
        name, values = RENAMED[old]
        if name in fields:
            raise UserError(f"{source} has the field '{name}' twice, once as '{old}': remove one of them")
        value = fields.pop(old)
        fields[name] = values.get(value, NO_VALUE) if isinstance(value, bool) else NO_VALUE
    fields = typed_fields(config, fields, source)
    # Fields with a default may be missing: the file may be older than a field, whose default is the old behaviour.
    fields = dict(config.completed(fields))
    if missing := [name for name, field in known.items() if name not in fields and field.default is MISSING]:
        raise UserError(f"{source} has no field '{missing[0]}': add it")
    try:
        return config(**fields)
    except UnreachableGoal as error:
        if "geco_unreachable" in fields:
            raise UserError(f"{source}: {error}") from error
        return config(**(fields | {"geco_unreachable": True}))  # the run is older than this check
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def with_fields(config: RunConfig, fields: Mapping[str, Any], source: str) -> RunConfig:
    """A configuration with some of its options changed, checked like those of a file.

    Args:
        config: The configuration to change.
        fields: Values by field, as read from YAML.
        source: Where they come from, for error messages.

    Raises:
        UserError: If a field is unknown, or a value wrong.
    """
    typed = typed_fields(type(config), fields, source, NOT_OPTIONS)
    try:
        return dataclasses.replace(config, **typed)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def typed_fields(
    kind: type[Any], fields: Mapping[str, Any], source: str, hidden: Collection[str] = ()
) -> dict[str, Any]:
    """Converts values read from YAML to the types of a dataclass's fields.

    Args:
        kind: The dataclass.
        fields: Values by field.
        source: Where they come from, for error messages.
        hidden: Fields that may not be given.

    Raises:
        UserError: If a field is unknown, or a value of the wrong type.
    """
    known = {field.name for field in dataclasses.fields(kind)} - set(hidden)
    types = get_type_hints(kind)
    typed = {}
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"{source} has an unknown field {shown(name)}: {nearest(shown(name), known)}")
        typed[name] = typed_value(value, types[name], f"{source}: field '{name}'")
    return typed


def _fields(text: str, source: str) -> dict[str, Any]:
    """The values of a YAML mapping by name.

    Nested values are not built and aliases are not followed, because a few lines of them could fill the memory.
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
                raise UserError(f"{source} has the field {shown(name)} twice: remove one of them")
            plain = isinstance(value, yaml.ScalarNode) and len(value.value) <= LONGEST_VALUE
            fields[name] = loader.construct_object(value) if plain else NO_VALUE
    except UserError:
        raise
    except Exception as error:  # the library fails in many ways on bad dates, bad numbers and deep nesting
        raise UserError(f"{source} is not YAML: {one_line(error)}") from error
    return fields


def typed_value(value: Any, annotation: Any, where: str) -> Any:
    """Checks a value read from YAML against a field's annotation."""
    if annotation is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML 1.1 reads 1e-4 as a string
    return checked(value, annotation, where)
