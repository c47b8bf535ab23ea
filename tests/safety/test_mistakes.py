"""Mistakes, odd surroundings and signals: one plain line each, with the right exit status."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_sri.system.signals import ENDING
from support import small_world
from support.forking import Outcome, run_command, run_here
from support.small_world import DATA, FIELDS, METRICS, RUN, contents, make_run, write_metrics

TRAIN = ("train", "sri-g-shapestacks", "--data", DATA, *FIELDS.split(), "--steps", "1", "--out", "new")
LITTLE = ("--num-images", "2", "--num-samples", "0", "--iwae-images", "0")
CACHING = ("--num-images", "6", "--num-samples", "6", "--iwae-images", "0")  # enough to need features of real images
MAKE = ("data", "make", "tetrominoes", "--train", "4", "--val", "0", "--test", "0", "--workers", "1", "--out", "new.h5")
OFFICIAL = ("--image-size", "32", "--num-slots", "3", "--out", "new")
LONG = "x" * 100_000
UNICODE = "Türme ☃ 塔"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_world.settle(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("",), "no command ''"),
        (("--out",), "no command '--out'"),
        ((LONG,), "no command"),
        ((UNICODE,), UNICODE),
        (("sample\x1b]0;title\x07",), "sample\\x1b]0;title\\x07"),
        (("sample\n\nof lines",), "sample of lines"),
        (("presets", "extra"), "extra"),
        (("presets", "--out", "x"), "--out"),
        (("data", ""), "no command ''"),
        (("data", "convert"), "SOURCE"),
        (("data", "convert", "nowhere", "--out", "new.h5"), "nowhere"),
        (("data", "convert", DATA, "--out", "new.h5"), DATA),
        (("data", "make"), "NAME"),
        (("data", "make", "", "--out", "new.h5"), "''"),
        (("data", "make", "tetrominoes", "--out", ""), "already exists"),
        (("data", "make", "tetrominoes", "--out", "new.h5", "--seed", "-1"), "seed"),
        (("data", "make", "tetrominoes", "--out", "new.h5", "--seed", "one"), "one"),
        (("data", "info"), "The dataset file"),
        (("data", "info", ""), "folder"),
        (("data", "info", RUN), "folder"),
        (("data", "info", f"{RUN}/config.yaml"), "HDF5"),
        (("data", "check", "nowhere.h5"), "no file"),
        (("data", "check", "."), f"a file in it, such as {DATA}"),
        (("data", "check", f"{RUN}/checkpoints"), "data convert"),
        (("data", "check", f"{RUN}/config.yaml"), "data convert"),
        (("data", "preview", DATA, "--out", "new.gif"), ".png"),
        (("data", "preview", DATA, "--out", "new.png", "--split", ""), "no split ''"),
        (("data", "audit", DATA), "was not made by"),
        (("train",), "which preset"),
        (("train", ""), "no preset ''"),
        (("train", LONG), "no preset"),
        (("train", RUN, "--resume"), "name its preset, tiny, and give the run with --out run"),
        ((*TRAIN[:2], "--learning-rate", "fast"), "--learning-rate: 'fast' is not a number"),
        (("train", "sri-quick", "--data", ""), "folder"),
        ((*TRAIN[:-1], ""), "other files"),
        ((*TRAIN, "--start-from", ""), "not a run directory"),
        ((*TRAIN, "--start-from", "nowhere"), "no run directory nowhere"),
        ((*TRAIN, "--start-from", DATA), "not a run directory"),
        ((*TRAIN, "--start-from", RUN, "--num-slots", "3", "--slot-size", "16"), "does not fit"),
        ((*TRAIN, "--learning-rate", ""), "--learning-rate"),
        ((*TRAIN, "--resume", "--resume", "what"), "what"),
        ((*TRAIN, "--pixel-std", "1"), "never be met"),
        ((*TRAIN, "--pixel-std", "1"), "--geco-mse (that of sri-g-shapestacks is 0.00"),
        ((*TRAIN, "--geco-target", "9"), "grey image"),
        (("train", "sri-quick", "--resume", "--out", RUN), "'tiny'"),
        (("evaluate",), "RUN"),
        (("evaluate", ""), "not a run directory"),
        (("evaluate", DATA), "not a run directory"),
        (("evaluate", "rnu"), "did you mean 'run'?"),
        (("evaluate", f"{RUN}/checkpoints/best.pt"), "name its run directory, run"),
        (("evaluate", "."), "a run directory in it, such as run"),
        (("evaluate", RUN, "--num-images", "ten"), "--num-images must be a whole number"),
        (("evaluate", RUN, "--batch-size", "ten"), "--batch-size: 'ten' is not a whole number"),
        (("evaluate", RUN, "--data", "nowhere.h5"), "nowhere.h5"),
        (("evaluate", RUN, "--data", RUN), "folder"),
        (("evaluate", RUN, "--split", ""), "no split ''"),
        (("evaluate", RUN, "--checkpoint", ""), "best or last"),
        (("evaluate", RUN, "--device", "abacus"), "abacus"),
        (("evaluate", RUN, "--inception", ""), "no file"),
        (("evaluate", RUN, "--inception", DATA), "not a TorchScript file"),
        (("sample",), "RUN"),
        (("sample", "", "--out", "new.png"), "not a run directory"),
        (("sample", RUN, "--out", ""), "--out"),
        (("sample", RUN, "--out", "new.jpg"), ".png or .npz"),
        (("sample", RUN, "--num", ""), "--num"),
        (("sample", RUN, "--num", "1.5"), "--num"),
        (("sample", RUN, "--num"), "--num"),
        (("sample", RUN, "--temperature", "warm"), "warm"),
        (("sample", RUN, "--temperature", "-1"), "--temperature"),
        (("sample", RUN, "--condition", ""), "no picture"),
        (("sample", RUN, "--condition", "nowhere.png"), "nowhere.png"),
        (("sample", RUN, "--condition", DATA), f"{DATA}:0"),
        (("sample", RUN, "--condition", f"{DATA}:-1"), f"{DATA}:0"),
        (("sample", RUN, "--condition", RUN), "no picture run"),
        (("sample", RUN, "--condition", f"{DATA}:0", "--keep-slots", ""), "--keep-slots"),
        (("sample", RUN, "--condition", f"{DATA}:0", "--keep-slots", "٣,١٠"), "no slot 10"),
        (("sample", RUN, "--keep-slots", "0"), "--condition"),
        (("visualize", RUN), "--out"),
        (("visualize", RUN, "--out", ""), "already exists"),
        (("visualize", RUN, "--out", RUN), "already exists"),
        (("visualize", RUN, "--out", "new", "--split", "nowhere"), "nowhere"),
        (("report",), "at least one"),
        (("report", ""), "not a run directory"),
        (("report", RUN, "--out", ""), "--out"),
        (("report", RUN, "nowhere", "--out", "new.html"), "nowhere"),
        (("report", RUN, "--data", "nowhere.h5", "--out", "new.html"), "nowhere.h5"),
        (("study",), "STUDY"),
        (("study", "towers"), "--out"),
        (("study", "towres", "--out", "new"), "'towers'"),
        (("study", DATA, "--out", "new"), DATA),
        (("study", "nowhere.yaml", "--out", "new"), "no study file nowhere.yaml"),
        (("study", "towers", "--out", RUN, "--tiny"), "other files"),
        (("study", "towers", "--out", "new", "--only", "sri"), "'sri-g'"),
        (("study", "towers", "--out", "new", "--jobs", "0"), "--jobs"),
        (("study", "towers", "--out", "new", "--launcher", "slurn"), "slurn"),
        (("bench",), "preset"),
        (("bench", ""), "no preset"),
        (("bench", RUN), "name its preset, tiny"),
        (("bench", "sri-quick", "--batch", "0"), "batch"),
        (("import-weights",), "FILE"),
        (("import-weights", DATA, "--image-size", "32", "--num-slots", "3", "--out", "new"), DATA),
        (("import-weights", RUN, "--image-size", "32", "--num-slots", "3", "--out", "new"), "no file"),
        (("import-weights", f"{RUN}/checkpoints/best.pt", *OFFICIAL), "checkpoint of this library"),
        (("import-weights", DATA, "--image-size", "32", "--num-slots", "3", "--out", RUN), "choose another folder"),
        (("import-weights", DATA, "--image-size", "big", "--num-slots", "3", "--out", "new"), "big"),
    ],
    ids=lambda value: ascii(" ".join(value)[:60]) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_plain_line(folder: Path, words: tuple[str, ...], says: str) -> None:
    before = contents(folder)
    run_here(*words, cwd=folder).refused(says)
    assert contents(folder) == before


def test_data_that_has_moved_is_asked_for(folder: Path) -> None:
    (folder / DATA).rename(folder / "moved.h5")
    run_here("evaluate", RUN, cwd=folder).refused("the data of run", DATA, "is missing", "name it with --data")


# Names that a table or a terminal could take for orders


@pytest.mark.parametrize("name", ["[red]:boom:\x1b[31m[link=x]a\nb[]", "x[/bold]"])
def test_tables_show_names_as_they_are(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    make_run(folder / name, Path(DATA), preset=name.replace("\x1b", ""))
    os.link(folder / DATA, folder / f"{name}.h5")
    plain = f"{name}.h5".replace("\x1b", "\\x1b").replace("\n", "\\n")
    title = f"{plain.removesuffix('.h5')}: 2 images of generated: {Path(plain).name}"
    outcome = run_command("evaluate", name, name, "--data", f"{name}.h5", *LITTLE, cwd=folder, env={"COLUMNS": "200"})
    assert outcome.status == 0, outcome.err
    assert title in outcome.out
    assert "\x1b" not in outcome.out + outcome.err
    outcome = run_command("data", "info", f"{name}.h5", cwd=folder, env={"COLUMNS": "200"})
    assert outcome.status == 0, outcome.err
    assert f"{Path(plain).name} (generated)" in outcome.out
    assert "\x1b" not in outcome.out


def test_a_damaged_file_cannot_speak_to_the_terminal(folder: Path) -> None:
    with (folder / RUN / "config.yaml").open("a") as file:
        file.write('"\\e]0;title\\a\\e[2J": 1\n')
    line = run_command("sample", RUN, cwd=folder).refused("unknown field")
    assert "\x1b" not in line
    write_metrics(folder / RUN, METRICS | {"\x1b[2J" * 50: 1})
    assert "\x1b" not in run_command("report", RUN, cwd=folder).err


# Surroundings


def ends_well(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "env",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "0"},
        {"COLUMNS": "many"},
        {"NO_COLOR": "1", "TERM": "dumb"},
        {"FORCE_COLOR": "1"},
        {"TERM": None, "HOME": None, "LANG": None, "PATH": None},
    ],
    ids=str,
)
def test_odd_environments(folder: Path, env: dict[str, str | None]) -> None:
    ends_well(run_command("presets", cwd=folder, env=env))
    ends_well(run_command("data", "info", DATA, cwd=folder, env=env))
    run_command("sample", cwd=folder, env=env).refused("RUN")


@pytest.mark.parametrize(
    "env", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}], ids=str
)
def test_what_is_no_terminal_gets_lines(folder: Path, env: dict[str, str]) -> None:
    outcome = run_command(*TRAIN, cwd=folder, env=env)
    ends_well(outcome)
    assert [line for line in outcome.err.splitlines() if line.startswith("step 1/1  loss ")]
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "qtagg"])
def test_no_backend_of_matplotlib_matters(backend: str) -> None:
    """Notebooks export theirs, which need not be installed here."""
    code = (
        "from pyro_sri.scripts.main import run; run(['--version']); import matplotlib; print(matplotlib.get_backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "agg", done.stderr


@pytest.mark.parametrize("words", [("--out=~/new.h5",), ("--out", "~/new.h5")])
def test_a_tilde_is_the_home(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "home").mkdir()
    ends_well(run_command(*MAKE[:-2], *words, cwd=folder, env={"HOME": str(folder / "home")}))
    assert (folder / "home" / "new.h5").exists()
    assert not (folder / "~").exists()


NO_TEXT = "M\udcfcller"  # a byte that is not UTF-8, as Python shows it


@pytest.mark.parametrize(
    ("words", "writes"),
    [
        ((*TRAIN, "--data", f"{NO_TEXT}.h5"), "new"),
        ((*TRAIN, "--start-from", f"{NO_TEXT}/run"), "new"),
        ((*TRAIN[:-1], f"{NO_TEXT}/new"), ""),
        (("evaluate", f"{NO_TEXT}/run", *LITTLE), f"{NO_TEXT}/run/evaluation/metrics.1.json"),
        (("evaluate", RUN, *LITTLE, "--data", f"{NO_TEXT}.h5"), f"{RUN}/evaluation/metrics.1.json"),
        (("evaluate", RUN, "--inception", f"{NO_TEXT}.h5"), ""),
        (("sample", f"{NO_TEXT}/run", "--num", "1", "--out", f"{NO_TEXT}.npz"), f"{NO_TEXT}.npz"),
        (("sample", RUN, "--num", "1", "--condition", f"{NO_TEXT}.h5:0", "--out", "new.png"), "new.png"),
        pytest.param(
            ("visualize", f"{NO_TEXT}/run", "--num", "1", "--out", f"{NO_TEXT}/pictures"),
            f"{NO_TEXT}/pictures/model.gv",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("report", f"{NO_TEXT}/run", "--data", f"{NO_TEXT}.h5", "--out", f"{NO_TEXT}.html"),
            f"{NO_TEXT}.html",
            marks=pytest.mark.slow,
        ),
        ((*MAKE[:-1], f"{NO_TEXT}-new.h5"), f"{NO_TEXT}-new.h5"),
        (("data", "info", f"{NO_TEXT}.h5"), f"{NO_TEXT}.h5"),
        (("data", "check", f"{NO_TEXT}.h5"), f"{NO_TEXT}.h5"),
        (("data", "suggest", f"{NO_TEXT}.h5"), f"{NO_TEXT}.h5"),
        (("data", "preview", f"{NO_TEXT}.h5", "--out", f"{NO_TEXT}.png"), f"{NO_TEXT}.png"),
        (("data", "convert", f"{NO_TEXT}.h5", "--size", "16", "--out", f"{NO_TEXT}-16.h5"), f"{NO_TEXT}-16.h5"),
        (("data", "audit", f"{NO_TEXT}.h5"), ""),
        (("study", "towers", "--tiny", "--out", NO_TEXT), ""),
        (("study", f"{NO_TEXT}.h5", "--out", "new"), ""),
        (("import-weights", f"{NO_TEXT}.h5", "--image-size", "32", "--num-slots", "3", "--out", "new"), ""),
    ],
    ids=lambda value: ascii(" ".join(value)[:60]) if isinstance(value, tuple) else None,
)
def test_a_name_that_is_no_text_works_or_is_one_plain_line(folder: Path, words: tuple[str, ...], writes: str) -> None:
    (folder / NO_TEXT).mkdir()
    shutil.copytree(folder / RUN, folder / NO_TEXT / "run")
    shutil.copy(folder / DATA, folder / f"{NO_TEXT}.h5")
    outcome = run_command(*words, cwd=folder)
    assert "Traceback" not in outcome.err
    if writes:
        assert outcome.status == 0, outcome.err
        assert (folder / writes).exists()
    else:
        outcome.refused()


@pytest.mark.slow
@pytest.mark.parametrize(
    "env", [{"PYRO_SRI_CACHE": "/proc/none"}, {"PYRO_SRI_CACHE": None, "HOME": "/nowhere"}], ids=str
)
def test_no_place_for_a_cache(folder: Path, env: dict[str, str | None]) -> None:
    ends_well(run_command("evaluate", RUN, *CACHING, cwd=folder, env={"XDG_CACHE_HOME": None} | env))


def test_no_home_at_all(folder: Path) -> None:
    env = {"PYRO_SRI_CACHE": None, "XDG_CACHE_HOME": None}
    nobody = {"pathlib:Path.home": ("error", "builtins:RuntimeError", "Could not determine home directory.")}
    ends_well(run_command("evaluate", RUN, *CACHING, cwd=folder, env=env, instead=nobody))
    outcome = run_command("evaluate", RUN, *CACHING, "--download-inception", cwd=folder, env=env, instead=nobody)
    outcome.refused("no home", "PYRO_SRI_CACHE")


# What only a process from the start shows: streams that are closed, encodings, pipes that break, interrupts.


def start(folder: Path, shell: str, **env: str) -> Outcome:
    """Runs a line of shell, in which $SRI is the command."""
    command = {"SRI": f"{sys.executable} -m pyro_sri", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", shell], cwd=folder, env=os.environ | command | env, capture_output=True)
    return Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def test_a_reader_that_leaves(folder: Path) -> None:
    outcome = start(folder, "$SRI --help | true; $SRI --help | head -n 1; $SRI nothing 2>&1 | true")
    assert outcome.err == ""
    assert outcome.out.startswith("pyro-sri ")


def test_closed_streams(folder: Path) -> None:
    outcome = start(folder, "$SRI --help >&-")
    assert (outcome.status, outcome.err) == (0, "")
    outcome = start(folder, "$SRI nothing 2>&-")
    assert (outcome.status, outcome.out) == (2, "")
    outcome = start(folder, "$SRI nothing <&- >&-")
    outcome.refused("no command")


@pytest.mark.slow
def test_closed_streams_are_not_taken_by_files(folder: Path) -> None:
    """What is meant for standard error would go into the first file that is opened."""
    outcome = start(folder, f"$SRI {' '.join(MAKE)} <&- >&- 2>&-; $SRI data check new.h5")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "new.h5 is sound\n"


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "xx_YY.nonsense"])
def test_locales(folder: Path, locale: str) -> None:
    """A path that the terminal cannot show is escaped; a configuration is UTF-8 everywhere."""
    make_run(folder / UNICODE, Path(DATA), preset=UNICODE)
    for extra in ({}, {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        env = {"LC_ALL": locale, **extra}
        outcome = start(folder, f"$SRI sample '{UNICODE}' --num 1 --out '{UNICODE}{len(extra)}.png'", **env)
        assert outcome.status == 0, outcome.err
        assert "Traceback" not in outcome.err
        assert (folder / f"{UNICODE}{len(extra)}.png").exists()


@pytest.mark.slow
def test_a_name_that_is_no_text(folder: Path) -> None:
    outcome = start(folder, f"$SRI sample {RUN} --num 1 --out \"$(printf 'a\\377b').png\"")
    assert outcome.status == 0, outcome.err
    assert os.path.exists(os.fsencode(folder) + b"/a\xffb.png")
    outcome = start(folder, "$SRI sample \"$(printf 'a\\377b')\"")
    outcome.refused("no run directory a\\udcffb")


# Signals: (command, where it is when the signal comes)

SIGNALLED = {
    "presets": (("presets",), "pyro_sri.scripts.presets:print_list"),
    "evaluate": (("evaluate", RUN, *LITTLE), "pyro_sri.evaluation.evaluate:explain"),
    "evaluate writing": (("evaluate", RUN, *LITTLE), "os:fsync"),
    "sample": (("sample", RUN, "--num", "1"), "pyro_sri.scripts.sample:draw_scenes"),
    "sample writing": (("sample", RUN, "--num", "1", "--out", "new.npz"), "os:fsync"),
    "visualize": (("visualize", RUN, "--out", "new"), "pyro_sri.report.gallery:explain"),
    "report": (("report", RUN), "pyro_sri.report.gallery:explain"),
    "bench": (("bench", "sri-quick", "--batch", "2"), "pyro_sri.training.step:Stepper._work"),
    "data make": (MAKE, "pyro_sri.data.making:draw"),
    "data make writing": (MAKE, "pyro_sri.data.writing:_append"),
    "data info": (("data", "info", DATA), "pyro_sri.data.preview:_split_info"),
    "data check": (("data", "check", DATA), "pyro_sri.data.checking:_checked_items"),
    "train starting": (TRAIN, "pyro_sri.training.loop:check_data"),
}


TERMINATED = [(name, signal.SIGTERM, 143, "terminated") for name in SIGNALLED]
TERMINATED += [("data info", number, 128 + number, f"ended by {number.name}") for number in ENDING[2:]]
INTERRUPTED = [(name, signal.SIGINT, 130, "interrupted") for name in ("sample", "sample writing", "data make writing")]


@pytest.mark.parametrize(("name", "number", "status", "says"), TERMINATED + INTERRUPTED)
def test_a_signal_ends_a_command_cleanly(folder: Path, name: str, number: int, status: int, says: str) -> None:
    words, place = SIGNALLED[name]
    before = contents(folder)
    run_command(*words, cwd=folder, instead={place: ("signal", number)}).refused(says, status=status)
    left = {path for path in contents(folder) if path not in before}
    assert all(path.startswith("new.h5.parts/") for path in left)  # which the same command takes up
    assert {path: contents(folder)[path] for path in before} == before


def test_what_was_interrupted_says_how_it_goes_on(folder: Path) -> None:
    stop = {"pyro_sri.data.writing:_append": ("signal", signal.SIGTERM)}
    line = run_command(*MAKE, cwd=folder, instead=stop).refused(status=143)
    assert line == "pyro-sri: terminated: run the same command again to continue new.h5"
    outcome = run_command(*MAKE, cwd=folder)
    ends_well(outcome)
    assert "1 piece was already finished" in outcome.err
