"""Damaged files of every kind are read as they were, or refused in one plain line.

What "as they were" means is in the docstring of each kind's `agree`: everything where the format has checksums, else
shapes, types and ranges.
"""

import os
import resource
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from support.fuzz.kinds import KINDS
from support.fuzz.outcomes import FAILED, OUTPUT, READ, REFUSED
from support.fuzz.workers import Worker, damaged_copy

SEED = 2024
SHORT, LONG = 8, 110  # cases of each kind
SECONDS = 900  # for a command
COMMAND_BYTES = 12 * 1024**3  # of address space; torch alone has several GiB on some machines

# What users do with a kind of file; {out} is a name for what is made.
DATASET_COMMANDS = ("data info scenes.h5", "data check scenes.h5", "data preview scenes.h5 --num 4 --out {out}.png")
TRAIN = "train sri-quick --tiny --steps 1 --data scenes.h5 --out {out}"
RUN_COMMANDS = (
    "sample run --num 1 --out {out}.png",
    "evaluate run --num-images 2 --num-samples 0 --iwae-images 0",
    "train sri-quick --out run --resume --steps 4",
    "report run --out {out}.html",
)
IMPORT = "import-weights {file} --out {out} --image-size 32 --num-slots 5"
COMMANDS: dict[str, tuple[str, ...]] = {
    "dataset": (*DATASET_COMMANDS, TRAIN),
    "dataset without checksums": DATASET_COMMANDS,
    "dataset structure": DATASET_COMMANDS,
    "EfficientMORL": ("data convert scenes.h5 --out {out}.h5",),
    "EfficientMORL structure": ("data convert scenes.h5 --out {out}.h5",),
    "TFRecords": tuple(f"data convert {n}.tfrecords --val 1 --test 1 --out {{out}}.h5" for n in ("none", "gzip")),
    "TFRecords structure": ("data convert none.tfrecords --val 1 --test 1 --out {out}.h5",),
    "MNIST": ("data convert . --format mnist --train 4 --val 2 --test 2 --out {out}.h5",),
    "pictures": ("data convert pictures --val 0 --test 0 --out {out}.h5",),
    "ShapeStacks": ("data convert . --format shapestacks --out {out}.h5",),
    "configuration": RUN_COMMANDS,
    "checkpoint": RUN_COMMANDS,
    "checkpoint values": RUN_COMMANDS,
    "weights": (IMPORT.replace("{file}", "zip.pth"),),
    "weights before PyTorch 1.6": (IMPORT.replace("{file}", "legacy.pth"),),
    "weight values": (IMPORT.replace("{file}", "zip.pth"),),
    "metrics": ("report run --out {out}.html",),
    "log": ("report run --out {out}.html", "train sri-quick --out run --resume --steps 4"),
}
ALL_COMMANDS = [(kind, command) for kind, commands in COMMANDS.items() for command in commands]


def run_cases(folder: Path, cases: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """So many cases of each kind: how they ended, and what the failures say."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    failures = []
    with Worker(folder) as worker:
        for kind, ended in counts.items():
            for case in range(cases):
                outcome = worker.judge(kind, SEED, case)
                ended[outcome.result] += 1
                if outcome.result == FAILED:
                    failures.append(f"{kind}, seed {SEED}, case {case}: {outcome.message}")
    return counts, failures


def run_command(kind: str, command: str, case: int, folder: Path) -> tuple[str, str]:
    """How a command on a damaged file ended, and what is wrong with that."""
    place = damaged_copy(KINDS[kind], [SEED, case], folder / kind)
    out = f"{OUTPUT}/made"
    words = shlex.split(command.format(out=out))
    done = subprocess.run(
        [sys.executable, "-m", "pyro_sri", *words],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYRO_SRI_CACHE": str(place / "cache")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (COMMAND_BYTES, COMMAND_BYTES)),
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    errors = done.stderr.decode(errors="replace").splitlines()
    told = f"{kind}, seed {SEED}, case {case}: pyro-sri {' '.join(words)}: status {done.returncode}: {errors[-12:]}"
    if any("Traceback" in line or "Warning" in line or not line.isprintable() for line in errors):
        return FAILED, told
    if done.returncode == 0:
        return READ, ""
    made = place / OUTPUT
    half_written = made.exists() and any(made.iterdir()) and "train" not in words[0]
    plain = done.returncode == 2 and errors and errors[-1].startswith("pyro-sri: ") and not half_written
    return (REFUSED, "") if plain else (FAILED, told)


def table(counts: Mapping[str, Counter[str]]) -> str:
    """The counts, a row for each kind, and their sums."""
    rows = [(kind, ended.total(), ended[READ], ended[REFUSED], ended[FAILED]) for kind, ended in counts.items()]
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, 5))))  # type: ignore[arg-type]
    lines = [f"{'kind of file':<28}{'cases':>8}{'read':>8}{'refused':>9}{'failed':>8}"]
    return "\n".join([*lines, *(f"{row[0]:<28}{row[1]:>8}{row[2]:>8}{row[3]:>9}{row[4]:>8}" for row in rows)])


def told(failures: Iterable[str]) -> str:
    return "\n\n".join(failure[:300] + " ... " + failure[-1500:] for failure in failures)


def test_damaged_files(tmp_path: Path) -> None:
    counts, failures = run_cases(tmp_path, SHORT)
    assert not failures, f"{table(counts)}\n{told(failures)}"
    assert sum(ended[READ] for ended in counts.values())
    assert sum(ended[REFUSED] for ended in counts.values())


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("dataset", "data check scenes.h5"),
        ("TFRecords", "data convert gzip.tfrecords --out {out}.h5"),
        ("checkpoint", "sample run --num 1 --out {out}.png"),
        ("weights", IMPORT.replace("{file}", "zip.pth")),
    ],
)
def test_damaged_files_through_the_command(kind: str, command: str, tmp_path: Path) -> None:
    result, complaint = run_command(kind, command, 0, tmp_path)
    assert result != FAILED, complaint


@pytest.mark.slow
def test_many_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts, failures = run_cases(tmp_path, LONG)
    with capsys.disabled():
        print(f"\nin process, seed {SEED}\n{table(counts)}")
    assert sum(ended.total() for ended in counts.values()) >= 2000
    assert not failures, told(failures)


@pytest.mark.slow
def test_many_damaged_files_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in COMMANDS}
    failures = []
    for case in range(100):
        kind, command = ALL_COMMANDS[case % len(ALL_COMMANDS)]
        result, complaint = run_command(kind, command, case, tmp_path)
        counts[kind][result] += 1
        failures += [complaint] if complaint else []
    with capsys.disabled():
        print(f"\nthrough the command, seed {SEED}\n{table(counts)}")
    assert not failures, told(failures)
