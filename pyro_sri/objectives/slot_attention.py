"""The objective of the Slot Attention auto-encoder (Locatello et al. 2020)."""

from torch import Tensor

from pyro_sri.objectives.base import Terms, TermsELBO, Traces
from pyro_sri.objectives.traces import other_scores, scored, weighed


class SlotAttentionLoss(TermsELBO):
    r"""The squared error of the reconstruction, summed over an image and averaged over the batch.

    .. math:: L = \|x - \textstyle\sum_k m_k \mu_k\|^2

    The terms are `squared_error`, which is the loss, and `nll`, which is the same in nats under the model's likelihood.
    An auto-encoder has no KL, so `bound` contains only `nll`. It is not a bound on log p(x).

    Example::

        SVI(model, guide, pyro.optim.Adam({"lr": 4e-4}), SlotAttentionLoss()).step(images)
    """

    bound = ("nll",)

    def read(self, traces: Traces) -> Terms:
        """`squared_error` and `nll`, and `other` if any: each [B]."""
        guide, model = traces
        image = model.nodes["image"]
        error = (image["value"] - model.nodes["reconstruction"]["value"]).square().sum((1, 2, 3))
        nll = -scored(image)
        return {"nll": nll, "squared_error": weighed(error, image)} | other_scores(nll, model, guide)

    def objective(self, terms: Terms) -> Tensor:
        """The batch mean of the squared error, and of `other`."""
        loss = terms["squared_error"].mean()
        return loss + terms["other"].mean() if "other" in terms else loss
