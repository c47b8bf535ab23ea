"""The command under every launcher: what it says, how it stops, and what it does when a process is lost."""

import contextlib
import dataclasses
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyro_sri import checkpoints, load, runs
from pyro_sri.presets import PRESETS
from pyro_sri.scripts.main import main, run
from pyro_sri.training import launching
from support.launching import PATIENCE, address, as_torchrun, finish, free_port, start, start_pair

ENDLESS = ["--steps", "100000", "--checkpoint-every", "100000", "--validate-every", "100000"]
ENDLESS += ["--picture-every", "100000", "--log-every", "2"]


# A job that asked for four tasks: in its script, and in each task that srun starts there.
SBATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = SBATCH | {"SLURM_STEP_NUM_TASKS": "4"}


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


def step_of(out: Path) -> int:
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
        (SRUN | {"SLURM_NTASKS_PER_NODE": "2"}, [], "give --devices 2 --nodes 2"),
        (SRUN | {"SLURM_STEP_NUM_NODES": "2"}, [], "give --devices 2 --nodes 2"),
        (SRUN, [], "give --devices 4 --nodes 1"),
        (SBATCH, ["--nodes", "2"], "torchrun or srun"),
        ({"MASTER_PORT": "high"}, ["--devices", "2"], "MASTER_PORT is 'high', not the number of a port"),
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


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": "4", "bash": "1"}])
def test_in_a_job_without_srun_one_process_trains(
    step: dict[str, str], tetrominoes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = SBATCH | step | ({"SLURM_JOB_NAME": "bash"} if "bash" in step else {})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run(training(tetrominoes, tmp_path / "run", "--steps", "1"))
    assert step_of(tmp_path / "run") == 1


def test_the_processes_of_srun_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the number of tasks on a node was not given, which the message's advice then gives."""
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    config = dataclasses.replace(PRESETS["sri-quick"].config, devices=4)
    environment = launching._environment(config)
    assert environment is not None
    assert environment.creates_processes_externally
    assert environment.world_size() == 4
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")


def processes_of(out: Path) -> list[str]:
    """The numbers of the processes that have a run directory among their arguments."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(out) in place.read_text().split("\0"):
                found.append(place.parent.name)
    return found


@pytest.mark.slow
def test_a_taken_port_is_told_and_leaves_no_process(tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
        ((status, errors),) = finish([start(command(tetrominoes, out, "--devices", "2"), where)])
        assert processes_of(out) == []
    assert status == 2, errors
    says = f"cannot start or join the 2 processes: another program has port {where['MASTER_PORT']}: set MASTER_PORT"
    assert errors[-1].startswith(f"pyro-sri: {says}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["starting", "training"])
def test_no_process_outlives_the_command(
    number: signal.Signals, moment: str, tetrominoes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(command(tetrominoes, out, "--devices", "2", *ENDLESS))
    while len(processes_of(out)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    if moment == "training":
        wait_for(out / "metrics.jsonl", [process])
    process.send_signal(number)
    ((status, _),) = finish([process])
    assert status in (-number, 128 + number, 0)
    deadline = time.monotonic() + PATIENCE
    while processes_of(out):  # at the very start, it looks for the command when Python has loaded
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_second_interrupt_ends_a_step_that_waits(tetrominoes: Path, tmp_path: Path) -> None:
    """For a process that hangs, which no handler of Python's could."""
    out = tmp_path / "run"
    pair = start_pair(command(tetrominoes, out, "--devices", "2", *ENDLESS))
    wait_for(out / "metrics.jsonl", pair)
    pair[1].send_signal(signal.SIGSTOP)
    time.sleep(2)
    for _ in range(2):
        pair[0].send_signal(signal.SIGINT)
        time.sleep(0.5)
    status = pair[0].wait(PATIENCE)
    pair[1].kill()
    assert status == 130
    assert finish(pair)[0][1][-1] == "pyro-sri: interrupted"


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
    assert step_of(out) == 4
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
    assert step_of(out) == 4
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
    assert times(ended[0][1], f"stopped at step {step_of(out)}; to continue:") == 1
    assert "--resume" in ended[0][1][-1]
    more = command(tetrominoes, out, "--devices", "2", "--steps", str(step_of(out) + 2), "--resume")
    assert [status for status, _ in finish(start_pair(more))] == [0, 0]


@pytest.mark.slow
def test_a_signal_to_the_command_that_started_the_others(tetrominoes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(tetrominoes, out, "--devices", "2", *ENDLESS))
    wait_for(out / "metrics.jsonl", [process])
    process.terminate()
    ((status, errors),) = finish([process])
    assert status == 0, errors
    assert times(errors, f"stopped at step {step_of(out)}; to continue:") == 1


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
    last = step_of(out)
    more = command(tetrominoes, out, "--devices", "2", "--steps", str(last + 2), "--resume")
    assert [status for status, _ in finish(start_pair(more))] == [0, 0]
    assert step_of(out) == last + 2


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
    assert step_of(here) == 2
    assert (here / "metrics.jsonl").read_text() == (kept / "metrics.jsonl").read_text()
    assert not there.exists()
