"""Starts commands, kills them, and compares what they leave with what they should have left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from pyro_sri import checkpoints

SHIM = Path(__file__).parent / "shim"
PATIENCE = 600  # seconds until a command counts as hung


class Ended(NamedTuple):
    """How a command ended: its exit status, negative for a signal, what it wrote, and what it was killed at."""

    status: int
    out: str
    err: str
    moment: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def start(words: Sequence[object], folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Starts `pyro-sri WORDS` in a folder, in a process group of its own."""
    path = os.pathsep.join([str(SHIM), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "pyro_sri", *map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], since: float, report: Path | None = None) -> Ended:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    moment = report.read_text() if report is not None and report.exists() else ""
    return Ended(process.returncode, out, err, moment, time.monotonic() - since)


def complete(words: Sequence[object], folder: Path) -> Ended:
    """Runs a command to its end, which must be a good one."""
    since = time.monotonic()
    ended = finish(start(words, folder), since)
    assert ended.status == 0, ended.err
    return ended


def kill_at_moment(words: Sequence[object], folder: Path, moment: int | str, group: bool = False) -> Ended:
    """Runs a command of which a process dies at a moment of its writing below `folder`, unless it ends before."""
    report = folder.with_name(f"{folder.name}.moment")
    report.unlink(missing_ok=True)
    variables = {"FAULT_FOLDER": str(folder), "FAULT_MOMENT": str(moment), "FAULT_REPORT": str(report)}
    if group:
        variables["FAULT_GROUP"] = "1"
    since = time.monotonic()
    ended = finish(start(words, folder, **variables), since, report)
    assert ended.moment or not ended.killed
    return ended


def kill_after(words: Sequence[object], folder: Path, seconds: float) -> Ended:
    """Runs a command that is killed after some time, with its process group, unless it ends before."""
    since = time.monotonic()
    process = start(words, folder)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return finish(process, since)._replace(moment=f"after {seconds:.1f} s")


def last_step(run: Path) -> int:
    """The step of the last checkpoint; 0 where there is none."""
    path = run / "checkpoints" / "last.pt"
    return checkpoints.load_checkpoint(path)["step"] if path.exists() else 0


def log_lines(run: Path) -> list[dict[str, Any]]:
    """The log without its timings; every line must be whole."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Equal to the bit, through dictionaries and lists."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (mine, yours) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, yours, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def leftovers(folder: Path) -> list[Path]:
    """What only a kill leaves: hidden files, below a folder."""
    return [path.relative_to(folder) for path in sorted(folder.rglob(".*"))]


def assert_sound(run: Path, whole: Path) -> None:
    """What holds of a run at any moment: nothing half-written has a final name, and leftovers are few and known."""
    if not run.exists():
        return
    if (run / "config.yaml").exists():
        assert yaml.safe_load((run / "config.yaml").read_text()) == yaml.safe_load((whole / "config.yaml").read_text())
    for path in run.rglob("*.pt"):
        assert checkpoints.load_checkpoint(path)["step"] > 0
    allowed = {".lock", ".config.yaml.unfinished", ".metrics.jsonl.unfinished"}
    allowed |= {f"checkpoints/.{name}.pt.unfinished" for name in ("best", "last")}
    assert {str(path) for path in leftovers(run)} <= allowed


def assert_same_run(run: Path, whole: Path, starts: int) -> None:
    """A run that was started so many times equals one that was never interrupted."""
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    for name in ("last.pt", "best.pt"):
        files = (path / "checkpoints" / name for path in (run, whole))
        assert_equal(*(torch.load(file, weights_only=True) for file in files), where=name)
    assert log_lines(run) == log_lines(whole)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events.out.tfevents.")}
    assert files - events == {"config.yaml", "metrics.jsonl", "checkpoints/best.pt", "checkpoints/last.pt"}
    assert 1 <= len(events) <= starts
