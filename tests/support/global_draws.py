"""Random draws that do not depend on how many processes share the batch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import Bernoulli, Delta, Normal, Uniform
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_sri.data.loading import to_images
from pyro_sri.training import loop, step


class _GlobalDraws(Messenger):
    """Draws the noise of the global batch, the same in every process, and keeps this process's rows."""

    def __init__(
        self, rank: int, num_processes: int, before_step: Callable[[int], None], change: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.rank, self.num_processes, self.before_step, self.change = rank, num_processes, before_step, change
        self.generator = torch.Generator()

    def seed_step(self, seed: int, rank: int, step: int) -> None:
        """In the place of `pyro_sri.system.seeds.seed_step`, which seeds every process differently."""
        self.generator.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        self.before_step(step)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        if not torch.is_grad_enabled():  # validation: every process sees all images
            return
        shape, dist = msg["fn"].shape(), msg["fn"]
        while hasattr(dist, "base_dist"):
            dist = dist.base_dist
        if isinstance(dist, Delta):
            return
        if isinstance(dist, Normal):
            msg["value"] = dist.loc + dist.scale * self._share(torch.randn, shape)
        elif isinstance(dist, Uniform):
            msg["value"] = dist.low + (dist.high - dist.low) * self._share(torch.rand, shape)
        elif isinstance(dist, Bernoulli):
            msg["value"] = (self._share(torch.rand, shape) < dist.probs).to(dist.probs)
        else:
            raise TypeError(f"no way to draw {msg['name']} from {dist}")
        msg["done"] = True

    def _share(self, draw: Callable[..., Tensor], shape: torch.Size) -> Tensor:
        size, *rest = shape
        drawn = draw((size * self.num_processes, *rest), generator=self.generator, dtype=torch.float64)
        return self.change(drawn[self.rank * size : (self.rank + 1) * size].to(torch.get_default_dtype()))


@contextlib.contextmanager
def global_draws(
    rank: int = 0,
    num_processes: int = 1,
    before_step: Callable[[int], None] = lambda step: None,
    change: Callable[[Tensor], Tensor] = lambda noise: noise,
) -> Iterator[None]:
    """Training inside draws the same noise for an image, whichever process has it.

    Args:
        rank: Which rows are this process's: the rank-th share.
        num_processes: How many share the batch.
        before_step: Called with the number of every training step before it.
        change: What becomes of the noise.
    """
    draws = _GlobalDraws(rank, num_processes, before_step, change)
    with mock.patch.object(step, "seed_step", draws.seed_step), draws:
        yield


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Training inside computes in float64."""

    def to_double(*args: Any) -> Tensor:
        return to_images(*args).double()

    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(step, "to_images", to_double), mock.patch.object(loop, "to_images", to_double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def halved_batch_norms() -> Iterator[None]:
    """In training, batch normalisations see each half of the batch alone, and remember the first: as two processes."""
    whole = nn.BatchNorm2d.forward

    def forward(self: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
        if not self.training:
            return whole(self, inputs)
        first, second = inputs.chunk(2)
        return torch.cat([whole(self, first), F.batch_norm(second, None, None, self.weight, self.bias, training=True)])

    with mock.patch.object(nn.BatchNorm2d, "forward", forward):
        yield
