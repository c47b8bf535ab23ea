"""Every requirement is pinned to a version that its range allows."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


REQUIREMENTS = {
    "install_requires": lines(SETUP["options"]["install_requires"]),
    **{extra: lines(text) for extra, text in SETUP["options.extras_require"].items()},
}
PINNED = lines((ROOT / "constraints.txt").read_text())
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in PINNED)}
EVERY = [(group, text) for group, texts in REQUIREMENTS.items() for text in texts]


@pytest.mark.parametrize(("group", "text"), EVERY)
def test_it_is_pinned_within_its_range(group: str, text: str) -> None:
    requirement = Requirement(text)
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"constraints.txt does not pin {requirement.name}, which {group} asks for"
    assert requirement.specifier.contains(pin), f"{requirement} does not allow the pin {pin}"


def test_every_pin_is_one_version() -> None:
    assert len(PINNED) == len(PINS)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in PINNED)
