"""An average of the weights over the steps of a run, kept next to the trained weights."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a module's parameters.

    average <- d average + (1 - d) parameter,   d = min(decay, (1 + t) / (10 + t))   after step t = 0, 1, ..

    so that early averages forget the random start. Buffers (GECO's state, running statistics) are not averaged. The
    module's own are used.

    Args:
        module: The module, on its device. The average starts at its parameters.
        decay: d of late steps, between 0 and 1: about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.parameters = [parameter.detach() for parameter in module.parameters()]  # shared ones once
        self.means = [parameter.clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the parameters after a step. Steps are counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, self.parameters, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The module's state with the averages, under the same names. Shared parameters stay shared."""
        means = {id(parameter): mean for parameter, mean in zip(self.module.parameters(), self.means, strict=True)}
        tensors = self.module.state_dict(keep_vars=True)
        return {name: means.get(id(tensor), tensor.detach()) for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a result of `state_dict`."""
        names = {id(tensor): name for name, tensor in self.module.state_dict(keep_vars=True).items()}
        for parameter, mean in zip(self.module.parameters(), self.means, strict=True):
            mean.copy_(state[names[id(parameter)]])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replaces the parameters with the averages inside, in the same memory, which recordings may use."""
        trained = [parameter.clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.means)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, trained)
