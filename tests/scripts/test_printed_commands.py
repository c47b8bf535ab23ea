"""Commands that are printed are carried out as they stand, somewhere else, and give the same again."""

import html
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from pyro_sri.checkpoints import load_checkpoint
from pyro_sri.data.making import make_dataset
from pyro_sri.report import subjects
from pyro_sri.runs import open_run
from pyro_sri.scripts.main import run
from pyro_sri.system.errors import UserError
from support.reports import few_exhibits

Capture = pytest.CaptureFixture[str]
SMALL = "--slot-size 8 --scene-size 8 --batch-size 4 --steps 3 --validation-images 4 --log-every 2 --device cpu"
FEW = "--iwae-images 0 --num-samples 0"


@pytest.fixture
def place(tmp_path: Path, tetrominoes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with another file of scenes, and pages that are soon drawn."""
    monkeypatch.setattr(subjects, "gallery", few_exhibits)
    make_dataset("tetrominoes", tmp_path / "other scenes.h5", size=32, train=4, val=4, test=6, seed=8)
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    return tmp_path


def commands_of(page: Path) -> list[list[str]]:
    """What the page says, in its order."""
    parts = re.findall(r"<pre>(.*?)</pre>", page.read_text(), re.DOTALL)
    lines = [line for part in parts for line in html.unescape(part).splitlines()]
    found = [shlex.split(line) for line in lines]
    assert all(words[0] == "pyro-sri" for words in found)
    return [words[1:] for words in found]


def after(text: str, before: str) -> list[str]:
    """The command that stands after some words."""
    (line,) = [line for line in text.splitlines() if before in line]
    program, *words = shlex.split(line.partition(before)[2])
    assert program == "pyro-sri"
    return words


@pytest.mark.parametrize(
    "preset",
    [
        "sri-own",
        pytest.param("sri-g-shapestacks", marks=pytest.mark.slow),
        pytest.param("emorl-tetrominoes --tiny", marks=pytest.mark.slow),
    ],
)
def test_the_commands_of_a_report_repeat_all_of_it(
    preset: str, place: Path, tetrominoes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "" if "--tiny" in preset else SMALL
    run(["train", *preset.split(), *options.split(), "--data", str(tetrominoes), "--out", "runs/a run"])
    run(["evaluate", "runs/a run", *FEW.split(), "--data", "../other scenes.h5", "--num-images", "5", "--seed", "3"])
    run(["report", "runs/a run", "--out", "page.html"])
    here, metrics = Path.cwd(), open_run(Path("runs/a run")).metrics()
    commands = commands_of(Path("page.html"))
    assert [words[0] for words in commands] == ["train", "evaluate", "report"]
    (place / "second").mkdir()
    monkeypatch.chdir(place / "second")
    for words in commands:
        run(words)
    first, second = (load_checkpoint(folder / "runs/a run/checkpoints/last.pt") for folder in (here, Path()))
    for name, tensor in first["objective"].items():
        assert torch.equal(tensor, second["objective"][name]), name
    again = open_run(Path("runs/a run")).metrics()
    assert again is not None
    assert metrics is not None
    for name in ("mse", "ari_fg", "data", "data_file", "num_images", "seed"):
        assert again[name] == metrics[name], name
    assert Path("page.html").exists()


def test_what_train_and_report_say_next_works(place: Path, tetrominoes: Path, capsys: Capture) -> None:
    words = ["train", "sri-g-shapestacks", "--num-slots", "4", *SMALL.split(), "--data", str(tetrominoes)]
    run([*words, "--out", "a run"])
    following = after(capsys.readouterr().err, "next: ")
    run(["report", "a run", "--out", "page.html"])
    evaluation, *_ = commands_of(Path("page.html"))
    assert evaluation == following
    capsys.readouterr()
    run([*following, *FEW.split(), "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["run"] == "a run"


def pasted(line: str) -> list[str]:
    """The words of a printed command in a shell, without the program."""
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    program, *words = done.stdout.decode(errors="surrogateescape").split("\0")[:-1]
    assert program == "pyro-sri"
    return words


def test_what_suggest_prints_works_also_when_the_data_moves(place: Path, capsys: Capture) -> None:
    name = "it's  M\udcfcller\n48.h5"
    make_dataset("tetrominoes", place / name, size=48, train=6, val=4, test=0, seed=8)
    Path("runs").mkdir()
    Path("runs/taken").symlink_to(".")
    run(["data", "suggest", str(place / name)])
    said = capsys.readouterr().out
    convert, train, evaluate, report = (pasted(line.strip()) for line in said.partition("to train:\n")[2].splitlines())
    assert evaluate[2:] == ["--split", "val"]
    run(convert)
    run([*train, *SMALL.split()])
    assert pasted(capsys.readouterr().err.partition("next: ")[2].strip()) == evaluate
    data = Path(train[train.index("--data") + 1])
    data.rename("moved.h5")
    for words in (evaluate, [*train[:2], *train[-2:], "--resume"]):
        with pytest.raises(UserError, match="name it with --data"):
            run(words)
    run([*report, "--seed", "1"])
    assert "name the file with --data" in capsys.readouterr().err
    run([*train[:2], *train[-2:], "--resume", "--data", "moved.h5", "--steps", "4"])
    run([*evaluate, *FEW.split()])


def test_advice_names_files_that_are_not_there_yet(place: Path) -> None:
    make_dataset("tetrominoes", place / "first" / "48.h5", size=48, train=1, val=0, test=0)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            run(["train", "sri-g-shapestacks", "--data", "48.h5", "--out", "run"])
        run(pasted(f"pyro-sri {str(caught.value).partition('pyro-sri ')[2]}"))
    assert {path.name for path in Path().iterdir()} == {"48.h5", "48-32.h5", "48-32-2.h5"}


def test_what_an_error_tells_to_do_works(place: Path, capsys: Capture) -> None:
    with pytest.raises(UserError, match="needs a data file") as caught:
        run(["train", "emorl-tetrominoes"])
    made = re.search(r"'pyro-sri (data make .*?)'.* with (--data \S+)$", str(caught.value))
    assert made is not None
    run([*shlex.split(made[1]), "--train", "8", "--val", "2", "--test", "2"])
    run(["train", "emorl-tetrominoes", "--tiny", *shlex.split(made[2]), "--steps", "1", "--out", "run"])
    assert open_run(Path("run")).config.image_size == 35
