"""The optimisers of training: Adam, or Muon for the weights of convolutions."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from pyro_sri.system.errors import UserError
from pyro_sri.system.torch_files import fits, is_finite

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values between 0 and 1 near 1 in a few iterations (Jordan et al.)
ADAM_SIZE = 0.2  # root mean square of Adam's steps, in learning rates

SETTINGS = ("params", "betas", "eps", "weight_decay", "amsgrad", "maximize")  # kept by a resumed run
NOT_NEGATIVE = {"step", "exp_avg_sq"}  # entries of a parameter's state


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix [m, n], roughly: all singular values between 0.7 and 1.2."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    wide = wide / (torch.linalg.matrix_norm(wide) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if tall else wide


def _is_convolution(parameter: Tensor) -> bool:
    return parameter.ndim == 4


class Muon(Optimizer):
    """Adam, but the weights of convolutions move by their orthogonalised momentum (Jordan et al. 2024).

    A convolution's weights are treated as a matrix [first channels, all else]. All of its directions then learn at the
    same pace, even those with small gradients. Its steps are about as large as Adam's (Liu et al. 2025), so one
    learning rate works for both.

    Args:
        parameters: The parameters to optimise.
        lr: The learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        parameters = list(parameters)
        convolutions = [parameter for parameter in parameters if _is_convolution(parameter)]
        others = [parameter for parameter in parameters if not _is_convolution(parameter)]
        self.adam = Adam(others, lr=lr, fused=True)
        super().__init__([{"params": others}, {"params": convolutions}], self.adam.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Does one step. A closure, if there is one, is called first."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        others, convolutions = self.param_groups
        self.adam.param_groups, self.adam.state = [others], self.state  # loading a state replaces them
        self.adam.step()
        for weight in convolutions["params"]:
            if weight.grad is not None:
                self._move(weight, weight.grad, convolutions["lr"])
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, lr: float | Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["exp_avg"] = torch.zeros_like(weight)
        momentum = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalised(gradient.lerp(momentum, MOMENTUM).flatten(1))
        update *= ADAM_SIZE * max(update.shape) ** 0.5  # an orthogonal [m, n] has a root mean square of 1 / sqrt(max)
        weight.sub_(update.view_as(weight) * lr)


def kept_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The entries of a parameter's state: tensors of the right shapes and types, with any values."""
    if isinstance(optimizer, Muon) and _is_convolution(parameter):
        return {"exp_avg": parameter}
    return {"step": torch.zeros((), dtype=torch.float32), "exp_avg": parameter, "exp_avg_sq": parameter}


def fill_optimizer(optimizer: Optimizer, state: Any, path: Path) -> None:
    """Loads the state of a run's optimiser, all or none.

    The optimiser itself accepts states of any shape, and would then read memory outside of them.

    Raises:
        UserError: If the state does not belong to the same parameters and settings.
    """
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    groups = optimizer.state_dict()["param_groups"]
    try:
        if not isinstance(state, dict):
            raise TypeError("no state")
        for ours, theirs in zip(groups, state["param_groups"], strict=True):
            if not isinstance(theirs, dict) or any(ours[name] != theirs[name] for name in SETTINGS):
                raise ValueError("other parameters or settings")
        for number, kept in state["state"].items():
            expected = kept_of(optimizer, parameters[number])
            if kept.keys() != expected.keys() or not all(fits(kept[name], like) for name, like in expected.items()):
                raise ValueError("moments of other parameters")
            negative = any((kept[name] < 0).any() for name in NOT_NEGATIVE & kept.keys())
            if negative or not all(map(is_finite, kept.values())):
                raise ValueError("moments that no training can have")
        optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    except (RuntimeError, TypeError, AttributeError, KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} does not fit its config.yaml: its optimiser state belongs to another run") from error
