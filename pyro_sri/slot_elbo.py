"""The objective of GENESIS, GENESIS-v2 and every other pair of a slot model and its guide."""

from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_sri.elbo import Terms, TermsELBO, latent_sites, run_against
from pyro_sri.geco import GECO
from pyro_sri.mask_kl import MaskKL, read_mask_kl

# Latent sites without their number, and the term that their KL belongs to.
KL_TERMS = {"scene": "kl_scene", "slot": "kl_slots", "mask_slot": "kl_masks", "component_slot": "kl_components"}


class SlotTraces(NamedTuple):
    """One run of guide and model."""

    guide: Trace
    model: Trace


class SlotELBO(TermsELBO):
    r"""-log p(x | z) plus a KL for each kind of latent, one sample per image.

    .. math::
        L = -\log p(x \mid z) + \textstyle\sum_k \log q(z_k) - \log p(z_k) \quad [+ KL_{mask}]

    (Engelcke et al. 2020; 2021 with the mask KL). Each KL compares the two distributions of a site at the drawn
    latents, by Monte Carlo as the authors do, or in closed form. With GECO the loss is NLL + beta (sum of the KLs).

    A pair has those of the terms that its latents make: `scene` makes `kl_scene`, `slot_k` makes `kl_slots`,
    `mask_slot_k` makes `kl_masks`, `component_slot_k` makes `kl_components`.

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

    bound = ("nll", *KL_TERMS.values())

    def __init__(self, *, geco: GECO | None = None, mask_kl: MaskKL = "none", analytic: bool = False) -> None:
        super().__init__(mask_kl)
        self.geco = geco
        self.analytic = analytic

    def trace(self, model: Any, guide: Any, images: Tensor, **kwargs: Any) -> SlotTraces:
        """Runs the guide on images [B, 3, H, W], and the model against it."""
        guide_trace = poutine.trace(guide).get_trace(images, **kwargs)
        return SlotTraces(guide_trace, run_against(model, guide_trace, images, **kwargs))

    def read(self, traces: SlotTraces) -> Terms:
        """`nll`, those of `kl_scene`, `kl_slots`, `kl_masks`, `kl_components` that there are, `mask_kl` if asked.

        Each is [B], in nats.

        Raises:
            ValueError: On a latent site of another name, or a mask KL of a guide without attention masks.
        """
        image = traces.model.nodes["image"]
        terms = {"nll": -image["fn"].log_prob(image["value"])}
        for name in latent_sites(traces.model, traces.guide):
            posterior, prior = traces.guide.nodes[name], traces.model.nodes[name]
            if isinstance(prior["fn"], Delta):
                continue  # follows from the other latents
            kind = name.rstrip("0123456789").rstrip("_")
            if kind not in KL_TERMS:
                raise ValueError(f"no term for the latent '{name}': SlotELBO knows {', '.join(KL_TERMS)}")
            if self.analytic:
                kl = kl_divergence(posterior["fn"], prior["fn"])
            else:
                kl = posterior["fn"].log_prob(posterior["value"]) - prior["fn"].log_prob(posterior["value"])
            terms[KL_TERMS[kind]] = terms.get(KL_TERMS[kind], 0) + kl
        if self.mask_kl != "none":
            terms["mask_kl"] = read_mask_kl(self.mask_kl, traces.guide, traces.model)
        return terms

    def objective(self, terms: Terms) -> Tensor:
        """Weighs the terms' batch means into one loss (nats per image) and, when training, moves GECO."""
        mean = {name: term.mean() for name, term in terms.items()}
        kls = torch.stack([term for name, term in mean.items() if name not in ("nll", "mask_kl")])
        return self.weigh(self.geco, mean["nll"], kls.sum(), mean.get("mask_kl", 0.0))
