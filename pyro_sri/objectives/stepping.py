"""Updates that happen once per optimiser step, regardless of the number of forward passes."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


class PerStep(nn.Module):
    """A module that records a value in every forward pass, and is updated after the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self._noticed: tuple[Tensor | float, int] | None = None  # a sum, and the number of values

    @torch.no_grad()
    def notice(self, value: Tensor | float = 0.0) -> None:
        """Records a scalar of a forward pass."""
        value = value.detach() if isinstance(value, Tensor) else value
        total, count = (0.0, 0) if self._noticed is None else self._noticed
        self._noticed = (value if count == 0 else total + value, count + 1)

    def settle(self) -> None:
        """Updates with the mean of the values recorded since the last update. Does nothing if there are none."""
        if self._noticed is not None:
            total, count = self._noticed
            self._noticed = None
            self.update(total if count == 1 else total / count)

    def update(self, value: Any) -> None:
        """Does one update, with the mean value of a step."""
        raise NotImplementedError


# Keys wait for an optimiser step. The step must be of an optimiser with parameters of the programs in the value.
_waiting: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Any], ...]] = weakref.WeakKeyDictionary()
_watching: list[Any] = []


def advance_after_step(waiting: Any, *programs: Callable[..., Any]) -> None:
    """Calls `waiting.advance()` after the next step of a torch optimiser that has parameters of these programs.

    If the programs have no parameters, such as plain functions, a step of any optimiser counts.
    """
    if not _watching:
        _watching.append(register_optimizer_step_post_hook(_after_step))
    _waiting[waiting] = tuple(weakref.ref(unwrap(program)) for program in programs)


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    for waiting, programs in list(_waiting.items()):
        if _trains(optimizer, programs):
            del _waiting[waiting]
            waiting.advance()


def _trains(optimizer: Optimizer, programs: tuple[weakref.ref[Any], ...]) -> bool:
    modules = [module for module in (program() for program in programs) if isinstance(module, nn.Module)]
    own = {id(parameter) for module in modules for parameter in module.parameters()}
    return not own or any(id(p) in own for group in optimizer.param_groups for p in group["params"])
