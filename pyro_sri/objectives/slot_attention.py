"""The objective of the Slot Attention auto-encoder (Locatello et al. 2020)."""

from torch import Tensor

from pyro_sri.objectives.base import Terms, TermsELBO, Traces, log_prob


class SlotAttentionLoss(TermsELBO):
    r"""The squared error of the reconstruction, summed over an image and averaged over the batch.

    .. math:: L = \|x - \textstyle\sum_k m_k \mu_k\|^2

    The terms are `squared_error`, which is the loss, and `nll`: the same in nats under the model's likelihood. An
    auto-encoder has no KL, so `nll` alone is called the bound, but it bounds no log p(x).

    Example::

        SVI(model, guide, pyro.optim.Adam({"lr": 4e-4}), SlotAttentionLoss()).step(images)
    """

    bound = ("nll",)

    def read(self, traces: Traces) -> Terms:
        """`squared_error` and `nll`: each [B]."""
        error = traces.model.nodes["image"]["value"] - traces.model.nodes["reconstruction"]["value"]
        return {"nll": -log_prob(traces.model, "image"), "squared_error": error.square().sum((1, 2, 3))}

    def objective(self, terms: Terms) -> Tensor:
        """The batch mean of the squared error."""
        return terms["squared_error"].mean()
