"""Studies on a cluster: what is submitted, by a stand-in for sbatch; what a job does, by submitit's local executor."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import submitit

from pyro_sri.scripts.main import run as run_command
from pyro_sri.study.cluster import ClusterRun, queue_state, submit_jobs, ticket
from pyro_sri.study.data import make_data, missing_data
from pyro_sri.study.plan import Plan, logged_step, make_plan
from pyro_sri.study.specification import read_study
from pyro_sri.system.errors import UserError
from support.killing import last_step

STUDY = """
title: A study for a cluster
data: {family: towers, size: 32, train: 8, val: 2, test: 2}
seeds: [0, 1]
rows:
  sri: {preset: sri-quick}
"""
PATIENCE = 120
SBATCH = """#!/bin/sh
echo "$@" >> {calls}
echo "Submitted batch job $(wc -l < {calls})"
"""


def write(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of a cluster on the PATH; the file that counts submissions."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    program(folder / "sbatch", SBATCH.format(calls=calls))
    program(folder / "srun", "#!/bin/sh\n")
    program(folder / "sacct", "#!/bin/sh\necho 'JobID|State|NodeList'\necho '1|RUNNING|a'\necho '2|PENDING|b'\n")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return calls


def test_a_job_for_every_run(tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["study", str(write(tmp_path)), "--out", str(out), "--tiny", "--launcher", "slurm"]
    run_command([*command, "--partition", "gpu", "--hours", "2.5", "--gpus", "3"])
    assert (out / "data" / "towers.h5").exists()
    scripts = list((out / "cluster").glob("[0-9]*_submission.sh"))
    assert len(slurm.read_text().splitlines()) == 2
    assert len(scripts) == 2
    text = scripts[0].read_text()
    for line in ("--partition=gpu", "--time=150", "--gpus-per-node=3", "--nodes=1", "--cpus-per-task=1"):
        assert re.search(rf"^#SBATCH {line}$", text, re.MULTILINE), line
    assert re.search(r"^#SBATCH --signal=USR2@120$", text, re.MULTILINE)
    said = capsys.readouterr().err
    assert "sri seed 0: job 1, running" in said
    assert "sri seed 1: job 2, pending" in said
    run_command(command)  # nothing is submitted twice
    assert len(slurm.read_text().splitlines()) == 2
    run_command([*command, "--status"])
    assert "job 2" in capsys.readouterr().out


def test_what_a_cluster_refuses_is_one_line(tmp_path: Path, slurm: Path) -> None:
    program(tmp_path / "bin" / "sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"does not take sri seed 0.*invalid partition") as error:
        run_command(["study", str(write(tmp_path)), "--out", str(tmp_path / "out"), "--tiny", "--launcher", "slurm"])
    assert "\n" not in str(error.value)


def test_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no SLURM"):
        run_command(["study", str(write(tmp_path)), "--out", str(tmp_path / "out"), "--tiny", "--launcher", "slurm"])


class Keeping(submitit.LocalExecutor):
    """Keeps its jobs, which would leave their processes to themselves."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.update_parameters(timeout_min=10)
        self.kept: list[Any] = []

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.kept.append(super().submit(*args, **kwargs))
        return self.kept[-1]


def plan_with_data(tmp_path: Path, text: str, tiny: bool) -> Plan:
    plan = make_plan(read_study(write(tmp_path, text)), tmp_path / "out", tiny)
    for name, path in missing_data(plan).items():
        make_data(plan.study.data[name], path, lambda what, done, total: None)
    return plan


@pytest.mark.slow
def test_a_job_trains_and_evaluates(tmp_path: Path) -> None:
    plan = plan_with_data(tmp_path, STUDY.replace("[0, 1]", "[0]"), tiny=True)
    executor = Keeping(tmp_path / "cluster")
    assert submit_jobs(plan.jobs, executor) == {"sri seed 0": executor.kept[0].job_id}
    assert executor.kept[0].result() in ("done", "collapsed")
    assert plan.jobs[0].metrics() is not None
    assert queue_state(plan.jobs[0], executor) == "FINISHED"
    assert submit_jobs(plan.jobs, executor) == {}
    assert ticket(plan.jobs[0]).exists()


@pytest.mark.slow
def test_a_job_whose_time_is_over_is_requeued_and_goes_on(tmp_path: Path) -> None:
    """The training ends with a checkpoint, from which the requeued job goes on to the end."""
    fields = "{num_slots: 2, batch_size: 2, steps: 300, log_every: 1}"
    text = STUDY.replace("[0, 1]", "[0]").replace("sri-quick", f"sri-quick, fields: {fields}")
    (job,) = plan_with_data(tmp_path, text, tiny=False).jobs
    executor = Keeping(tmp_path / "cluster")
    submitted = executor.submit(ClusterRun(job))
    deadline = time.monotonic() + PATIENCE
    while logged_step(job.path) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    controller = submitted._process.pid
    task = int(Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[0])
    os.kill(task, signal.SIGUSR2)  # as SLURM does, and the local controller does not
    assert submitted.result() in ("done", "collapsed")
    starts = [line for line in job.log.read_text().splitlines() if line.startswith("$ pyro-sri train")]
    assert len(starts) == 2
    stopped = re.search(r"stopped at step (\d+)", job.log.read_text())
    assert stopped is not None
    assert 2 <= int(stopped[1]) < 300
    assert last_step(job.path) == 300
