"""Commands killed with SIGKILL at any moment: nothing is lost, nothing is half-written, and what goes on is the same.

Every kill is seeded or named, see `shim/sitecustomize.py`.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.making import make_dataset
from pyro_sri.scripts.main import run as run_command
from support.killing import (
    assert_same_run,
    assert_sound,
    complete,
    kill_after,
    kill_at_moment,
    last_step,
    leftovers,
)
from support.systems import uncovered

SEED = 0
STEPS = 8
# Every system, and what its preset's tiny form leaves out: a change of phase on the way.
MODELS = {
    "sri-g-shapestacks": ("--segregation-steps", 3, "--prior-from", 6, "--ema", 0.9),
    "genesis-shapestacks": (),
    "emorl-tetrominoes-reachable": ("--refinement-steps", 2, "--later-refinement-steps", 1, "--refinement-drop", 5),
    "air-multi_digits": (),
    "genesis_v2-g-shapestacks": (),
    "slot_attention-tetrominoes": ("--gradient-clip", 1.0, "--warmup-steps", 4),
}
MODELS |= dict.fromkeys(uncovered(MODELS), ())
SIZES = {"air-multi_digits": 50, "emorl-tetrominoes-reachable": 35, "slot_attention-tetrominoes": 35}


class Table:
    """What was killed where, to be printed."""

    def __init__(self) -> None:
        self.rows: dict[str, list[str]] = {}
        self.kinds: Counter[str] = Counter()

    def add(self, what: str, moment: str, then: str = "") -> None:
        self.rows.setdefault(what, []).append(then)
        self.kinds[moment.split(" ")[0]] += 1

    def __str__(self) -> str:
        lines = [f"{'command':<50} kills  went on from"]
        for what, then in self.rows.items():
            steps = ", ".join(f"{step}: {count}" for step, count in sorted(Counter(filter(None, then)).items()))
            lines.append(f"{what:<50} {len(then):>5}  {steps}")
        lines.append(f"{'all':<50} {sum(map(len, self.rows.values())):>5}")
        lines.append("killed at: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items())))
        return "\n".join(lines)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    table = Table()
    yield table
    if table.rows:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n\n{table}\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Small data sets by their image size."""
    folder = tmp_path_factory.mktemp("data")

    def of_size(size: int) -> Path:
        path = folder / f"{size}.h5"
        if not path.exists():
            make_dataset("tetrominoes", path, size=size, train=8, val=2, test=2)
        return path

    return of_size


def training(preset: str, data: Path, *fields: object) -> list[object]:
    """The command; --resume starts the run where there is none."""
    every = ("--log-every", 3, "--validate-every", 4, "--picture-every", 4, "--checkpoint-every", 2, "--steps", STEPS)
    return ["train", preset, "--tiny", "--data", data, *every, *fields, "--resume", "--out", "run"]


def test_a_killed_run_goes_on_to_the_bit(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first configuration half-written; one checkpoint written and not the other; half a log line."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    command = training("genesis-shapestacks", data(32))
    monkeypatch.chdir(whole)
    run_command([str(word) for word in command])
    moments = {
        "write 1 of run/.config.yaml.unfinished": 0,
        "rename run/checkpoints/.last.pt.unfinished": 0,
        "write 4 of run/metrics.jsonl": 6,
    }
    for moment, step in moments.items():
        ended = kill_at_moment(command, parts, moment)
        assert ended.killed, ended.err
        assert_sound(parts / "run", whole / "run")
        assert last_step(parts / "run") == step
    complete(command, parts)
    assert_same_run(parts / "run", whole / "run", starts=4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", MODELS)
def test_training_killed_at_every_kind_of_moment(preset: str, data: Any, tmp_path: Path, table: Table) -> None:
    """Killed again and again, ever later in its writing; the systems together take every moment in turn."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    command = training(preset, data(SIZES.get(preset, 32)), *MODELS[preset])
    complete(command, whole)
    moment, starts, before = 1 + list(MODELS).index(preset), 1, 0
    while (ended := kill_at_moment(command, parts, moment)).killed:
        assert_sound(parts / "run", whole / "run")
        step = last_step(parts / "run")
        assert step >= before
        table.add(f"train {preset}", ended.moment, f"step {step}")
        moment, starts, before = moment + len(MODELS), starts + 1, step
    assert ended.status == 0, ended.err
    assert starts > 4
    assert_same_run(parts / "run", whole / "run", starts)


@pytest.mark.slow
@pytest.mark.parametrize("preset", MODELS)
def test_training_killed_at_random_times(preset: str, data: Any, tmp_path: Path, table: Table) -> None:
    """From the first instruction on: most of a short run's life is its start."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    command = training(preset, data(SIZES.get(preset, 32)), *MODELS[preset])
    seconds = complete(command, whole).seconds
    rng = random.Random(f"{SEED} {preset}")
    for start in range(3):
        ended = kill_after(command, parts, seconds * rng.uniform(0.1 + 0.2 * start, 0.5 + 0.2 * start))
        assert ended.killed or ended.status == 0, ended.err
        if ended.killed:
            assert_sound(parts / "run", whole / "run")
            table.add(f"train {preset}, random times", "time", f"step {last_step(parts / 'run')}")
    complete(command, parts)
    assert_same_run(parts / "run", whole / "run", starts=4)


MAKING = "data make rooms --out rooms.h5 --size 32 --train 70 --val 3 --test 0 --seed 4"


def content(path: Path) -> str:
    check_dataset(path)
    with DatasetFile(path) as file:
        return file.content_hash()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("group", [True, False], ids=["all processes", "the main process"])
def test_making_data_killed_at_every_moment(workers: int, group: bool, tmp_path: Path, table: Table) -> None:
    """The same command goes on to the same arrays; no other file is ever under the final name."""
    command = MAKING.split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    complete(command, whole)
    moment = 1
    while (ended := kill_at_moment([*command, "--workers", workers], parts, moment, group)).moment:
        assert ended.killed or "a worker process died" in ended.err
        table.add(f"data make --workers {workers}", ended.moment)
        assert {path.name for path in parts.iterdir()} <= {"rooms.h5", "rooms.h5.parts"}
        if (parts / "rooms.h5").exists():
            assert content(parts / "rooms.h5") == content(whole / "rooms.h5")
        moment += 1 if workers == 1 else 2
    assert ended.status == 0, ended.err
    assert [path.name for path in parts.iterdir()] == ["rooms.h5"]
    assert content(parts / "rooms.h5") == content(whole / "rooms.h5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Any) -> Path:
    """A folder with a finished run and the cache of its evaluation's features."""
    folder = tmp_path_factory.mktemp("trained")
    complete(training("sri-g-shapestacks", data(32)), folder)
    return folder


def read(path: Path) -> object:
    """What a finished file holds; fails for half a file."""
    if path.suffix == ".json":
        return {name: value for name, value in json.loads(path.read_text()).items() if "seconds" not in name}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    if path.suffix in (".png", ".gif"):
        with Image.open(path) as picture:
            picture.load()
    if path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    return path.read_bytes()


COMMANDS = {
    "evaluate": ("evaluate run --iwae-samples 2 --num-samples 2", 1),
    "sample": ("sample run --num 2 --out scenes.npz", 1),
    "report": ("report run --out report.html", 1),
    "visualize": ("visualize run --num 2 --out pictures", 9),
    "data preview": ("data preview data.h5 --out preview.png", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_old_or_whole_results(
    name: str, trained: Path, data: Any, tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command from the start again; what was there before is still there."""
    words, stride = COMMANDS[name]
    whole, parts, metrics = tmp_path / "whole", tmp_path / "parts", Path("run/evaluation/metrics.json")
    for folder in (whole, parts):
        shutil.copytree(trained, folder)
        shutil.copy(data(32), folder / "data.h5")
        if name == "evaluate":  # with the results of an earlier evaluation, other than the new ones
            (folder / metrics).parent.mkdir()
            (folder / metrics).write_text(json.dumps({"seed": "an earlier one"}))
    before = files(parts)
    monkeypatch.setenv("PYRO_SRI_CACHE", str(whole / "cache"))
    complete(words.split(), whole)
    made = files(whole)
    monkeypatch.setenv("PYRO_SRI_CACHE", str(parts / "cache"))

    def assert_old_or_whole(now: dict[Path, object]) -> None:
        assert before.keys() <= now.keys()
        for path, there in now.items():
            place = metrics if path.match("metrics.*.json") else path  # earlier ones get a number
            assert there in [content[place] for content in (before, made) if place in content], path

    moment = 1
    while (ended := kill_at_moment(words.split(), parts, moment)).killed:
        table.add(name, ended.moment)
        assert_old_or_whole(files(parts))
        shutil.rmtree(parts / "pictures", ignore_errors=True)  # a folder that holds pictures is refused
        moment += stride
    assert ended.status == 0, ended.err
    assert moment > 2
    now = files(parts)
    assert_old_or_whole(now)
    assert made.items() <= now.items()
    assert all(path in made or path.match("metrics.*.json") for path in now)
    assert leftovers(parts) == []


def files(folder: Path) -> dict[Path, object]:
    """The files with final names, and what they hold."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder): read(path) for path in paths}
