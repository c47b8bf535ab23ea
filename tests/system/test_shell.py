"""Commands that are printed, pasted into a shell."""

import os
import subprocess

import pytest

from pyro_sri.system.shell import command_line

NAMES = [
    "plain/run-1.h5",
    "",
    "a run",
    "two  spaces",
    "it's",
    "$HOME `ls` \\n *",
    "line\nend\r\ttab",
    "bell\x07 \x1b[31mred",
    "M\udcfcller's",  # a byte that is not UTF-8
    "塔 é",
    "no\u00a0break \u202egnp.exe",
    "\udce9'\\",
    "8\n8",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_is_pasted_is_what_was_meant(name: str) -> None:
    line = command_line(["printf", "%s|", name, "next"])
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=os.environ | {"LC_ALL": "C"})
    assert done.stdout == os.fsencode(name) + b"|next|"
    assert done.stderr == b""
