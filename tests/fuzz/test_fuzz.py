"""Damaged files of every kind are read as they were, or refused in one plain line.

What "as they were" means is in the docstring of each kind's `agree`: everything where the format has checksums, else
shapes, types and ranges.
"""

import math
import os
import resource
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.fuzz.kinds import KINDS
from support.fuzz.outcomes import FAILED, OUTPUT, READ, REFUSED
from support.fuzz.tables import chosen
from support.fuzz.workers import Worker, damaged_copy

SEED = 2024
LONG = 110  # drawn cases of each kind
FEW = 2  # mutations in the fast suite, of the kinds of files below, which have many or slow ones
DEAR = ("dataset structure", "EfficientMORL structure", "TFRecords structure", "configuration", "checkpoint")
DEAR += ("checkpoint values", "weight values", "metrics", "log")
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


class Case(NamedTuple):
    """A damaged file: its kind, its number, and what is done to it."""

    kind: str
    number: int
    mutation: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.mutation}, seed {SEED}, case {self.number}"


def every_mutation() -> Iterator[Any]:
    """Every mutation of every kind; all but a few of the kinds for which that takes long are slow tests."""
    for kind in KINDS:
        mutations = KINDS[kind].mutations
        for number, mutation in enumerate(mutations):
            slow = [pytest.mark.slow] if kind in DEAR and number % math.ceil(len(mutations) / FEW) else []
            yield pytest.param(Case(kind, 0, mutation), id=f"{kind}: {mutation}", marks=slow)


def drawn(kind: str, number: int) -> Case:
    return Case(kind, number, chosen(KINDS[kind].mutations, [SEED, number]))


def result_of(case: Case, worker: Worker) -> tuple[str, str]:
    """How a case ended, and what is wrong with that."""
    result, message = worker.judge(case.kind, SEED, case.number, case.mutation)
    return result, f"{case}: {message}" if result == FAILED else ""


def run_command(case: Case, command: str, folder: Path) -> tuple[str, str]:
    """How a command on a damaged file ended, and what is wrong with that."""
    place = damaged_copy(KINDS[case.kind], [SEED, case.number], folder / case.kind, case.mutation)
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
    told = f"{case}: pyro-sri {' '.join(words)}: status {done.returncode}: {errors[-12:]}"
    if any("Traceback" in line or "Warning" in line or not line.isprintable() for line in errors):
        return FAILED, told
    if done.returncode == 0:
        return READ, ""
    made = place / OUTPUT
    half_written = made.exists() and any(made.iterdir()) and "train" not in words[0]
    plain = done.returncode == 2 and errors and errors[-1].startswith("pyro-sri: ") and not half_written
    return (REFUSED, "") if plain else (FAILED, told)


def table(names: Sequence[str], results: Sequence[str]) -> str:
    """How many cases ended how: a row for each name, and their sums."""
    counts = {name: Counter[str]() for name in (*names, "all")}
    for name, result in zip(names, results, strict=True):
        counts[name][result] += 1
        counts["all"][result] += 1
    lines = [f"{'damaged':<70}{'cases':>8}{'read':>8}{'refused':>9}{'failed':>8}"]
    for name, ended in counts.items():
        lines.append(f"{name:<70}{ended.total():>8}{ended[READ]:>8}{ended[REFUSED]:>9}{ended[FAILED]:>8}")
    return "\n".join(lines)


def told(complaints: Iterable[str]) -> str:
    return "\n\n".join(complaint[:300] + " ... " + complaint[-1500:] for complaint in complaints if complaint)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("damaged")) as worker:
        yield worker


def test_damage_is_refused_or_mended(worker: Worker) -> None:
    for kind, result in (("dataset", REFUSED), ("pieces kept", READ)):
        assert result_of(Case(kind, 0, "bytes: emptied"), worker) == (result, "")


@pytest.mark.parametrize("case", list(every_mutation()))
def test_every_mutation(case: Case, worker: Worker) -> None:
    """To try some alone: `python -m pytest tests/fuzz -k "moments and sparse"`."""
    _, complaint = result_of(case, worker)
    assert not complaint


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("dataset", "data check scenes.h5"),
        pytest.param("TFRecords", "data convert gzip.tfrecords --out {out}.h5", marks=pytest.mark.slow),
        ("checkpoint", "sample run --num 1 --out {out}.png"),
        pytest.param("weights", IMPORT.replace("{file}", "zip.pth"), marks=pytest.mark.slow),
    ],
)
def test_damaged_files_through_the_command(kind: str, command: str, tmp_path: Path) -> None:
    result, complaint = run_command(drawn(kind, 0), command, tmp_path)
    assert result != FAILED, complaint


@pytest.mark.slow
def test_many_damaged_files(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [drawn(kind, number) for kind in KINDS for number in range(1, LONG + 1)]
    results, complaints = zip(*(result_of(case, worker) for case in cases), strict=True)
    with capsys.disabled():
        for names in ([f"{case.kind}: {case.mutation}" for case in cases], [case.kind for case in cases]):
            print(f"\nin process, seed {SEED}\n{table(names, results)}")
    assert {READ, REFUSED} <= set(results)
    assert len(cases) >= 2000
    assert not any(complaints), told(complaints)


@pytest.mark.slow
def test_many_damaged_files_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds, commands = zip(*(ALL_COMMANDS[number % len(ALL_COMMANDS)] for number in range(100)), strict=True)
    cases = [drawn(kind, number) for number, kind in enumerate(kinds)]
    ended = [run_command(case, command, tmp_path) for case, command in zip(cases, commands, strict=True)]
    results, complaints = zip(*ended, strict=True)
    with capsys.disabled():
        print(f"\nthrough the command, seed {SEED}\n{table(kinds, results)}")
    assert not any(complaints), told(complaints)
