"""Checkpoints: a run's weights and optimiser state, read as untrusted files."""

import copy
import math
from pathlib import Path
from typing import Any

import torch

from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically
from pyro_sri.system.torch_files import fits, is_finite, is_plain, load_torch_file

Checkpoint = dict[str, Any]

LARGEST_NUMBER = 1e38  # about the largest float32: training and evaluation write no larger number


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically. `torch.load(weights_only=True)` can read it on any machine.

    Tensors are saved as CPU tensors.
    """
    on_host = _on_host(checkpoint)
    write_atomically(path, lambda file: torch.save(on_host, file))


def _on_host(value: Any) -> Any:
    """The same value with its tensors on the CPU. Containers keep their types and attributes."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if not isinstance(value, dict | list):
        return value
    moved = copy.copy(value)
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        moved[key] = _on_host(item)
    return moved


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint without running code from it, and verifies its checksums.

    Raises:
        UserError: If it is missing, damaged, not a checkpoint of a run, or contains values that are not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: was the run stopped before its first checkpoint?")
    try:
        checkpoint = load_torch_file(path)
    except Exception as error:  # a damaged file can fail in many ways
        raise UserError(f"{path} is not a readable checkpoint: it is damaged or was not written by train") from error
    if not isinstance(checkpoint, dict) or not {"step", "objective"} <= checkpoint.keys():
        raise UserError(f"{path} is not a checkpoint of a run: it has no step or no weights")
    step, best, totals = checkpoint["step"], checkpoint.get("best", 0.0), checkpoint.get("totals", {})
    if not is_count(step) or not is_number(best) or best != best or not isinstance(totals, dict):  # NaN != NaN
        raise UserError(f"{path} is not a checkpoint of a run: its step, best or totals are missing or wrong")
    groups = {"weights": checkpoint["objective"], "totals": totals, "averaged weights": checkpoint.get("averaged", {})}
    for group, tensors in groups.items():
        if not isinstance(tensors, dict) or not all(map(is_plain, tensors.values())):
            raise UserError(f"{path} is not a checkpoint of a run: its {group} are not tensors")
        if not all(map(is_finite, tensors.values())):
            raise UserError(f"{path} contains {group} that are not finite: use another checkpoint")
    if any(not isinstance(name, str) or total.shape != (2,) for name, total in totals.items()):
        raise UserError(f"{path} is not a checkpoint of a run: its step, best or totals are missing or wrong")
    return checkpoint


def evaluated_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights for evaluation, samples and new runs: the averaged ones if the run has them."""
    weights: dict[str, torch.Tensor] = checkpoint["averaged" if "averaged" in checkpoint else "objective"]
    return weights


def is_count(value: object) -> bool:
    """Whether this is a whole number of at least 0, of ordinary size."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_NUMBER


def is_number(value: object) -> bool:
    """Whether this is a number of ordinary size, which can be plotted and averaged, or is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def fill(module: torch.nn.Module, weights: Any, path: Path) -> None:
    """Loads weights into a module, all or none.

    Raises:
        UserError: If they do not fit.
    """
    check_fits(module, weights, path)
    module.load_state_dict(weights)


def check_fits(module: torch.nn.Module, weights: Any, path: Path) -> None:
    """Raises UserError unless weights have the names, shapes and types of the module's own.

    Tensors that are one in the module, under several names, must be equal.
    """
    ours = module.state_dict()
    try:
        fit = weights.keys() == ours.keys() and all(fits(weights[name], tensor) for name, tensor in ours.items())
    except (RuntimeError, TypeError, AttributeError, KeyError, ValueError):
        fit = False
    if not fit:
        raise UserError(
            f"{path} does not fit the run's config.yaml: its weights belong to other networks, or a field was edited"
        )
    first: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        shared = first.setdefault(id(tensor), name)
        if shared != name and not torch.equal(weights[shared], weights[name]):
            raise UserError(
                f"{path} does not fit: its weights have two networks, {shared} and {name}, where this run has one that "
                "is shared; leave --share-decoder out"
            )
