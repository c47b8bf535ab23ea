"""Commands that are asked to stop, stop cleanly; several that want one run directory do not disturb each other."""

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_sri import checkpoints, runs
from pyro_sri.config import EMORLConfig, RunConfig, SRIConfig
from pyro_sri.scripts.main import main
from pyro_sri.scripts.main import run as run_command
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.system.signals import ENDING
from pyro_sri.training.loop import train
from pyro_sri.training.step import Stepper
from support.killing import assert_same_run, complete, finish, last_step, leftovers, log_lines, start

TINY: dict[str, Any] = {
    "dataset": "tetrominoes",
    "image_size": 32,
    "num_slots": 3,
    "slot_size": 8,
    "batch_size": 2,
    "steps": 13,
    "log_every": 5,
    "validate_every": 6,
    "picture_every": 100,
    "checkpoint_every": 4,
    "validation_images": 2,
    "device": "cpu",
}
TRAIN = (
    "train sri-g-shapestacks --tiny --steps 13 --log-every 5 --validate-every 6 --checkpoint-every 4 "
    "--picture-every 100 --device cpu"
)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def with_phases(system: str, data: Path) -> RunConfig:
    """A run whose terms change on the way: the segregation first; fewer refinement steps later."""
    if system == "sri":
        small = {"scene_size": 8, "attention_layers": 1}
        return SRIConfig(preset="sri-quick", data=data, **TINY, **small, segregation_steps=7, ema=0.9)
    curriculum = {"refinement_steps": 2, "later_refinement_steps": 1, "refinement_drop": 7}
    smaller = TINY | {"num_slots": 2, "batch_size": 1, "validation_images": 1}
    return EMORLConfig(preset="emorl-clevr6", data=data, **smaller, num_layers=1, **curriculum)


@pytest.fixture(scope="module")
def whole(tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs that were never interrupted: of each system, and through the command."""
    folder = tmp_path_factory.mktemp("whole")

    def of(kind: str) -> Path:
        path = folder / kind
        if not path.exists() and kind == "command":
            run_command([*TRAIN.split(), "--data", str(tetrominoes), "--out", str(path)])
        elif not path.exists():
            train(with_phases(kind, tetrominoes), path)
        return path

    return of


def at_step(step: int, do: Callable[[], None]) -> Callable[[int, Any], None]:
    """A progress function that does something after a step."""
    return lambda done, _: do() if done == step else None


def send(*numbers: int) -> None:
    """Signals that this process sends itself."""
    for number in numbers:
        signal.raise_signal(number)


@pytest.mark.parametrize("system", ["sri", pytest.param("emorl", marks=pytest.mark.slow)])
def test_the_log_does_not_tell_where_a_run_was_stopped(
    tetrominoes: Path, tmp_path: Path, system: str, whole: Callable[[str], Path]
) -> None:
    """Stops between log lines, twice between the same two, and in every phase."""
    config = with_phases(system, tetrominoes)
    stops = {2: signal.SIGINT, 3: signal.SIGTERM, 7: signal.SIGINT, 12: signal.SIGTERM}
    for stop, number in stops.items():
        train(config, tmp_path / "parts", resume=True, progress=at_step(stop, lambda number=number: send(number)))
        assert last_step(tmp_path / "parts") == stop
    train(config, tmp_path / "parts", resume=True)
    assert [line["step"] for line in log_lines(tmp_path / "parts")] == [5, 6, 10, 12, 13, 13]
    assert_same_run(tmp_path / "parts", whole(system), len(stops) + 1)


def test_a_second_interrupt_ends_at_once(tetrominoes: Path, tmp_path: Path, whole: Callable[[str], Path]) -> None:
    config = with_phases("sri", tetrominoes)
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=at_step(7, lambda: send(signal.SIGINT, signal.SIGINT)))
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert last_step(tmp_path / "parts") == 6
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", whole("sri"), 2)


@pytest.mark.parametrize("number", set(ENDING) - set(SIGNALS))
def test_what_batch_systems_and_terminals_send_leaves_a_checkpoint(
    tetrominoes: Path, tmp_path: Path, number: signal.Signals
) -> None:
    train(with_phases("sri", tetrominoes), tmp_path, progress=at_step(3, lambda: send(number, number)))
    assert last_step(tmp_path) == 3


def test_other_signals_after_the_first_change_nothing(tetrominoes: Path, tmp_path: Path) -> None:
    """A launcher may pass on its own signal after the terminal's."""
    for number, pair in enumerate(((signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), SIGNALS)):
        path = tmp_path / str(number)
        train(with_phases("sri", tetrominoes), path, progress=at_step(3, lambda pair=pair: send(*pair)))
        assert last_step(path) == 3


def test_an_interrupt_while_a_checkpoint_is_written_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"step": 1, "objective": {}})

    def interrupted(file: Any) -> None:
        file.write(b"half a file")
        send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert checkpoints.load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.fixture
def pyro_sri(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process: its exit status, and the lines of its standard error."""

    def run(*words: object) -> tuple[int, list[str]]:
        monkeypatch.setattr("sys.argv", ["pyro-sri", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_a_stopped_training_says_the_command_that_goes_on(
    pyro_sri: Any,
    tetrominoes: Path,
    tmp_path: Path,
    numbers: tuple[int, ...],
    whole: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "my run"
    command = [*TRAIN.split(), "--data", tetrominoes, "--out", out]
    step = Stepper.__call__

    def signalled(self: Stepper, images: Any, number: int) -> None:
        if number == 5:
            send(*numbers)
        step(self, images, number)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", signalled)
        status, lines = pyro_sri(*command)
    if len(numbers) == 1:
        assert status == 0
        assert lines[-1].startswith("stopped at step 6; to continue: pyro-sri train")
    else:
        assert status == 130
        assert lines[-1].startswith("pyro-sri: interrupted: to continue from the last checkpoint: pyro-sri train")
        assert last_step(out) == 4
    status, after = pyro_sri(*shlex.split(lines[-1].rpartition(": ")[2])[1:])
    assert status == 0
    assert after[-1].startswith("done: ")
    assert pyro_sri(*shlex.split(after[-1].partition("next: ")[2])[1:], "--help")[0] == 0
    assert_same_run(out, whole("command"), 2)


# Holds the run directory as a training process does, until its standard input ends.
HOLD = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_directory_in_use_is_refused(tetrominoes: Path, tmp_path: Path, resume: bool) -> None:
    """And is free again as soon as the other process is killed."""
    config, path = with_phases("sri", tetrominoes), tmp_path / "run"
    path.mkdir()
    if resume:
        train(config, path, progress=at_step(5, lambda: send(signal.SIGTERM)))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    words = [sys.executable, "-c", HOLD, str(path / runs.LOCK)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UserError, match="another process is training this run") as caught:
            train(config, path, resume=resume)
        assert "\n" not in str(caught.value)
        after = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != runs.LOCK}
        assert after == before
        holder.kill()
    assert (path / runs.LOCK).exists()
    assert last_step(train(config, path, resume=resume).path) == 13
    assert leftovers(path) == []


def test_a_file_system_without_locks_is_no_obstacle(
    tetrominoes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    assert last_step(train(with_phases("sri", tetrominoes), tmp_path / "run").path) == 13
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_two_processes_started_on_one_run_directory(tetrominoes: Path, tmp_path: Path) -> None:
    """One trains, the other is told so: both new, both resumed, and resumed over and over while one trains."""
    command = [*TRAIN.split(), "--data", tetrominoes, "--steps", 40, "--resume", "--out"]
    complete([*command, "whole"], tmp_path)
    starts = 0
    while starts < 20 and last_step(tmp_path / "run") < 40:
        since = time.monotonic()
        processes = [start([*command, "run"], tmp_path) for _ in range(2)]
        starts += 2
        if starts == 2:  # the first pair is killed on its way
            while last_step(tmp_path / "run") < 8:
                assert any(process.poll() is None for process in processes)
                time.sleep(0.01)
            for process in processes:
                process.kill()
        ended = [finish(process, since) for process in processes]
        for one in ended:
            assert one.status in (0, 2, -signal.SIGKILL), one.err
            if one.status == 2:
                assert one.err.count("\n") == 1
                assert "another process is training this run" in one.err
    assert_same_run(tmp_path / "run", tmp_path / "whole", starts)


STOPPED = {
    "train": TRAIN.replace("--steps 13", "--steps 60") + " --data data.h5 --resume --out run",
    "data make": "data make rooms --out rooms.h5 --size 32 --train 200 --val 0 --test 0 --workers 1",
    "data make by two": "data make rooms --out rooms.h5 --size 32 --train 200 --val 0 --test 0 --workers 2",
    "evaluate": "evaluate trained --num-samples 16",
    "sample": "sample trained --num 64 --out scenes.npz",
    "report": "report trained --out report.html",
    "visualize": "visualize trained --out pictures",
}
OUTPUTS = ("rooms.h5", "scenes.npz", "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", STOPPED)
def test_a_command_asked_to_stop_says_so_in_plain_words(
    name: str, number: signal.Signals, tetrominoes: Path, tmp_path: Path, stopped_runs: Path
) -> None:
    """At three seeded moments of its life; the signal goes to all its processes, as a terminal's does."""
    words = STOPPED[name].split()
    whole = tmp_path / "whole"
    shutil.copytree(stopped_runs, whole)
    seconds = complete(words, whole).seconds
    rng = random.Random(f"0 {name} {number}")
    for place in (0.02, 0.3, 0.6):
        folder = tmp_path / str(place)
        shutil.copytree(stopped_runs, folder)
        since = time.monotonic()
        process = start(words, folder)
        time.sleep(seconds * (place + rng.uniform(0, 0.3)))
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, number)
        ended = finish(process, since)
        assert "Traceback" not in ended.err, ended.err
        # Python itself ends by the signal where SIGINT came within an import's exec; a shell shows the same number.
        assert ended.status in (0, 128 + number, -number), (ended.status, ended.err)
        if ended.status == 128 + number:
            word = "interrupted" if number == signal.SIGINT else "terminated"
            assert ended.err.splitlines()[-1].startswith(f"pyro-sri: {word}")
        if number == signal.SIGINT:
            assert leftovers(folder) == []
        if ended.status or name == "train":
            shutil.rmtree(folder / "pictures", ignore_errors=True)  # a folder that holds pictures is refused
            for written in filter(Path.exists, map(folder.joinpath, OUTPUTS)):  # when its work was done already
                assert written.read_bytes() == (whole / written.name).read_bytes()
                written.unlink()
            complete(words, folder)


@pytest.fixture(scope="module")
def stopped_runs(tmp_path_factory: pytest.TempPathFactory, tetrominoes: Path) -> Path:
    """A folder with a data file and a trained run."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copy(tetrominoes, folder / "data.h5")
    complete([*TRAIN.split(), "--data", tetrominoes, "--out", "trained"], folder)
    return folder
