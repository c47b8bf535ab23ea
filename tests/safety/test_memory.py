"""Too little memory ends a command with one plain line that says what to do; absurd sizes are refused before that."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_sri.system.errors import UserError, is_out_of_memory
from support import small_world
from support.forking import run_command
from support.small_world import DATA, FIELDS, RUN, WEIGHTS, contents

LITTLE = ("--num-images", "2", "--num-samples", "0", "--iwae-images", "0")
TRAIN = ("train", "sri-g-shapestacks", "--data", DATA, *FIELDS.split(), "--checkpoint-every", "1", "--out", "new")
IMPORT = ("import-weights", WEIGHTS, "--image-size", "32", "--num-slots", "5", "--out", "new")
MAKE = (
    "data",
    "make",
    "tetrominoes",
    "--train",
    "300",
    "--val",
    "0",
    "--test",
    "0",
    "--workers",
    "1",
    "--out",
    "new.h5",
)
# For every command: where it is when memory runs out, and what helps.
COMMANDS = {
    "train": (
        (*TRAIN, "--steps", "1"),
        "pyro_sri.training.step:Stepper._work",
        ("--batch-size", "--recompute-decoder"),
    ),
    "evaluate": (("evaluate", RUN, *LITTLE), "pyro_sri.evaluation.evaluate:explain", ("--batch-size", "--num-samples")),
    "sample": (("sample", RUN, "--num", "2"), "pyro_sri.scripts.sample:draw_scenes", ("--num", "--slots")),
    "visualize": (("visualize", RUN, "--out", "new"), "pyro_sri.report.gallery:explain", ("--num",)),
    "report": (("report", RUN), "pyro_sri.report.gallery:explain", ("fewer runs",)),
    "bench": (
        ("bench", "sri-quick", "--batch", "2", "--device", "cpu"),
        "pyro_sri.training.step:Stepper._work",
        ("--batch",),
    ),
    "data make": (MAKE, "pyro_sri.data.making:draw", ("--workers",)),
    "import-weights": (IMPORT, "pyro_sri.scripts.official_runs:load_sri", ()),
}
ERRORS = {
    "Python": ("error", "builtins:MemoryError", ""),
    "a GPU": (
        "error",
        "torch:OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 8 MiB free.",
    ),
    "the CPU": (
        *("error", "builtins:RuntimeError"),
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)",
    ),
    "cuBLAS": (
        "error",
        "builtins:RuntimeError",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_world.add_weights(tmp_path)
    return small_world.settle(tmp_path)


@pytest.mark.parametrize(
    ("name", "error"), [(name, "the CPU") for name in COMMANDS] + [("sample", error) for error in ERRORS]
)
def test_it_says_what_to_do(folder: Path, name: str, error: str) -> None:
    words, place, advice = COMMANDS[name]
    outcome = run_command(*words, cwd=folder, instead={place: ERRORS[error]})
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    line = outcome.err.splitlines()[-1]
    assert line.startswith("pyro-sri: there is not enough memory: ")
    for word in advice:
        assert word in line
    assert name == "train" or len(outcome.err.splitlines()) == 1
    assert not [path for path in contents(folder) if "unfinished" in path or "tmp" in path]


@pytest.mark.parametrize("name", COMMANDS)
def test_four_megabytes_are_too_few(folder: Path, name: str) -> None:
    """For real: the kernel gives no more."""
    before = contents(folder)
    run_command(*COMMANDS[name][0], cwd=folder, memory_bytes=4 * 2**20).refused("not enough memory")
    assert contents(folder).keys() - before.keys() <= {"new/config.yaml"}  # of a run that can be resumed


def test_what_was_trained_is_kept_and_goes_on_with_less(folder: Path) -> None:
    assert run_command(*TRAIN, "--steps", "2", cwd=folder).status == 0
    before = (folder / "new" / "checkpoints" / "last.pt").read_bytes()
    failing = {"pyro_sri.training.step:Stepper._work": ERRORS["a GPU"]}
    assert run_command(*TRAIN, "--steps", "3", "--resume", cwd=folder, instead=failing).status == 2
    assert (folder / "new" / "checkpoints" / "last.pt").read_bytes() == before
    outcome = run_command(*TRAIN, "--steps", "3", "--resume", "--recompute-decoder", cwd=folder)
    assert outcome.status == 0, outcome.err
    assert "trained to step 3" in outcome.err


def test_what_says_that_memory_ran_out() -> None:
    with pytest.raises(MemoryError) as numpy:
        np.empty(10**18)
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(10**17)
    with pytest.raises(RuntimeError) as overflow:
        torch.empty(2**62, 2)
    assert all(is_out_of_memory(caught.value) for caught in (numpy, cpu, overflow))
    wrapped = UserError("the file is damaged")
    wrapped.__context__ = numpy.value  # raised while handling the other
    assert is_out_of_memory(wrapped)
    others = RuntimeError("size mismatch"), ValueError("out of memory"), UserError("a wrong file"), OSError(28, "full")
    assert not any(map(is_out_of_memory, others))


HUGE = str(10**12)
GREATER = str(10**30)
GIGANTIC = "9" * 3000
LIMITS = {"memory_bytes": 4 * 2**30}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*TRAIN, "--batch-size", HUGE), "--batch-size"),
        ((*TRAIN, "--batch-size", GREATER), "--batch-size"),
        ((*TRAIN, "--num-slots", "1000000000"), "num"),
        ((*TRAIN, "--slot-size", HUGE), "--slot-size"),
        ((*TRAIN, "--scene-size", HUGE), "scene"),
        ((*TRAIN, "--attention-layers", "1000000000"), "attention"),
        ((*TRAIN, "--image-size", HUGE), "--image-size"),
        ((*TRAIN, "--image-size", GREATER), "--image-size"),
        ((*TRAIN, "--steps", GREATER), "steps"),
        ((*TRAIN, "--steps", GIGANTIC), "steps"),
        ((*TRAIN, "--num-workers", "1000000000"), "workers"),
        ((*TRAIN, "--devices", "1000000000", "--batch-size", "1000000000"), "devices"),
        ((*TRAIN, "--nodes", "1000000000", "--batch-size", "1000000000"), "nodes"),
        ((*TRAIN, "--seed", GREATER), "--seed"),
        ((*TRAIN, "--learning-rate", "nan"), "--learning-rate"),
        ((*TRAIN, "--learning-rate", "1e400"), "--learning-rate"),
        ((*TRAIN, "--pixel-std", "nan"), "--pixel-std"),
        ((*TRAIN, "--pixel-std", "1e-300"), "--pixel-std"),
        ((*TRAIN, "--gradient-clip", "inf"), "--gradient-clip"),
        ((*TRAIN, "--batch-size", "-4"), "--batch-size"),
        (("sample", RUN, "--num", HUGE), "more memory"),
        (("sample", RUN, "--num", HUGE, "--out", "new.npz"), "more memory"),
        (("sample", RUN, "--num", GIGANTIC), "more memory"),
        (("sample", RUN, "--slots", "1000000000"), "--slots"),
        (("sample", RUN, "--temperature", "nan"), "--temperature"),
        (("sample", RUN, "--temperature", "1e30"), "--temperature"),
        (("sample", RUN, "--seed", GREATER), "--seed"),
        (("sample", RUN, "--condition", f"{DATA}:{HUGE}"), DATA),
        (("sample", RUN, "--condition", f"{DATA}:0", "--keep-slots", GREATER), "--keep-slots"),
        (("sample", RUN, "--condition", f"{DATA}:0", "--keep-slots", f"{GIGANTIC}{GIGANTIC}"), "--keep-slots"),
        (("sample", RUN, "--condition", f"{DATA}:{GIGANTIC}{GIGANTIC}"), DATA),
        (("evaluate", RUN, "--num-samples", HUGE), "--num-samples"),
        (("evaluate", RUN, "--iwae-samples", HUGE), "--iwae-samples"),
        (("evaluate", RUN, "--num-images", "-1"), "--num-images"),
        (("evaluate", RUN, "--batch-size", "0"), "--batch-size"),
        (("visualize", RUN, "--num", HUGE, "--out", "new"), "--num"),
        (("visualize", RUN, "--num", "nan", "--out", "new"), "--num"),
        (("bench", "sri-quick", "--batch", HUGE), "batch"),
        (("data", "make", "tetrominoes", "--train", str(10**15), "--out", "new.h5"), "disk"),
        (("data", "make", "tetrominoes", "--train", GIGANTIC, "--out", "new.h5"), "disk"),
        (("data", "make", "tetrominoes", "--train", "-1", "--out", "new.h5"), "numbers must be 0 or more"),
        (("data", "make", "tetrominoes", "--size", HUGE, "--out", "new.h5"), "size"),
        (("data", "make", "tetrominoes", "--num-pieces", HUGE, "--out", "new.h5"), "num_pieces"),
        (("data", "make", "multi_dsprites", "--max-objects", HUGE, "--out", "new.h5"), "max_objects"),
        (("data", "make", "stacks", "--zoom", "nan", "--out", "new.h5"), "zoom"),
        (("data", "preview", DATA, "--num", "-1", "--out", "new.png"), "--num"),
        (("import-weights", WEIGHTS, "--image-size", HUGE, "--num-slots", "3", "--out", "new"), "image size"),
        (("import-weights", WEIGHTS, "--image-size", "32", "--num-slots", "1000000000", "--out", "new"), "slots"),
        ((*IMPORT, "--pixel-std", "nan"), "pixel standard deviation"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, tuple) else None,
)
def test_absurd_sizes_are_refused_at_once(folder: Path, words: tuple[str, ...], says: str) -> None:
    before = contents(folder)
    run_command(*words, cwd=folder, **LIMITS).refused(says)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        (
            "data",
            "make",
            "tetrominoes",
            "--train",
            "2",
            "--val",
            "0",
            "--test",
            "0",
            "--workers",
            HUGE,
            "--out",
            "new.h5",
        ),
        ("data", "preview", DATA, "--num", HUGE, "--out", "new.png"),
        ("evaluate", RUN, *LITTLE, "--batch-size", HUGE),
    ],
)
def test_more_than_there_is_means_all_there_is(folder: Path, words: tuple[str, ...]) -> None:
    outcome = run_command(*words, cwd=folder, **LIMITS)
    assert outcome.status == 0, outcome.err
