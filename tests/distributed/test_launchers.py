"""The command under every launcher: what it says, how it stops, and what it does when a process is lost."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyro_sri import checkpoints, load, runs
from pyro_sri.scripts.main import main
from support.launching import PATIENCE, address, as_torchrun, finish, free_port, start, start_pair

ENDLESS = ["--steps", "100000", "--checkpoint-every", "100000", "--validate-every", "100000"]
ENDLESS += ["--picture-every", "100000", "--log-every", "2"]


def training(data: Path, out: Path, *options: str) -> list[str]:
    """The words of a small run's command."""
    fields = ["--data", str(data), "--device", "cpu", "--batch-size", "4", "--log-every", "2", "--out", str(out)]
    return ["train", "sri-g-shapestacks", "--tiny", *fields, *options]


def command(data: Path, out: Path, *options: str) -> list[str]:
    """The same as arguments of Python."""
    return ["-m", "pyro_sri", *training(data, out, *options)]


def wait_for(path: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def step(out: Path) -> int:
    return int(checkpoints.load_checkpoint(out / "checkpoints" / "last.pt")["step"])


def times(errors: Sequence[str], words: str) -> int:
    """How often something was said, also where two processes write on one line."""
    return "\n".join(errors).count(words)


def test_two_devices(tetrominoes: Path, tmp_path: Path) -> None:
    """The command starts its second process itself; one of them speaks."""
    out = tmp_path / "run"
    ((status, errors),) = finish([start(command(tetrominoes, out, "--steps", "4", "--devices", "2"))])
    assert status == 0, errors
    assert [line["step"] for line in runs.read_log(out / "metrics.jsonl") if "loss" in line] == [2, 4]
    assert len(list((out / "tensorboard").iterdir())) == 1
    load(out)
    assert times(errors, "step 4/4") == 1
    assert times(errors, "done:") == 1


@pytest.mark.parametrize(
    ("environment", "options", "wanted"),
    [
        (as_torchrun(0, 2), [], "give --devices 2 --nodes 1"),
        (as_torchrun(0, 2), ["--devices", "4"], "give --devices 2 --nodes 1"),
        (as_torchrun(1, 2), ["--nodes", "2"], "give --devices 2 --nodes 1"),
        (as_torchrun(0, 1), ["--devices", "2"], "give --devices 1 --nodes 1"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "a"}, [], "give --devices 2 --nodes 2"),
        ({}, ["--nodes", "2"], "torchrun or srun"),
        ({"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1"}, ["--nodes", "2"], "MASTER_PORT"),
        ({}, ["--devices", "3"], "--batch-size 4 cannot be shared by 3 processes: use a multiple"),
        ({}, ["--devices", "2", "--capture"], "--capture works with one process only"),
    ],
)
def test_what_does_not_fit_is_one_plain_line(
    environment: dict[str, str],
    options: list[str],
    wanted: str,
    tetrominoes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["pyro-sri", *training(tetrominoes, tmp_path / "run", *options)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert wanted in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_port_in_use_is_one_plain_line(tetrominoes: Path, tmp_path: Path) -> None:
    where = address()
    words = command(tetrominoes, tmp_path / "run", "--devices", "2", *ENDLESS)
    first = [start(words, as_torchrun(rank, 2) | where) for rank in range(2)]
    wait_for(tmp_path / "run" / "metrics.jsonl", first)
    other = command(tetrominoes, tmp_path / "other", "--devices", "2")
    ((status, errors),) = finish([start(other, as_torchrun(0, 2) | where)])
    assert status == 2
    assert times(errors, "pyro-sri: cannot start or join the 2 processes") == 1
    assert not any("Traceback" in line for line in errors)
    for process in first:
        process.terminate()
    assert [status for status, _ in finish(first)] == [0, 0]


@pytest.mark.slow
def test_torchrun(tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    ((status, errors),) = finish([start([*launcher, *command(tetrominoes, out, "--steps", "4", "--devices", "2")])])
    assert status == 0, errors
    assert step(out) == 4
    assert times(errors, "done:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "environment"])
def test_two_machines(launcher: str, tetrominoes: Path, tmp_path: Path) -> None:
    """On one machine: two torchruns, or what Fabric reads where there is no launcher."""
    out, where = tmp_path / "run", address()
    words = command(tetrominoes, out, "--steps", "4", "--nodes", "2")
    if launcher == "torchrun":
        place = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", where["MASTER_ADDR"]]
        place += ["--master-port", where["MASTER_PORT"]]
        agents = [start(["-m", "torch.distributed.run", *place, "--node-rank", str(n), *words]) for n in range(2)]
    else:
        agents = [start(words, where | {"NODE_RANK": str(n)}) for n in range(2)]
    ended = finish(agents)
    assert [status for status, _ in ended] == [0, 0], ended
    assert step(out) == 4
    assert [times(errors, "done:") for _, errors in ended] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "receivers"), [(signal.SIGTERM, [0]), (signal.SIGTERM, [1]), (signal.SIGINT, [0, 1])]
)
def test_a_signal_to_one_or_to_all(
    number: signal.Signals, receivers: list[int], tetrominoes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    pair = start_pair(command(tetrominoes, out, "--devices", "2", *ENDLESS))
    wait_for(out / "metrics.jsonl", pair)
    for receiver in receivers:
        pair[receiver].send_signal(number)
    ended = finish(pair)
    assert [status for status, _ in ended] == [0, 0], ended
    assert times(ended[0][1], f"stopped at step {step(out)}; to continue:") == 1
    assert "--resume" in ended[0][1][-1]
    more = command(tetrominoes, out, "--devices", "2", "--steps", str(step(out) + 2), "--resume")
    assert [status for status, _ in finish(start_pair(more))] == [0, 0]


@pytest.mark.slow
def test_a_signal_to_the_command_that_started_the_others(tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(tetrominoes, out, "--devices", "2", *ENDLESS))
    wait_for(out / "metrics.jsonl", [process])
    process.terminate()
    ((status, errors),) = finish([process])
    assert status == 0, errors
    assert times(errors, f"stopped at step {step(out)}; to continue:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others(lost: int, tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pair = start_pair(command(tetrominoes, out, "--devices", "2", *ENDLESS, "--checkpoint-every", "2"))
    wait_for(out / "checkpoints" / "last.pt", pair)
    pair[lost].kill()
    ended = finish(pair)
    status, errors = ended[1 - lost]
    assert status == 2
    assert errors[-1].startswith("pyro-sri: another process of the run has ended")
    assert not any("Traceback" in line for line in errors)
    last = step(out)
    more = command(tetrominoes, out, "--devices", "2", "--steps", str(last + 2), "--resume")
    assert [status for status, _ in finish(start_pair(more))] == [0, 0]
    assert step(out) == last + 2


@pytest.mark.slow
def test_a_lost_process_ends_the_command_that_started_it(tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(tetrominoes, out, "--devices", "2", *ENDLESS))
    wait_for(out / "metrics.jsonl", [process])
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", "-KILL", child], check=True)
    ((status, errors),) = finish([process])
    assert status == 2
    assert errors[-1].startswith("pyro-sri: another process of the run has ended")


@pytest.mark.slow
def test_a_machine_without_the_run_is_named(tetrominoes: Path, tmp_path: Path) -> None:
    """A run directory that only the first of two machines has: nothing is trained, nothing is lost."""
    here, there = tmp_path / "here", tmp_path / "there"
    ((status, _),) = finish([start(command(tetrominoes, here, "--steps", "2"))])
    assert status == 0
    kept = shutil.copytree(here, tmp_path / "kept")
    where = address()
    pair = [
        start(command(tetrominoes, out, "--steps", "4", "--devices", "2", "--resume"), as_torchrun(rank, 2) | where)
        for rank, out in enumerate([here, there])
    ]
    for status, errors in finish(pair):
        assert status == 2
        assert "do not see the same run" in errors[-1]
    assert step(here) == 2
    assert (here / "metrics.jsonl").read_text() == (kept / "metrics.jsonl").read_text()
    assert not there.exists()
