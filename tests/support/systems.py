"""Every system that there is, for lists of what is tested: a new one is in them by having a preset."""

from collections.abc import Iterable

import pytest
from _pytest.mark.structures import ParameterSet

from pyro_sri.config import RunConfig
from pyro_sri.presets import PRESETS

# Options that choose the parts of a system.
BUILT_OF = (
    "segregation",
    "likelihood",
    "scene_size",
    "optimizer",
    "estimator",
    "differential",
)


def uncovered(presets: Iterable[str]) -> tuple[str, ...]:
    """A preset of each system that none of these presets belongs to."""
    covered = {PRESETS[preset].config.system for preset in presets}
    first: dict[str, str] = {}
    for name, preset in PRESETS.items():
        first.setdefault(preset.config.system, name)
    return tuple(name for system, name in first.items() if system not in covered)


def _kind(config: RunConfig) -> tuple[object, ...]:
    """What a run is built of, as far as its options choose it; tests of networks cover other options."""
    tiny = config.tiny()
    return (config.system, *(getattr(tiny, name, None) for name in BUILT_OF))


def each_system() -> list[ParameterSet]:
    """All presets, as parameters: all but the first of a system are slow tests."""
    first = uncovered(())
    return [pytest.param(name, marks=[] if name in first else [pytest.mark.slow]) for name in PRESETS]


def each_preset() -> list[ParameterSet]:
    """All presets, as parameters: those built of the same parts as an earlier one are slow tests."""
    kinds: set[tuple[object, ...]] = set()
    parameters = []
    for name, preset in PRESETS.items():
        kind = _kind(preset.config)
        parameters.append(pytest.param(name, marks=[pytest.mark.slow] if kind in kinds else []))
        kinds.add(kind)
    return parameters
