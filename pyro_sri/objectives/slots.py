"""The objective of GENESIS, GENESIS-v2 and other slot models with their guides."""

import torch
from pyro.distributions import Delta
from torch import Tensor

from pyro_sri.objectives.base import Terms, TermsELBO, Traces, seen_in, seen_terms
from pyro_sri.objectives.geco import GECO
from pyro_sri.objectives.mask_kl import MaskKL, read_mask_kl
from pyro_sri.objectives.traces import Site, latent_sites, other_scores, scored, total_kl

NOT_KLS = ("nll", "mask_kl", "other", "seen", "seen_nll")


class SlotELBO(TermsELBO):
    r"""-log p(x | z) plus a KL for each kind of latent, one sample per image.

    .. math::
        L = -\log p(x \mid z) + \textstyle\sum_k \log q(z_k) - \log p(z_k) \quad [+ KL_{mask}]

    (Engelcke et al. 2020; 2021 with the mask KL). Each KL compares the two distributions of a site at the drawn
    latents, by Monte Carlo as the authors do, or in closed form. With GECO, the loss is NLL + beta (sum of the KLs).

    The latents in the model's record determine the terms: `slot_k` gives `kl_slots`, and so on. A latent that is not in
    the record has its own term: `pose_0`, `pose_1` give `kl_pose`.

    Example::

        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), SlotELBO())
        svi.step(images)

    Args:
        geco: Controller. None means a weight of 1 for every term.
        mask_kl: Adds `mask_kl`, KL(`attention_masks` of the guide || `slot_masks` of the model), which is not part of
            the bound. Its gradient goes to both ("attached"), only to the attention masks ("detached"), or only to the
            decoded masks ("decoder").
        analytic: Use KLs in closed form instead of Monte Carlo. They have the same expectation with less noise, unless
            the prior of a latent depends on what the guide draws from that latent.

    Raises:
        ValueError: If the kind of mask KL is unknown.
    """

    def __init__(self, *, geco: GECO | None = None, mask_kl: MaskKL = "none", analytic: bool = False) -> None:
        super().__init__(mask_kl)
        self.geco = geco
        self.analytic = analytic

    def controllers(self) -> dict[str, GECO]:
        """`beta`, the controller of the bound."""
        return {} if self.geco is None else {"beta": self.geco}

    def read(self, traces: Traces) -> Terms:
        """`nll`, the KLs of the model's record, `mask_kl` if requested, and `other` if any: each [B], in nats.

        With GECO, a scaled or masked image also has `seen` and `seen_nll`, which are no part of the loss.

        Raises:
            ValueError: If a mask KL is requested for a guide without attention masks.
        """
        guide, model = traces
        terms = {"nll": -scored(model.nodes["image"])}
        pairs: dict[str, list[tuple[Site, Site]]] = {}
        for name in latent_sites(model):
            prior = model.nodes[name]
            if prior["term"] is None or isinstance(prior["fn"], Delta):
                continue  # not scored, or determined by the other latents
            pairs.setdefault(prior["term"], []).append((guide.nodes[name], prior))
        terms |= {term: total_kl(of_term, analytic=self.analytic) for term, of_term in pairs.items()}
        terms |= other_scores(terms["nll"], model, guide) | seen_terms(self.geco, model.nodes["image"])
        if self.mask_kl != "none":
            terms["mask_kl"] = read_mask_kl(self.mask_kl, guide, model)
        return terms

    def kl(self, terms: Terms) -> Tensor:
        """The sum of all KLs, which are all terms but a few, in nats."""
        kls = [term for name, term in terms.items() if name not in NOT_KLS]
        return sum(kls, torch.zeros_like(terms["nll"]))

    def objective(self, terms: Terms) -> Tensor:
        """Combines the batch means of the terms into a loss in nats per image. In training, GECO records the NLL."""
        mean = {name: term.mean() for name, term in terms.items()}
        loss = self.weigh(self.geco, mean["nll"], self.kl(mean), mean.get("mask_kl", 0.0), seen_in(mean))
        return loss + mean.get("other", 0.0)
