"""Checks words against a list, and suggests the one that was meant."""

import difflib
import textwrap
from collections.abc import Iterable
from typing import Any, get_args

LONGEST_LIST = 800  # characters of names that a message lists
ALIKE = 0.4  # similarity that a known word needs to be suggested


def closest(word: str, known: Iterable[str]) -> str | None:
    """The most similar known word, or None. Case is ignored, and blanks, dashes and underscores are equal."""
    plain = {_plain(name): name for name in known}
    found = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=ALIKE)
    return plain[found[0]] if found else None


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or the known names."""
    names = sorted(known)
    close = closest(name, names)
    listed = textwrap.shorten(", ".join(names), LONGEST_LIST, placeholder=" ..")
    return f"did you mean '{close}'?" if close else f"choose from {listed}"


def one_of(word: object, choices: Any) -> str:
    """A hint that lists the choices of a Literal, and names the one that was probably meant."""
    names = [str(choice) for choice in get_args(choices)]
    close = closest(word, names) if isinstance(word, str) else None
    return f"it must be one of {', '.join(names)}" + (f"; did you mean '{close}'?" if close else "")


def check_choice(word: Any, choices: Any, what: str) -> None:
    """Checks a word against a Literal.

    Args:
        word: The word.
        choices: The Literal.
        what: What the word chooses, for the message.

    Raises:
        ValueError: If it is not one of the choices.
    """
    if word not in get_args(choices):
        raise ValueError(f"unknown {what} '{word}': {one_of(word, choices)}")
