"""GECO: the weight of the KL, or of the reconstruction, as a Lagrange multiplier (Rezende & Viola 2018).

Both controllers keep their state in buffers and use it without host synchronisation. They average the error over the
processes of a distributed run, so that every process has the same weight. They are updated once per optimiser step,
with the mean NLL of its forward passes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_sri.objectives.stepping import PerStep
from pyro_sri.system.processes import mean_over_processes

REFERENCE_PIXELS = 64**2  # step sizes are quoted for 64x64 images
EMORL_FLOOR = 0.55  # softplus(0.55) = 1.0055: the weight of the reconstruction is never below that of the KL


class GenesisGECO(PerStep):
    """loss = NLL + beta KL. The update of beta is multiplicative in goal - EMA(NLL) (GENESIS, SRI).

    beta <- clip(beta exp(step_size c (speedup if c > 0))), c = goal - EMA(NLL), EMA = alpha EMA + (1 - alpha) NLL.

    Args:
        target: Goal per pixel and channel, in nats.
        image_size: Image side H = W; goal = target * 3HW.
        step_size: Step size for 64x64 images.
        scaled: Whether the step is scaled by 64^2 / HW, because the goal grows with HW.
        speedup: Factor on the step once the goal is met. None means 1.
        alpha: Decay of the moving average.
        beta_init: Initial beta.
        beta_min: Minimum of beta.
        beta_max: Maximum of beta. With 1, the weight is never above that of the ELBO.
        warm_start: Initial training steps with the plain ELBO, before the controller starts.
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
        """The weight of the KL, beta. The weight of the NLL is 1."""
        return self.beta

    @property
    def nll_weight(self) -> float:
        """The weight of the NLL, 1."""
        return 1.0

    def forward(self, nll: Tensor, kl: Tensor) -> Tensor:
        """Batch means of NLL and KL, in nats per image -> the weighted loss."""
        return nll + self.beta.clone() * kl  # a copy: `update` may change beta before the backward pass needs it

    @torch.no_grad()
    def update(self, nll: Tensor) -> None:
        """Updates the average and the weight, after the loss of the step was computed."""
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
        step_size: Step size for 64x64 images.
        scaled: Whether the step is scaled by 64^2 / HW. EMORL's release only scales the goal.
        acceleration: Factor on the step once the goal is met.
        alpha: Decay of the moving average.
        warm_start: Initial training steps with the plain ELBO. Then the average starts at goal - NLL.
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
        """The weight of the NLL: the Lagrange multiplier softplus(beta), at least 1.0055. The weight of the KL is 1."""
        return F.softplus(self.beta)

    @property
    def nll_weight(self) -> Tensor:
        """The same."""
        return self.weight

    def forward(self, nll: Tensor, kl: Tensor) -> Tensor:
        """Batch means of NLL and KL, in nats per image -> the weighted loss."""
        constraint = self.weight * (self.slack_ema - (nll - nll.detach()))
        return kl - constraint

    @torch.no_grad()
    def update(self, nll: Tensor) -> None:
        """Updates the average and, from the second step on, the weight."""
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
