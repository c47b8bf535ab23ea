"""What a segregation system must offer to be the first stage of SRI."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sri.programs import Program


class Segregation(NamedTuple):
    """A randomly ordered, independent slot posterior q(z^pi | x) and one draw from it.

    Attributes:
        means: Posterior means [B, K, D].
        scales: Posterior standard deviations [B, K, D]; zero where the posterior is a point.
        slots: One sample [B, K, D].
    """

    means: Tensor
    scales: Tensor
    slots: Tensor

    def detach(self) -> "Segregation":
        """The same without gradients."""
        return Segregation(*(tensor.detach() for tensor in self))


@contextmanager
def auxiliary() -> Iterator[None]:
    """Sites drawn inside belong only to inference, and no ELBO scores them."""
    with ExitStack() as handlers:
        handlers.enter_context(poutine.mask(mask=False))
        handlers.enter_context(poutine.infer_config(config_fn=lambda site: {"is_auxiliary": True}))
        yield


class SegregationPair(Program):
    """A slot VAE as one module: `model` explains images by unordered slots, `guide` infers them.

    Without a model (None), the guide has no objective of its own and must learn from SRI's (SRI-SA*).

    Any slot VAE can be used if its guide has a method `infer(images, num_slots) -> Segregation`, which draws inside the
    caller's plate `scenes`, with a site for each draw.
    """

    def __init__(self, model: PyroModule | None, guide: PyroModule, name: str = "segregation") -> None:
        super().__init__(name)
        self.model = model
        self.guide = guide
