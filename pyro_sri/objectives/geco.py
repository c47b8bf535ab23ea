"""GECO: the weight of the KL, or of the reconstruction, as a Lagrange multiplier (Rezende & Viola 2018).

Both controllers hold their state in buffers, read and move it without host synchronisation, and average the error over
the processes of a distributed run, so that every process has the same weight. They move once per optimiser step, by the
mean NLL of its forward passes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_sri.objectives.stepping import PerStep
from pyro_sri.system.processes import mean_over_processes

REFERENCE_PIXELS = 64**2  # step sizes are quoted for 64x64 images
EMORL_FLOOR = 0.55  # softplus(0.55) = 1.0055: the reconstruction never weighs less than the KL


class GenesisGECO(PerStep):
    """loss = NLL + beta KL; beta moves multiplicatively with goal - EMA(NLL) (GENESIS, SRI).

    beta <- clip(beta exp(step_size c (speedup if c > 0))), c = goal - EMA(NLL), EMA = alpha EMA + (1 - alpha) NLL.

    Args:
        target: Goal per pixel and channel, in nats.
        image_size: Image side H = W; goal = target * 3HW.
        step_size: Step as quoted for 64x64 images.
        scaled: Whether the step is scaled by 64^2 / HW, as the goal grows with HW.
        speedup: Factor on the step once the goal is met; None for none.
        alpha: Memory of the moving average.
        beta_init: Start.
        beta_min: Lower clamp.
        beta_max: Upper clamp; 1 caps the weight at that of the ELBO.
        warm_start: Training steps at the start with the plain ELBO, before the controller begins.
    """

    beta: Tensor
    error_ema: Tensor
    started: Tensor

    def __init__(
        self,
        *,
        target: float,
        image_size: int,
        step_size: float = 1e-6,
        scaled: bool = True,
        speedup: float | None = 10.0,
        alpha: float = 0.99,
        beta_init: float = 1.0,
        beta_min: float = 1e-10,
        beta_max: float = 1e10,
        warm_start: int = 0,
    ) -> None:
        super().__init__()
        self.goal = target * 3 * image_size**2
        self.step_size = _step_size(step_size, image_size, scaled=scaled)
        self.warm_start = warm_start
        self.speedup = 1.0 if speedup is None else speedup
        self.alpha = alpha
        self.beta_range = (beta_min, beta_max)
        self.register_buffer("beta", torch.tensor(float(beta_init)))
        self.register_buffer("error_ema", torch.tensor(0.0))
        self.register_buffer("started", torch.tensor(False))

    @property
    def weight(self) -> Tensor:
        """What the KL weighs beside the NLL: beta."""
        return self.beta

    def forward(self, nll: Tensor, kl: Tensor) -> Tensor:
        """Batch means of NLL and KL, in nats per image -> the weighed loss."""
        return nll + self.beta.clone() * kl  # a copy: `update` may change beta before the backward pass needs it

    @torch.no_grad()
    def update(self, nll: Tensor) -> None:
        """Moves the average and the weight, after the loss of the step was formed."""
        nll = mean_over_processes(nll)
        ema = self.alpha * self.error_ema + (1 - self.alpha) * nll
        self.error_ema.copy_(torch.where(self.started, ema, nll))
        slack = self.goal - self.error_ema
        step = self.step_size * torch.where(slack > 0, self.speedup * slack, slack)
        self.beta.copy_((self.beta * step.exp()).clamp(*self.beta_range))
        self.started.fill_(True)


class EmorlGECO(PerStep):
    """loss = KL - softplus(beta) C, with the value of EMA(goal - NLL) and the gradient of -NLL for C (EMORL).

    beta <- max(0.55, beta - step_size C (acceleration if C > 0)), C = EMA(goal - NLL), from the second step on.

    Args:
        target: Goal per pixel and channel, in nats.
        image_size: Image side H = W; goal = target * 3HW.
        step_size: Step as quoted for 64x64 images.
        scaled: Whether the step is scaled by 64^2 / HW; EMORL's release scales the goal alone.
        acceleration: Factor on the step once the goal is met.
        alpha: Memory of the moving average.
        warm_start: Training steps at the start with the plain ELBO; the average then begins at goal - NLL.
    """

    beta: Tensor
    slack_ema: Tensor
    started: Tensor

    def __init__(
        self,
        *,
        target: float,
        image_size: int,
        step_size: float = 1e-6,
        scaled: bool = True,
        acceleration: float = 10.0,
        alpha: float = 0.99,
        warm_start: int = 0,
    ) -> None:
        super().__init__()
        self.goal = target * 3 * image_size**2
        self.step_size = _step_size(step_size, image_size, scaled=scaled)
        self.warm_start = warm_start
        self.acceleration = acceleration
        self.alpha = alpha
        self.register_buffer("beta", torch.tensor(EMORL_FLOOR))
        self.register_buffer("slack_ema", torch.tensor(0.0))
        self.register_buffer("started", torch.tensor(False))

    @property
    def weight(self) -> Tensor:
        """What the NLL weighs beside the KL: the Lagrange multiplier softplus(beta), at least 1.0055."""
        return F.softplus(self.beta)

    def forward(self, nll: Tensor, kl: Tensor) -> Tensor:
        """Batch means of NLL and KL, in nats per image -> the weighed loss."""
        constraint = self.weight * (self.slack_ema - (nll - nll.detach()))
        return kl - constraint

    @torch.no_grad()
    def update(self, nll: Tensor) -> None:
        """Moves the average and, from the second step on, the weight."""
        slack = self.goal - mean_over_processes(nll)
        ema = self.alpha * self.slack_ema + (1 - self.alpha) * slack
        self.slack_ema.copy_(torch.where(self.started, ema, slack))
        step = self.step_size * torch.where(self.slack_ema > 0, self.acceleration * self.slack_ema, self.slack_ema)
        moved = (self.beta - step).clamp(min=EMORL_FLOOR)
        self.beta.copy_(torch.where(self.started, moved, self.beta))
        self.started.fill_(True)


def _step_size(quoted: float, image_size: int, *, scaled: bool) -> float:
    return quoted * REFERENCE_PIXELS / image_size**2 if scaled else quoted


GECO = GenesisGECO | EmorlGECO
