"""Configurations with any values: what is accepted is what was written."""

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_sri.config import from_yaml, systems, to_yaml
from pyro_sri.config.run import LARGEST, RunConfig
from pyro_sri.system.errors import UserError

SYSTEMS = systems()
FIELDS = sorted({field.name for config in SYSTEMS.values() for field in dataclasses.fields(config)})
NUMBERS = st.integers() | st.integers(-2, 20) | st.floats() | st.sampled_from([10**12, 10**400, -(2**63), 1e308])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.dates() | st.binary(max_size=9)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3))
CHANGES = st.dictionaries(st.sampled_from(FIELDS) | SCALARS, VALUES, max_size=3)


def sound(system: str) -> dict[str, Any]:
    fields: dict[str, Any] = yaml.safe_load(to_yaml(SYSTEMS[system](preset="p", dataset="d")))
    return fields


def fitting(value: Any, kind: Any) -> bool:
    """Whether a value that was read is of the type that its field says."""
    options = get_args(kind) or (kind,)
    return any(value == option or (isinstance(option, type) and type(value) is option) for option in options)


def check_values(system: str, changes: dict[Any, Any], removed: set[str]) -> None:
    """Refused in one plain line, or every field is of its type and equal to what the file says."""
    fields = {name: value for name, value in (sound(system) | changes).items() if name not in removed}
    refusal = ""
    try:
        config = from_yaml(yaml.safe_dump(fields, allow_unicode=True), "config.yaml")
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
        assert len(refusal) < 1000
        assert "config.yaml" in refusal
        return
    assert config.system == fields["system"]
    for name, kind in get_type_hints(type(config)).items():
        if name in fields and name != "system":
            value = getattr(config, name)
            assert fitting(value, kind) or value is None
            expected = fields[name]
            same = str(value) == expected if isinstance(value, Path) else value == expected
            assert same or (isinstance(value, float) and math.isclose(value, float(expected)))


CASES = (st.sampled_from(sorted(SYSTEMS)), CHANGES, st.sets(st.sampled_from(FIELDS), max_size=1))


@given(*CASES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_values(system: str, changes: dict[Any, Any], removed: set[str]) -> None:
    check_values(system, changes, removed)


@pytest.mark.slow
@given(*CASES)
@settings(max_examples=3000, deadline=None)
def test_many_values(system: str, changes: dict[Any, Any], removed: set[str]) -> None:
    check_values(system, changes, removed)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text(data: bytes) -> None:
    with pytest.raises(UserError) as caught:
        from_yaml(data.decode(errors="replace"), "config.yaml")
    assert str(caught.value).isprintable()


QUICK = to_yaml(SYSTEMS["sri"](preset="p", dataset="d"))
NINE_ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    + ["steps: *a11"]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QUICK + "num_slots: 3\n", "'num_slots' twice"),
        (QUICK.replace("steps: 500000", NINE_ALIASES), "unknown field 'a0'"),
        (QUICK.replace("steps: 500000", "steps: &a [1, *a]"), "field 'steps' is a list, a mapping or a very long text"),
        (QUICK.replace("steps: 500000", "steps: 0x" + "f" * 4000), "--steps is a huge number"),
        (QUICK.replace("pixel_std: 0.7", "pixel_std: 0x" + "f" * 4000), "field 'pixel_std' is a huge number"),
        (QUICK.replace("steps: 500000", "steps: " + "9" * 5000), "a very long text"),
        (QUICK.replace("steps: 500000", "steps: 2020-99-99"), "not YAML"),
        (QUICK.replace("steps: 500000", "steps: " + "[" * 10_000), "not YAML"),
        (QUICK.replace("preset: p", "preset: p\nx: !!python/object/apply:os.getcwd []"), "unknown field 'x'"),
        (QUICK.replace("kernel: gaussian", 'kernel: "\\e[2J\\n"'), r"field 'kernel' is '\x1b[2J\n'"),
        (QUICK.replace("kernel: gaussian", f"kernel: {'x' * 1000}"), "..."),
        (QUICK.replace("num_slots: 9", "num_slots: 257"), "--num-slots is 257: it must be at most 256"),
        (QUICK.replace("scene_size: 128", "scene_size: 1000000000"), "it must be at most 4096"),
        (QUICK + "\x00", "not YAML"),
        (QUICK + "#" * 100_000, "too long to be a configuration"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        from_yaml(text, "config.yaml")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_largest_sizes_are_read_again() -> None:
    config = SYSTEMS["sri"](preset="p", dataset="d")
    with pytest.raises(UserError, match="--attention-layers is 65: it must be at most 64"):
        dataclasses.replace(config, attention_layers=65)
    largest = dataclasses.replace(config, attention_layers=64)
    assert from_yaml(to_yaml(largest), "again") == largest


def test_every_size_of_a_network_has_a_limit() -> None:
    """Whole numbers are limited, but for those that are about the run, for batches, which the data limits, and for
    durations, which cost no memory."""
    not_sizes = {field.name for field in dataclasses.fields(RunConfig)}
    not_sizes |= {"prior_batch_size", "segregation_steps", "prior_from", "prior_warmup_steps"}
    not_sizes |= {"annealing_steps", "refinement_drop"}
    for config in SYSTEMS.values():
        for field in dataclasses.fields(config):
            assert field.type is not int or field.name in not_sizes | LARGEST.keys(), field.name
