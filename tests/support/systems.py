"""Every system that there is, for lists of what is tested: a new one is in them by having a preset."""

from collections.abc import Iterable

from pyro_sri.presets import PRESETS


def uncovered(presets: Iterable[str]) -> tuple[str, ...]:
    """A preset of each system that none of these presets belongs to."""
    covered = {PRESETS[preset].config.system for preset in presets}
    first: dict[str, str] = {}
    for name, preset in PRESETS.items():
        first.setdefault(preset.config.system, name)
    return tuple(name for system, name in first.items() if system not in covered)
