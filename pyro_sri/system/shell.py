"""Commands as people can read them, and paste them into a shell."""

import os
import shlex
from collections.abc import Iterable


def command_line(words: Iterable[str | os.PathLike[str]]) -> str:
    """The words as one printable line of a shell (bash, zsh, ksh)."""
    return " ".join(shell_word(word) for word in words)


def shell_word(word: str | os.PathLike[str]) -> str:
    """A word in quotes if it needs some. Line ends, bytes that are not UTF-8 and the like become $'\\ooo'."""
    text = os.fspath(word)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    errors = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in letter.encode(errors=errors))
