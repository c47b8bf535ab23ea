"""The tutorials' code fits the library, and runs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.forking import run_here

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
NAMES = ("first_scene_model", "own_segregation_and_decoder", "own_pictures_to_report")


def cells(name: str) -> list[str]:
    """The code of each cell of a notebook."""
    return re.findall(
        r"^```\{code-cell\} ipython3\n(?::tags: [^\n]*\n\n)?(.*?)^```$",
        (FOLDER / f"{name}.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )


def test_all_are_in_the_index() -> None:
    listed = re.findall(r"^\w+$", (FOLDER / "index.md").read_text(), re.MULTILINE)
    assert tuple(listed) == NAMES
    assert {path.stem for path in FOLDER.glob("*.md")} == {"index", *NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_what_they_import_is_there(name: str) -> None:
    code = "\n".join(cells(name))
    statements = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "import pyro_sri" in map(ast.unparse, statements) or name == "own_segregation_and_decoder"
    for statement in statements:
        exec(ast.unparse(statement), {})


def test_their_commands_have_these_options(tmp_path: Path) -> None:
    lines = re.findall(r"(?<=pyro-sri )[^\n\"]+", "\n".join(cells("own_pictures_to_report")))
    assert len(lines) == 7
    for line in lines:
        words = line.split()
        command = words[: 2 if words[0] in ("data", "train") else 1]
        shown = run_here(*command, "--help", cwd=tmp_path)
        assert shown.status == 0, line
        assert all(word in shown.out for word in words if word.startswith("--")), line


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_they_run(name: str, tmp_path: Path) -> None:
    """As scripts, in an empty folder, with this environment's commands."""
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(cells(name)))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    if name == "own_pictures_to_report":
        assert (tmp_path / "report.html").stat().st_size > 100_000
