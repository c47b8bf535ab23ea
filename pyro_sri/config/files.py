"""Configurations as plain YAML."""

import dataclasses
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from pyro_sri.config.air import AIRConfig
from pyro_sri.config.emorl import EMORLConfig
from pyro_sri.config.genesis import GenesisConfig
from pyro_sri.config.genesis_v2 import GenesisV2Config
from pyro_sri.config.recurrent import RecurrentConfig
from pyro_sri.config.run import RunConfig, nearest
from pyro_sri.config.slot_attention import SlotAttentionConfig
from pyro_sri.config.sri import SRIConfig
from pyro_sri.errors import UserError

SYSTEMS: dict[str, type[RunConfig]] = {
    config.system: config
    for config in (
        SRIConfig,
        GenesisV2Config,
        GenesisConfig,
        EMORLConfig,
        SlotAttentionConfig,
        RecurrentConfig,
        AIRConfig,
    )
}


def to_yaml(config: RunConfig) -> str:
    """The configuration as plain YAML."""
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    return yaml.safe_dump({"system": config.system, **fields}, sort_keys=False, allow_unicode=True)


def from_yaml(text: str, source: str) -> RunConfig:
    """Reads a configuration.

    Args:
        text: YAML as `to_yaml` writes it.
        source: Where the text comes from, for error messages.

    Raises:
        UserError: If it is not YAML, names an unknown system or field, lacks one that has no default, or holds a
            wrong value.
    """
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict) or "system" not in fields:
        raise UserError(f"{source} is not a configuration: it names no system")
    system = fields.pop("system")
    if not isinstance(system, str) or system not in SYSTEMS:
        raise UserError(f"{source} asks for the system '{system}': {nearest(str(system), SYSTEMS)}")
    config = SYSTEMS[system]
    known = {field.name: field for field in dataclasses.fields(config)}
    types = get_type_hints(config)
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"{source} has an unknown field '{name}': {nearest(str(name), known)}")
        fields[name] = _typed(value, types[name], f"{source}: field '{name}'")
    # Fields with a default may be missing: runs outlive versions, and a new field starts as what was done before it.
    if missing := [name for name, field in known.items() if name not in fields and field.default is MISSING]:
        raise UserError(f"{source} lacks the field '{missing[0]}'")
    return config(**fields)


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """Checks a value read from YAML against a field's annotation."""
    if type(None) in (options := get_args(annotation)):
        return None if value is None else _typed(value, options[0], where)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except ValueError:
            pass
    if choices := get_args(annotation):
        if value in choices:
            return value
        raise UserError(f"{where} is {value!r}: it must be one of {', '.join(map(str, choices))}")
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    raise UserError(f"{where} is {value!r}: it must be of type {getattr(annotation, '__name__', annotation)}")
