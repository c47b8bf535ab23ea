"""An average of the weights over the steps of a run, kept next to the trained weights."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a module's parameters.

    average <- d average + (1 - d) parameter,   d = min(decay, (1 + t) / (10 + t))   after step t = 0, 1, ..

    so that early averages forget the random start. Buffers (GECO's state, running statistics) are not averaged: those
    of the module stand for them.

    Args:
        module: The module, on its device; the average starts at its parameters.
        decay: d of late steps, between 0 and 1: about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.parameters = [parameter.detach() for parameter in module.parameters()]  # each once, also where shared
        self.means = [parameter.clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters that a step, from 0, has left."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, self.parameters, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The module's state with the averages in it, under the same names, shared where the parameters are."""
        means = {id(parameter): mean for parameter, mean in zip(self.module.parameters(), self.means, strict=True)}
        tensors = self.module.state_dict(keep_vars=True)
        return {name: means.get(id(tensor), tensor.detach()) for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state_dict` gave."""
        names = {id(tensor): name for name, tensor in self.module.state_dict(keep_vars=True).items()}
        for parameter, mean in zip(self.module.parameters(), self.means, strict=True):
            mean.copy_(state[names[id(parameter)]])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the averages for its parameters meanwhile, in the same memory, which may be recorded."""
        trained = [parameter.clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.means)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, trained)
