"""Whether the dependencies are what the project says they are, and under which licences: ``make audit`` runs this.

Needs no network. A dependency is whatever ``pyro-sri[dev,docs,physics]`` requires, directly or through another.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "pyro-sri"
ROOT = Path(__file__).parent.parent
NOT_DEPENDENCIES = {"pip", PROJECT}  # that an environment has all the same

# Licences, by the first words of their names, that let what they cover be required by a package under Apache-2.0.
PERMISSIVE = (
    *("Apache", "Mozilla Public License 2.0", "MPL-2.0", "Python Software Foundation License", "PSF-2.0"),
    *("MIT", "BSD", "3-Clause BSD", "0BSD", "ISC", "BSL-1.0", "Zlib", "CC0-1.0"),
)

# Public domain and BSD but for a file for Emacs; it renders the documentation, and no code of ours needs it.
LOOKED_AT = {"docutils"}


def read_pins(text: str) -> dict[str, str]:
    """Versions by name; a line that pins nothing exactly has the version "".

    Args:
        text: A file of constraints.
    """
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    matches = [re.fullmatch(r"([\w.-]+)(?:==([\w.]+))?.*", line) for line in lines if line]
    return {canonicalize_name(match[1]): match[2] or "" for match in matches if match}


def is_permissive(licence: str) -> bool:
    """Whether every part of a licence's name or SPDX expression is known to be permissive."""
    parts = re.split(r"\s+(?:AND|OR)\s+", re.sub(r"\s+WITH\s+\S+|[()]", "", licence))
    return all(part.startswith(PERMISSIVE) for part in parts)


def complaints(
    pins: dict[str, str], required: set[str], installed: dict[str, str], licences: dict[str, str]
) -> list[str]:
    """What is wrong, a line each.

    Args:
        pins: Versions by name, as :func:`read_pins` reads them.
        required: Names of the dependencies.
        installed: Installed versions by name.
        licences: Licences of the dependencies by name.
    """
    return [
        *(f"{name} is not pinned to one version (name==version)" for name, version in pins.items() if not version),
        *(f"{name} is required, but not pinned" for name in sorted(required - pins.keys())),
        *(f"{name} is pinned, but nothing requires it" for name in sorted(pins.keys() - required)),
        *(
            f"{name} is installed, but nothing requires it"
            for name in sorted(installed.keys() - required - NOT_DEPENDENCIES)
        ),
        *(
            f"{name} is pinned to {version}, but {installed.get(name, 'nothing')} is installed"
            for name, version in pins.items()
            if version and installed.get(name, "").partition("+")[0] != version  # 2.13.0+cpu is a build of 2.13.0
        ),
        *(
            f"{name}: the licence {licence!r} is not known to be permissive"
            for name, licence in licences.items()
            if not is_permissive(licence) and name not in LOOKED_AT
        ),
    ]


def _required() -> set[str]:
    """Canonical names of all that the project requires in this environment."""
    seen, waiting = set(), [Requirement(f"{PROJECT}[dev,docs,physics]")]
    while waiting:
        requirement = waiting.pop()
        if (key := (canonicalize_name(requirement.name), *sorted(requirement.extras))) in seen:
            continue
        seen.add(key)
        needs = [Requirement(text) for text in metadata.requires(requirement.name) or []]
        extras = requirement.extras or {""}
        waiting += [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in extras)]
    return {name for name, *_ in seen} - {PROJECT}


def _licence(name: str) -> str:
    """A distribution's SPDX expression; older ones have a classifier, or the first line of a text."""
    about = metadata.metadata(name)
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    return about["License-Expression"] or " AND ".join(classifiers) or (about["License"] or "none").splitlines()[0]


def main() -> int:
    """Print each dependency with its version and licence, and what is wrong; 1 if anything is."""
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    required = _required()
    licences = {name: _licence(name) for name in sorted(required)}
    for name, licence in licences.items():
        print(f"{name:26}{installed[name]:14}{licence}")
    wrong = complaints(read_pins((ROOT / "constraints.txt").read_text()), required, installed, licences)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    print(f"{len(required)} dependencies, {len(wrong)} complaints")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
