"""Updates that happen once per optimiser step, regardless of the number of forward passes."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_sri.system.processes import mean_over_processes


class PerStep(nn.Module):
    """A module that records a value in every forward pass, and is updated after the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self._noticed: tuple[Tensor | float, Tensor | int] | None = None  # the sums of values and shares

    @torch.no_grad()
    def notice(self, value: Tensor | float = 0.0, share: Tensor | int = 1) -> None:
        """Records a scalar of a forward pass.

        Args:
            value: The scalar. If only a share of the images has one, this is the scalar times the share.
            share: The share, from 0 to 1.
        """
        value = value.detach() if isinstance(value, Tensor) else value
        if self._noticed is not None:
            total, shares = self._noticed
            value, share = total + value, shares + share
        self._noticed = (value, share)

    def settle(self) -> None:
        """Updates with the mean of the values recorded since the last update. Does nothing if there are none."""
        if self._noticed is not None:
            total, shares = self._noticed
            self._noticed = None
            if isinstance(shares, Tensor):
                self._update_if_any(total, shares)
            else:
                self.update(total if shares == 1 else total / shares)

    def _update_if_any(self, total: Tensor | float, shares: Tensor) -> None:
        """Updates with the mean over the images of all processes that have a value. Does not wait for the device."""
        total, shares = mean_over_processes(torch.stack([torch.as_tensor(total).to(shares), shares]))
        before = [buffer.clone() for buffer in self.buffers()]
        self.update(total / shares)
        for buffer, kept in zip(self.buffers(), before, strict=True):
            buffer.copy_(torch.where(shares > 0, buffer, kept))

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
