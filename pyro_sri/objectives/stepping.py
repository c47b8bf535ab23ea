"""What moves with training moves once per optimiser step, however many forward passes the step takes."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


class PerStep(nn.Module):
    """What notices something in every forward pass and moves after the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self._noticed: tuple[Tensor | float, int] | None = None  # a sum, and of how many

    @torch.no_grad()
    def notice(self, value: Tensor | float = 0.0) -> None:
        """Takes in what a forward pass found, a scalar."""
        value = value.detach() if isinstance(value, Tensor) else value
        total, count = (0.0, 0) if self._noticed is None else self._noticed
        self._noticed = (value if count == 0 else total + value, count + 1)

    def settle(self) -> None:
        """Moves by the mean of what was noticed since it last did; not at all if that is nothing."""
        if self._noticed is not None:
            total, count = self._noticed
            self._noticed = None
            self.update(total if count == 1 else total / count)

    def update(self, value: Any) -> None:
        """One move, by the mean of a step."""
        raise NotImplementedError


# By what waits: whose parameters an optimiser must have, for its steps to be those that are waited for.
_waiting: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Any], ...]] = weakref.WeakKeyDictionary()
_watching: list[Any] = []


def advance_after_step(waiting: Any, *programs: Callable[..., Any]) -> None:
    """Has `waiting.advance()` called after the next step of a torch optimiser that holds parameters of these programs.

    Steps of any optimiser will do where the programs have no parameters of their own, such as plain functions.
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
