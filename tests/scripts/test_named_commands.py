"""Every command that a message names is one: its words are parsed as a user's would be."""

import ast
import contextlib
import functools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_sri.scripts import cli
from pyro_sri.scripts.main import run
from pyro_sri.system.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in (
        "pyro_sri/system",
        "pyro_sri/training",
        "pyro_sri/data",
        "pyro_sri/config",
        "pyro_sri/study",
        "scripts",
    )
    for path in (ROOT / folder).rglob("*.py")
) + [ROOT / "pyro_sri" / name for name in ("runs.py", "checkpoints.py", "presets.py", "inference.py")]
# In quotes of the message, or after a colon or "run" to the end of the sentence.
COMMAND = re.compile(r"(?:['`]|: |run |with |next: )pyro-sri ([^'`;\n]+)|^ *pyro-sri (.+?)(?:  .*)?$", re.MULTILINE)
# What stands for what in them: capitals in the text, expressions in the code.
EXAMPLES = {
    "PRESET": "sri-quick", "NAME": "tetrominoes", "RUN": "run", "FILE": "F.h5", "COMMAND": "train", "F": "F",
    "STUDY": "towers", "DIR": "folder", "SOURCE": "folder", "IMAGE": "a.png", "B": "4",
}  # fmt: skip
NAMES = {
    "command": "sri-quick",
    "dataset": "rooms",
    "preset": "sri-quick",
    "run": "sri-quick",
    "config.preset": "sri-quick",
    "size": "64",
}


class Parsed(Exception):
    """The words are a command."""


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts of a file, with examples in the place of what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else NAMES.get(ast.unparse(part.value), "F.h5")  # type: ignore[attr-defined]
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def commands() -> list[str]:
    found = {}
    for path in FILES:
        for text in texts(ast.parse(path.read_text())):
            for match in COMMAND.finditer(text):
                words = (match.group(1) or match.group(2)).split(" (")[0].strip(" .,:)")
                if not words.startswith("F.h5"):  # the version of the library, or a sentence about it
                    found[words] = path
    return sorted(found)


def as_a_user_types(command: str) -> list[str]:
    plain = re.sub(r"\[[^]]*\]|\.\.", "", command).replace("train NAME", "train PRESET")
    return [
        re.sub(r"^[A-Z]+\b", lambda match: EXAMPLES.get(match.group(), match.group()), w) for w in shlex.split(plain)
    ]


def test_the_search_finds() -> None:
    assert len(commands()) > 60


@pytest.mark.parametrize("command", commands())
def test_it_is_a_command(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def parsed_only(function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
        @functools.wraps(function)
        def bind(*_: Any, **__: Any) -> Callable[[], Any]:
            def end() -> None:
                raise Parsed

            return end

        return bind

    monkeypatch.setattr(cli, "_deferred", parsed_only)
    words = as_a_user_types(command)
    try:
        run(words)
    except Parsed:
        return
    except SystemExit:
        assert "usage" in capsys.readouterr().out
    except UserError:
        assert not any(word.startswith("-") for word in words), words
        with contextlib.suppress(SystemExit):  # only the name of a command
            run([*words, "--help"])
        assert "usage" in capsys.readouterr().out
