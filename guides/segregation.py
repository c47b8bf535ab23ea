"""What a segregation system must provide to be the first stage of SRI."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from pyro_sri.programs import Program, adopt


class Segregation(NamedTuple):
    """A randomly ordered, independent slot posterior q(z^pi | x) and one draw from it.

    Attributes:
        means: Posterior means [B, K, D].
        scales: Posterior standard deviations [B, K, D]; zero if the posterior is a point.
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

    A pair can have its own objective, which `SRI_ELBO` then uses: a `TermsELBO` class, or any function that returns
    one, called with `geco=` (a controller or None). The objective runs the pair in training, and its
    `segregated(traces)` returns what the later stages see.

    Attributes:
        make_objective: The objective. None means -log p(x | z) + log q(z | x) - log p(z), with one sample per image.

    Args:
        model: The generative story, or None.
        guide: Its inference.
        name: Root of the parameters' names in Pyro's store.
        objective: The objective that trains the pair. None uses the guide's (for EMORL's guide, `EMORL_ELBO`).
    """

    def __init__(
        self,
        model: PyroModule | None,
        guide: PyroModule,
        name: str = "segregation",
        *,
        objective: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(name)
        for part in (model, guide):
            if part is not None:
                adopt(part)
        self.model = model
        self.guide = guide
        self.make_objective = getattr(guide, "objective", None) if objective is None else objective
