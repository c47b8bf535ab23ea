"""Two processes on one batch: they learn what one learns, stop and resume together, and fail together."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_sri import checkpoints, runs
from pyro_sri.training.loop import train
from pyro_sri.training.step import TrainingStep, new_optimizer
from support.global_draws import double_precision, global_draws
from support.launching import finish, start_pair
from support.worker import RUNS, STOP, long, stop_at, train_comparable

WORKER = ("-m", "support.worker")
TOLERANCE = 1e-5
FAST = ["sri", "sri-phases"]


def log(run: Path) -> list[dict[str, Any]]:
    """The log without its timings."""
    lines = runs.read_log(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def difference(one: Tensor, other: Tensor) -> float:
    """Relative to the length of the first."""
    assert one.shape == other.shape
    return ((one.double() - other.double()).norm() / one.double().norm().clamp(min=1e-300)).item()


def last_checkpoints(*paths: Path) -> list[dict[str, Any]]:
    return [checkpoints.load_checkpoint(path / "checkpoints" / "last.pt") for path in paths]


def learning(run: Path) -> list[str]:
    """The parameters whose gradients are more than rounding, in the order of the optimiser's.

    Some have none in exact arithmetic: biases in front of a normalisation. Adam, whose step does not know the size of a
    gradient, moves them by the sign of their rounding errors.
    """
    (checkpoint,) = last_checkpoints(run)
    config = runs.open_run(run).config
    module = TrainingStep(*config.build())
    names_of = {parameter: name for name, parameter in module.named_parameters()}
    groups = new_optimizer(module, config).param_groups
    names = [names_of[parameter] for group in groups for parameter in group["params"]]
    sizes = {names[i]: state["exp_avg"].abs().max() for i, state in checkpoint["optimizer"]["state"].items()}
    rounding = 100 * torch.finfo(checkpoint["objective"][names[0]].dtype).eps
    return [name for name, size in sizes.items() if size > rounding * max(sizes.values())]


def differences(one: Path, other: Path) -> dict[str, float]:
    """How far two runs are apart: every logged loss, each controller, all parameters, both moments of Adam."""
    first, second = last_checkpoints(one, other)
    assert first["step"] == second["step"]
    losses = [np.array([line["loss"] for line in log(path) if "loss" in line]) for path in (one, other)]
    found = {"loss": np.abs(losses[1] / losses[0] - 1).max()}
    for name in first["objective"]:
        if name.startswith("elbo."):
            found[name] = difference(first["objective"][name], second["objective"][name])
    names = learning(one)
    found["parameters"] = difference(*(flat(c["objective"][name] for name in names) for c in (first, second)))
    for moment in ("exp_avg", "exp_avg_sq"):
        states = [checkpoint["optimizer"]["state"] for checkpoint in (first, second)]
        assert states[0].keys() == states[1].keys()
        found[moment] = difference(*(flat(s[moment] for s in some.values() if moment in s) for some in states))
    return found


def differences_by_tensor(one: Path, other: Path) -> dict[str, float]:
    """The same for each parameter tensor on its own, relative to its largest entry or to Adam's step."""
    first, second = (checkpoint["objective"] for checkpoint in last_checkpoints(one, other))
    step = runs.open_run(one).config.learning_rate
    return {
        name: ((first[name] - second[name]).abs().max() / first[name].abs().max().clamp(min=step)).item()
        for name in learning(one)
    }


def assert_bit_for_bit(one: Path, other: Path) -> None:
    """The log's means, which are sums of other parts in float64, to the rounding of a sum."""
    first, second = last_checkpoints(one, other)
    assert first["step"] == second["step"]
    assert first["best"] == second["best"]
    assert first["objective"].keys() == second["objective"].keys()
    for name, tensor in first["objective"].items():
        assert torch.equal(tensor, second["objective"][name]), name
    for i, state in first["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, second["optimizer"]["state"][i][name])
    for line, expected in zip(log(one), log(other), strict=True):
        assert line == pytest.approx(expected, rel=1e-12)


def assert_close(found: dict[str, float]) -> None:
    worst = max(found, key=found.__getitem__)
    assert found[worst] < TOLERANCE, f"{worst}: {found[worst]}"


def assert_same(name: str, one: Path, two: Path) -> None:
    """To rounding, which in float32 is too coarse for the smallest tensors."""
    assert_close(differences(one / name, two / name))
    if "float32" not in name:
        assert_close(differences_by_tensor(one / name, two / name))


@pytest.fixture(scope="module")
def folders(tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process (this one) and what two processes trained."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    with global_draws(), double_precision():
        train(long(tetrominoes), one / "whole")
    with global_draws(before_step=stop_at(STOP)), double_precision():
        train(long(tetrominoes), one / "stopped")
    shutil.copytree(one / "stopped", two / "from-one")
    pair = start_pair([*WORKER, str(tetrominoes), str(two), "stops", "diverges", *FAST])
    for name in FAST:
        train_comparable(name, tetrominoes, one)
    for status, errors in finish(pair):
        assert status == 0, "\n".join(errors)
    return one, two


@pytest.fixture(scope="module")
def slow_folders(tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same for the systems that the fast tests leave out."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    names = [name for name in RUNS if name not in FAST]
    pair = start_pair([*WORKER, str(tetrominoes), str(two), *names])
    for name in names:
        train_comparable(name, tetrominoes, one)
    for status, errors in finish(pair):
        assert status == 0, "\n".join(errors)
    return one, two


@pytest.mark.parametrize("name", FAST)
def test_two_processes_learn_what_one_does(name: str, folders: tuple[Path, Path]) -> None:
    one, two = folders
    lines = [line for line in log(one / name) if "loss" in line]
    assert len(lines) == 6
    assert lines[0]["beta"] != lines[-1]["beta"] or "phases" in name  # GECO moves, or its state would not matter
    assert_same(name, one, two)


def test_the_phases_differ(folders: tuple[Path, Path]) -> None:
    lines = [line for line in log(folders[1] / "sri-phases") if "loss" in line]
    assert ["nll" in line for line in lines] == [False, False, True, True, False, False]
    assert ["segregation_nll" in line for line in lines] == [True] * 4 + [False] * 2


def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(
    tetrominoes: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    _, two = folders
    assert last_checkpoints(two / "stopped")[0]["step"] == STOP
    assert [line["step"] for line in log(two / "stopped")] == [4]
    assert list(log(two / "whole")[0]) == list(log(two / "stopped")[0])


def test_resumed_by_as_many_bit_for_bit(folders: tuple[Path, Path]) -> None:
    assert_bit_for_bit(folders[1] / "whole", folders[1] / "resumed")


def test_resumed_by_fewer_and_by_more(tetrominoes: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Same draws, same batches, same optimiser, same controllers, and log lines that span the change."""
    one, two = folders
    shutil.copytree(two / "stopped", tmp_path / "from-two")
    with global_draws(), double_precision():
        train(long(tetrominoes), tmp_path / "from-two", resume=True)
    for resumed in (tmp_path / "from-two", two / "from-one"):
        assert_close(differences(one / "whole", resumed))
        assert [line["step"] for line in log(resumed)] == [4, 8, 9, 9]
        for line, expected in zip(log(resumed), log(one / "whole"), strict=True):
            assert line == pytest.approx(expected, rel=TOLERANCE)


def test_one_process_writes(folders: tuple[Path, Path]) -> None:
    """Nothing is written twice, and nothing but the run is left."""
    run = folders[1] / "whole"
    found = {
        str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts
    }
    assert found == {"config.yaml", "metrics.jsonl", "checkpoints/best.pt", "checkpoints/last.pt"}
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert runs.open_run(run).config.devices == 2


@pytest.mark.parametrize("step", [0, 4])
def test_both_say_that_it_diverged(step: int, folders: tuple[Path, Path]) -> None:
    """Only the last process drew what is not finite; also while a single process would check every distribution."""
    messages = [(folders[1] / f"diverged-{step}-{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "not finite" in messages[0]
    last = folders[1] / f"diverged-{step}" / "checkpoints" / "last.pt"
    assert last.exists() == (step > 3)
    if last.exists():
        assert all(torch.isfinite(t).all() for t in checkpoints.load_checkpoint(last)["objective"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name not in FAST])
def test_every_system_learns_the_same(name: str, slow_folders: tuple[Path, Path]) -> None:
    """GENESIS too, if one process gives its batch normalisations the shares of two."""
    assert_same(name, *slow_folders)
