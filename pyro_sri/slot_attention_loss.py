"""The objective of the Slot Attention auto-encoder (Locatello et al. 2020)."""

from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_sri.elbo import Terms, TermsELBO, run_against
from pyro_sri.slot_elbo import SlotTraces


class SlotAttentionLoss(TermsELBO):
    r"""The squared error of the reconstruction, summed over an image and averaged over the batch.

    .. math:: L = \|x - \textstyle\sum_k m_k \mu_k\|^2

    The terms are `squared_error`, which is the loss, and `nll`: the same in nats under the model's likelihood. An
    auto-encoder has no KL, so `nll` alone is called the bound, but it bounds no log p(x).

    Example::

        SVI(model, guide, pyro.optim.Adam({"lr": 4e-4}), SlotAttentionLoss()).step(images)
    """

    bound = ("nll",)

    def trace(self, model: Any, guide: Any, images: Tensor, **kwargs: Any) -> SlotTraces:
        """Encodes and decodes images [B, 3, H, W]."""
        guide_trace = poutine.trace(guide).get_trace(images, **kwargs)
        return SlotTraces(guide_trace, run_against(model, guide_trace, images, **kwargs))

    def read(self, traces: SlotTraces) -> Terms:
        """`squared_error` and `nll`: each [B]."""
        image = traces.model.nodes["image"]
        error = image["value"] - traces.model.nodes["reconstruction"]["value"]
        return {"nll": -image["fn"].log_prob(image["value"]), "squared_error": error.square().sum((1, 2, 3))}

    def objective(self, terms: Terms) -> Tensor:
        """The batch mean of the squared error."""
        return terms["squared_error"].mean()
