"""How runs share a machine, and what becomes of commands that fail: with a stand-in for `pyro-sri`."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyro_sri.presets import find_preset
from pyro_sri.study import local
from pyro_sri.study.local import Place, alone, find_places, run_jobs
from pyro_sri.study.plan import Job, Stage, State, make_plan
from pyro_sri.study.specification import read_study
from pyro_sri.system.children import start_child
from pyro_sri.system.files import is_locked

STUDY = """
title: A study
data: {file: nowhere.h5}
seeds: [0, 1, 2]
rows:
  sri: {preset: sri-quick}
"""
HOLD = "import fcntl, sys, time\nfile = open(sys.argv[1], 'wb')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint(flush=True)\n"


class Notes:
    """What a watcher is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.states: dict[int, State] = {}

    def started(self, job: Job, stage: Stage) -> None:
        self.lines.append(("started", job.name))

    def waiting(self, job: Job) -> None:
        self.lines.append(("waiting", job.name))

    def advanced(self, job: Job, step: int) -> None:
        pass

    def ended(self, job: Job, state: State) -> None:
        self.lines.append(("ended", job.name))
        self.states[job.seed] = state


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    (tmp_path / "study.yaml").write_text(STUDY)
    return list(make_plan(read_study(tmp_path / "study.yaml"), tmp_path / "out").jobs)


def command(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Puts a Python program in the place of `pyro-sri`; its arguments follow."""
    monkeypatch.setattr(local, "COMMAND", (sys.executable, "-c", code))


def test_places_on_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: [0, 1, 2, 3, 6])
    monkeypatch.setattr(local, "visible_gpus", list)
    quick, large = (find_preset(name).config for name in ("sri-quick", "sri-g-shapestacks"))
    assert find_places([quick], None) == [Place((core,), None) for core in (0, 1, 2, 3, 6)]
    assert find_places([quick, large], None) == [Place((0, 1, 2, 3, 6), None)]
    assert find_places([quick], 2) == [Place((0, 1), None), Place((2, 3, 6), None)]
    assert len(find_places([quick], 7)) == 7
    assert all(len(place.cores) == 1 for place in find_places([quick], 7))


def test_places_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(local, "visible_gpus", lambda: ["4", "7"])
    config = find_preset("sri-g-shapestacks").config
    assert find_places([config], None) == [Place((0, 1), "4"), Place((2, 3), "7")]
    assert [place.gpu for place in find_places([config], 3)] == ["4", "7", "4"]
    two = find_preset("sri-g-shapestacks").config
    two = type(two)(**{**vars(two), "devices": 2})
    assert [place.gpu for place in find_places([two], None)] == ["4,7"]
    on_cpu = type(two)(**{**vars(config), "device": "cpu"})
    assert find_places([on_cpu], None) == [Place((0, 1, 2, 3), None)]


def test_failures_are_told_and_others_go_on(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os, signal, sys
seed = sys.argv[sys.argv.index("--out") + 1][-1]
if seed == "0":
    print("some words"); print("pyro-sri: training diverged before step 3", file=sys.stderr); sys.exit(2)
if seed == "1":
    os.kill(os.getpid(), signal.SIGKILL)
raise RuntimeError("a fault\\nof ours")
"""
    command(monkeypatch, code)
    notes = Notes()
    assert run_jobs(jobs, [Place((), None), Place((), None)], notes)
    assert notes.states[0].name == "diverged"
    assert notes.states[0].reason == "train: training diverged before step 3"
    assert notes.states[1] == State("failed", 0, "train: killed by signal SIGKILL")
    assert notes.states[2] == State("failed", 0, "train: RuntimeError: a fault")
    assert "some words" in jobs[0].log.read_text()
    again = Notes()
    run_jobs(jobs, [Place((), None)], again)  # the one that diverged is left alone
    assert ("started", "sri seed 0") not in again.lines
    assert ("started", "sri seed 1") in again.lines


def test_a_child_has_its_cores_threads_and_gpu(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'], os.sched_getaffinity(0))"
    )
    command(monkeypatch, code)
    core = min(os.sched_getaffinity(0))
    local.carry_out(jobs[0], Place((core,), "5"), "train").process.wait()
    assert jobs[0].log.read_text().splitlines()[-1] == f"1 5 {{{core}}}"


def test_a_run_that_another_process_has_waits_for_it(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "raise SystemExit(1)")
    lock = jobs[0].path / ".lock"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", f"{HOLD}time.sleep(2)", lock], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert is_locked(lock)
    assert jobs[0].state().name == "running"
    notes = Notes()
    run_jobs(jobs[:2], [Place((), None)], notes)
    holder.communicate()
    assert notes.lines[:2] == [("waiting", "sri seed 0"), ("started", "sri seed 1")]
    assert notes.lines[-2:] == [("started", "sri seed 0"), ("ended", "sri seed 0")]


def test_one_study_at_a_time(tmp_path: Path) -> None:
    """The second waits, and is told once for whom."""
    lock = tmp_path / local.LOCK
    holder = subprocess.Popen([sys.executable, "-c", f"{HOLD}time.sleep(60)", lock], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    awaited: list[int | None] = []

    def told(process: int | None) -> None:
        awaited.append(process)
        threading.Timer(0.5, holder.kill).start()  # more than one look later

    with alone(tmp_path, told):
        holder.communicate()
        assert lock.exists()
    assert awaited == [holder.pid]
    assert not lock.exists()
    with alone(tmp_path, told):
        pass
    assert len(awaited) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent has ended")
def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pyro_sri.system.children import start_child
with open({str(tmp_path / "log")!r}, "wb") as log:
    child = start_child([sys.executable, "-c", "import time; time.sleep(60)"], log, {{}})
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    child = int(done.stdout)
    deadline = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def test_a_signal_ends_the_children(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first asks them to end, and nothing new is started."""
    command(monkeypatch, f"import os, time; os.kill({os.getpid()}, 15); time.sleep(60)")
    notes = Notes()
    before = signal.getsignal(signal.SIGTERM)
    assert not run_jobs(jobs, [Place((), None)], notes)
    assert notes.lines == [("started", "sri seed 0")]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_that_closes_lets_the_runs_end(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends SIGHUP more than once; only a second one of the user's ends them at once."""
    code = f"""
import os, signal, sys, time
def end(*_):
    os.kill({os.getpid()}, signal.SIGHUP); time.sleep(0.5); sys.exit(0)
signal.signal(signal.SIGTERM, end); os.kill({os.getpid()}, signal.SIGHUP); time.sleep(60)
"""
    command(monkeypatch, code)
    assert not run_jobs(jobs, [Place((), None)], Notes())


def test_variables_can_be_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    with (tmp_path / "log").open("wb") as log:
        code = "import os; print('SLURM_NTASKS' in os.environ)"
        start_child([sys.executable, "-c", code], log, {"SLURM_NTASKS": None}).wait()
    assert (tmp_path / "log").read_text() == "False\n"
