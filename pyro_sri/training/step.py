"""One optimisation step, from images to updated parameters, without waiting for the device."""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from pyro_sri.config import RunConfig
from pyro_sri.data.loading import to_images
from pyro_sri.objectives import Terms
from pyro_sri.system.allocation import limit_kept_memory
from pyro_sri.system.processes import total_over_processes
from pyro_sri.system.seeds import seed_step
from pyro_sri.training.averaging import WeightAverage
from pyro_sri.training.capture import Captured, records
from pyro_sri.training.execution import compile_networks, recompute_decoders, set_precision
from pyro_sri.training.launching import new_fabric
from pyro_sri.training.optimizers import Muon
from pyro_sri.training.schedule import learning_rate


class TrainingStep(ELBOModule):
    """Model, guide and objective as one module whose forward pass computes the loss."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Terms]:
        """The loss of a step, and the batch means of its terms without gradients.

        Args:
            inputs: Images [B, 3, H, W] in [0, 1], or their encoded slots [B, K, 2D] if only SRI's prior is trained.
        """
        terms = self.elbo.terms(self.model, self.guide, inputs)
        return self.elbo.objective(terms), {name: term.detach().mean() for name, term in terms.items()}


def new_optimizer(module: torch.nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The run's optimiser for all parameters. Adam is fused into one kernel."""
    parameters = list(module.parameters())
    if config.optimizer == "muon":
        return Muon(parameters, lr=config.learning_rate)
    return torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)


def new_stepper(config: RunConfig, device: torch.device) -> "Stepper":
    """A stepper with new weights, in this process alone, to time the steps of a run."""
    fabric = new_fabric(accelerator=device.type, devices=1)
    torch.manual_seed(config.seed)
    module = TrainingStep(*config.build())
    return Stepper(config, fabric, module, new_optimizer(module, config))


class Stepper:
    """Updates parameters, optimiser and controllers one step at a time, as the configuration says.

    With `config.capture`, on a GPU, whole steps are recorded as CUDA graphs and repeated.

    Attributes:
        module: The module in training, on its device. Its networks run as the configuration says.
        optimizer: Its optimiser.
        finite: Whether every loss so far was finite, a tensor on the device.
        totals: For the loss and every term, the sum over steps and the number of steps [2] in this process, on the
            device. They are float64, so the place where a run is resumed does not matter.
        average: The average of its weights, or None if the run has none.

    Args:
        config: The run.
        fabric: The Fabric of this process.
        module: The module to train.
        optimizer: Its optimiser, with the state to continue from.
        totals: The totals to continue from, as means over processes.
        averaged: The state of the weights' average to continue from. None starts a new average.
    """

    def __init__(
        self,
        config: RunConfig,
        fabric: Fabric,
        module: TrainingStep,
        optimizer: torch.optim.Optimizer,
        totals: Mapping[str, Tensor] = MappingProxyType({}),
        averaged: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.fabric, self.module, self.optimizer = config, fabric, module, optimizer
        if config.threads:
            torch.set_num_threads(config.threads)  # a setting of the process
        set_precision(module, config.precision)
        if config.compile:
            compile_networks(module, fabric.device)
        if config.recompute_decoder:
            recompute_decoders(module)
        self.wrapped: Any
        self.wrapped, self.wrapped_optimizer = fabric.setup(module, optimizer)
        self.average = WeightAverage(module, config.ema) if config.ema else None
        if self.average is not None and averaged is not None:
            self.average.load_state_dict(averaged)
        optimizer.load_state_dict(optimizer.state_dict())  # moves a restored state to the parameters' device
        captured = config.capture and records(fabric.device)
        for group in optimizer.param_groups:
            group["capturable"] = captured
            rate = config.learning_rate
            group["lr"] = torch.tensor(rate, device=fabric.device) if captured else rate  # a recording fixes numbers
        self.work = Captured(self._work, fabric.device) if config.capture else None
        self.finite = torch.tensor(True, device=fabric.device)
        self.totals = {name: total.to(fabric.device) for name, total in totals.items()}
        self.ones = torch.ones((), device=fabric.device)

    def __call__(self, batch: Tensor, step: int) -> None:
        """Does one step.

        Its draws depend only on (seed, process, step).

        Args:
            batch: This process's share: images, uint8 [B, H, W, 3], or encoded slots, float32 [B, K, 2D].
            step: Number of the step, from 0.
        """
        seed_step(self.config.seed, self.fabric.global_rank, step)
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.module.elbo.step = step
        if self.work is None:
            self._work(batch)
        else:
            self.work(batch, self.module.elbo.phase)
        if self.average is not None:
            self.average.update(step)
        if self.fabric.device.type == "cpu":
            limit_kept_memory()

    def _work(self, batch: Tensor) -> None:
        self.wrapped_optimizer.zero_grad()
        device = self.fabric.device
        loss, terms = self.wrapped(to_images(batch, device) if batch.dtype == torch.uint8 else batch.to(device))
        self.fabric.backward(loss)
        if self.config.gradient_clip:
            self.fabric.clip_gradients(
                self.wrapped,
                self.wrapped_optimizer,
                max_norm=self.config.gradient_clip,
                error_if_nonfinite=False,  # `finite` records it
            )
        self.wrapped_optimizer.step()
        self.finite &= torch.isfinite(loss.detach())
        for name, value in (("loss", loss.detach()), *terms.items()):
            if name not in self.totals:
                self.totals[name] = torch.zeros(2, device=value.device, dtype=torch.float64)
            self.totals[name] += torch.stack([value, self.ones.to(value)])

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the module has the weights to evaluate: their average, if the run has one."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def take_means(self) -> dict[str, float]:
        """Means of the loss and the terms over the steps since the last call, and over processes."""
        means = {}
        for name, total in self.totals.items():
            value, count = total_over_processes(total).tolist()
            if count:
                means[name] = value / count
            total.zero_()
        return means
