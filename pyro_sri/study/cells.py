"""The cells of tables."""

import re
import unicodedata

NOTHING = "-"

_LATEX = {
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after the end of a line, it would begin an option; so would a star
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
# Accents over plain letters, and letters, that every engine has in its default font encoding.
_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327"
_LETTERS = "ßæøåœłÆØÅŒŁ"
_MINUS = re.compile(r"(?<!\w)-(?=\d)")


def latex(text: str) -> str:
    """A text for any LaTeX engine: special characters are escaped, and letters that it may lack become plain or ?."""
    pieces = _MINUS.split(text)
    return "$-$".join("".join(map(_latex_letter, piece)) for piece in pieces)


def _latex_letter(letter: str) -> str:
    if letter in _LATEX:
        return _LATEX[letter]
    if letter.isascii():
        return letter if letter.isprintable() else " "
    base, *marks = list(unicodedata.normalize("NFD", letter))
    if letter in _LETTERS or (base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS):
        return letter
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if part.isascii() and part.isprintable())
    return "".join(_LATEX.get(part, part) for part in plain) or "?"
