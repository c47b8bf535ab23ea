"""The objective of GENESIS, GENESIS-v2 and every other pair of a slot model and its guide."""

import torch
from pyro.distributions import Delta
from torch import Tensor

from pyro_sri.objectives.base import Terms, TermsELBO, Traces
from pyro_sri.objectives.geco import GECO
from pyro_sri.objectives.mask_kl import MaskKL, read_mask_kl
from pyro_sri.objectives.traces import analytic_kl, latent_sites, log_ratio, other_scores, scored


class SlotELBO(TermsELBO):
    r"""-log p(x | z) plus a KL for each kind of latent, one sample per image.

    .. math::
        L = -\log p(x \mid z) + \textstyle\sum_k \log q(z_k) - \log p(z_k) \quad [+ KL_{mask}]

    (Engelcke et al. 2020; 2021 with the mask KL). Each KL compares the two distributions of a site at the drawn
    latents, by Monte Carlo as the authors do, or in closed form. With GECO the loss is NLL + beta (sum of the KLs).

    The terms follow from the latents in the model's record: `slot_k` gives `kl_slots`, and so on. A latent that is not
    in the record gets its own term: `pose_0`, `pose_1` give `kl_pose`.

    Example::

        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), SlotELBO())
        svi.step(images)

    Args:
        geco: Controller; None weighs every term by 1.
        mask_kl: Adds `mask_kl`, KL(`attention_masks` of the guide || `slot_masks` of the model), which is not part of
            the bound; its gradient goes to both ("attached"), to the attention masks alone ("detached"), or to the
            decoder alone ("decoder").
        analytic: KLs in closed form instead of Monte Carlo: the same expectation with less noise, as long as no
            latent's prior depends on what the guide draws from that latent.

    Raises:
        ValueError: On another mask KL.
    """

    def __init__(self, *, geco: GECO | None = None, mask_kl: MaskKL = "none", analytic: bool = False) -> None:
        super().__init__(mask_kl)
        self.geco = geco
        self.analytic = analytic

    def controllers(self) -> dict[str, GECO]:
        """`beta`: that of the bound."""
        return {} if self.geco is None else {"beta": self.geco}

    def read(self, traces: Traces) -> Terms:
        """`nll`, the KLs that the model's record names, `mask_kl` if asked, `other` if any: each [B], in nats.

        Raises:
            ValueError: On a mask KL of a guide without attention masks.
        """
        guide, model = traces
        terms = {"nll": -scored(model.nodes["image"])}
        for name in latent_sites(model):
            prior = model.nodes[name]
            if prior["term"] is None or isinstance(prior["fn"], Delta):
                continue  # it is not scored, or follows from the other latents
            kl = (analytic_kl if self.analytic else log_ratio)(guide.nodes[name], prior)
            terms[prior["term"]] = terms.get(prior["term"], 0) + kl
        terms |= other_scores(terms["nll"], model, guide)
        if self.mask_kl != "none":
            terms["mask_kl"] = read_mask_kl(self.mask_kl, guide, model)
        return terms

    def kl(self, terms: Terms) -> Tensor:
        """All terms but `nll`, `mask_kl` and `other`: each KL once, in nats."""
        kls = [term for name, term in terms.items() if name not in ("nll", "mask_kl", "other")]
        return sum(kls, torch.zeros_like(terms["nll"]))

    def objective(self, terms: Terms) -> Tensor:
        """Weighs the terms' batch means into one loss (nats per image), which GECO notices in training."""
        mean = {name: term.mean() for name, term in terms.items()}
        return self.weigh(self.geco, mean["nll"], self.kl(mean), mean.get("mask_kl", 0.0)) + mean.get("other", 0.0)
