"""Studies carried out: end to end, killed and resumed, stopped, and with runs that fail."""

import csv
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pyro_sri.scripts.main import run as run_command
from pyro_sri.system.errors import UserError
from support.killing import Ended, complete, finish, last_step, start

STUDY = """
title: A small study
data: {family: towers, size: 32, train: 8, val: 2, test: 2}
seeds: [0, 1]
measures: [ari_fg, mse]
rows:
  sri: {title: SRI, preset: sri-quick, published: {ari_fg: 0.7}}
  all: {title: d) all, same_as: sri}
  genesis_v2: {title: GENESIS-v2, preset: genesis_v2-quick}
"""
FILES = {"results.json", "tables.md", "tables.csv", "tables.tex", "samples.png", "samples.pdf", "report.html"}
FILES |= {"curves-val_nll.pdf", "curves-val_nll.svg"}
PATIENCE = 300


def write(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    """results.json without what depends on where and how fast it ran."""
    found = json.loads((out / "results.json").read_text())
    return [{k: v for k, v in record.items() if k not in ("minutes", "command", "evaluate")} for record in found]


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def living(out: Path) -> list[str]:
    """Commands of other processes that work below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if any(str(out) in word for word in words) and int(process.name) != os.getpid():
            found.append(" ".join(words))
    return found


def test_a_study_killed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No child outlives it; the same command ends it; a run that diverges is told, shown and left."""
    text = STUDY.replace("seeds: [0, 1]", "seeds: [4]").replace(
        "preset: genesis_v2-quick", "preset: genesis_v2-quick, fields: {learning_rate: 1e30}"
    )
    command = ["study", str(write(tmp_path, text)), "--out", str(tmp_path / "out"), "--tiny", "--jobs", "2"]
    out = tmp_path / "out"
    since = time.monotonic()
    process = start(command, tmp_path)
    wait_for(lambda: (out / "runs" / "sri" / "4" / "metrics.jsonl").exists())
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process, since).killed
    wait_for(lambda: not living(out))
    assert not (out / "results.json").exists()

    with pytest.raises(UserError, match="1 of 2 runs failed"):
        run_command(command)
    assert {path.name for path in out.iterdir() if path.is_file()} >= FILES
    sri, same, genesis = records(out)
    assert (sri["steps"], sri["seed"], sri["row"], same["row"]) == (3, 4, "sri", "all")
    assert sri["mse"] == same["mse"] is not None
    assert genesis["status"] == "diverged"
    assert "diverged" in (out / "tables.md").read_text()
    assert "generated" in (out / "tables.md").read_text()
    page = (out / "report.html").read_text()
    assert "d) all" in page
    assert "published, real data" in page

    checkpoint = out / "runs" / "sri" / "4" / "checkpoints" / "last.pt"
    before = checkpoint.stat().st_mtime_ns
    capsys.readouterr()
    run_command([*command, "--only", "sri"])  # nothing is left to do
    assert "training" not in capsys.readouterr().err
    assert checkpoint.stat().st_mtime_ns == before
    run_command([*command, "--status"])
    assert "diverged" in capsys.readouterr().out

    write(tmp_path, text.replace("preset: sri-quick", "preset: sri-quick, fields: {ema: 0.5}"))
    with pytest.raises(UserError, match=r"row 'sri' has changed.*--ema \(was 0.999\)"):
        run_command(command)


LONGER = STUDY.replace(
    "seeds: [0, 1]",
    """seeds: [0, 1]
fields: {steps: 60, batch_size: 2, num_slots: 2, slot_size: 8, checkpoint_every: 7, log_every: 2, validate_every: 20}
evaluate: {num_images: 2, iwae_images: 2}""",
)
KILLS, RUNS, STEPS = 5, 4, 60


@pytest.mark.slow
def test_a_study_killed_five_times_equals_an_undisturbed_one(tmp_path: Path) -> None:
    """Killed after each sixth of all training steps, at random moments within it."""
    rng = random.Random(0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        write(folder, LONGER)
    command = ["study", "study.yaml", "--out", "out", "--jobs", "2"]
    complete(command, whole)

    def steps() -> list[int]:
        return [last_step(path) for path in sorted((parts / "out" / "runs").glob("*/*"))]

    kills: list[list[int]] = []
    for number in range(KILLS):
        since = time.monotonic()
        process = start(command, parts)
        least = int((number + rng.random()) / (KILLS + 1) * RUNS * STEPS)
        wait_for(lambda least=least: sum(steps()) > least)
        os.kill(process.pid, signal.SIGKILL)
        assert finish(process, since).killed
        kills.append(steps())
    print(f"killed when the runs had logged these steps: {kills}")
    assert sum(kills[-1]) < RUNS * STEPS
    complete(command, parts)
    assert records(parts / "out") == records(whole / "out")
    tables = [without_minutes(folder / "out" / "tables.csv") for folder in (whole, parts)]
    assert tables[0] == tables[1]
    assert (parts / "out" / "samples.png").read_bytes() == (whole / "out" / "samples.png").read_bytes()


def without_minutes(table: Path) -> list[list[str]]:
    """The rows of a table, but for those that a clock has measured."""
    with table.open(newline="") as file:
        return [row for row in csv.reader(file) if row[3] != "minutes"]


@pytest.mark.slow
def test_ctrl_c_ends_with_checkpoints(tmp_path: Path) -> None:
    """Training children end with a checkpoint, and the command with status 0, saying how to go on."""
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1]\nfields: {steps: 100000, log_every: 5, batch_size: 2}")
    text = text.replace("preset: sri-quick,", "preset: sri-quick, fields: {num_slots: 2, slot_size: 8},")
    write(tmp_path, text)
    command = ["study", "study.yaml", "--out", "out", "--jobs", "2", "--only", "sri"]
    since = time.monotonic()
    process = start(command, tmp_path)
    logs = [tmp_path / "out" / "runs" / "sri" / seed / "metrics.jsonl" for seed in "01"]
    wait_for(lambda: all(log.exists() for log in logs))
    os.kill(process.pid, signal.SIGINT)
    ended: Ended = finish(process, since)
    assert ended.status == 0, ended.err
    assert "to continue: pyro-sri study" in ended.err
    assert all(last_step(log.parent) > 0 for log in logs)
    assert not living(tmp_path / "out")
