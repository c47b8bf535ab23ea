"""Reconstruction error, the terms of the objective, and the bound."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import (
    Meaning,
    Meanings,
    Measure,
    Metrics,
    Truth,
    mean_and_error,
    missing,
)
from pyro_sri.inference import Explanation
from pyro_sri.metrics import bits_per_dimension, mean_squared_error

ALWAYS = ("mse", "nll", "nll_above_floor", "kl", "bpd", "bpd_with_cross")  # other terms are left out if they are 0


class Bound(Measure):
    """Reconstruction error, the terms of the objective, and the bound."""

    meanings: ClassVar[Meanings] = {
        "reconstruction and likelihood": {
            "mse": Meaning("mean squared error of the reconstruction, per pixel and channel in [0, 1]", "lower"),
            "nll": Meaning("-log p(x | z), nats per image, normalised likelihood", "lower"),
            "nll_above_floor": Meaning(
                "nll minus its value for a perfect reconstruction, nats per image", "lower", detail=True
            ),
            "bpd": Meaning("-ELBO in bits per dimension", "lower"),
            "bpd_with_cross": Meaning("-ELBO plus kl_cross in bits per dimension", "lower", detail=True),
            "other": Meaning(
                "-log p of further observations and factors, nats per image; part of the bound", "lower", detail=True
            ),
            "segregation_nll": Meaning(
                "-log p(x | z) of the segregation's own model, nats per image", "lower", detail=True
            ),
            "squared_error": Meaning(
                "squared error, summed over an image; the loss of Slot Attention", "lower", detail=True
            ),
        },
        "KL divergences, in nats per image": {
            "kl": Meaning("all latents together"),
            "kl_scene": Meaning("KL(q(s | x) || p(s))", detail=True),
            "kl_slots": Meaning("sum over slots of KL(q(z_k | s, x) || p(z_k | z_<k, s))", detail=True),
            "kl_masks": Meaning("mask latents", detail=True),
            "kl_components": Meaning("component latents", detail=True),
            "kl_above": Meaning("layers above the refined one", detail=True),
            "kl_pres": Meaning("number of objects", detail=True),
            "kl_where": Meaning("places of objects", detail=True),
            "kl_what": Meaning("codes of objects", detail=True),
            "kl_cross": Meaning("cross-order KL; not part of the bound", detail=True),
            "mask_kl": Meaning("KL between attention masks and decoded masks; not part of the bound", detail=True),
            "segregation_mask_kl": Meaning("the same for the segregation; not part of the bound", detail=True),
            "segregation_kl": Meaning("KL of the segregation's own posterior; not part of the bound", detail=True),
        },
    }

    def __init__(self) -> None:
        self.values: dict[str, list[NDArray[np.floating]]] = {}
        self.no_bound: str | None = None

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        terms = {name: term.double().cpu().numpy() for name, term in explanation.terms.items()}
        above = {} if explanation.nll_floor is None else {"nll_above_floor": terms["nll"] - explanation.nll_floor}
        for name in ("nll", "segregation_nll"):
            if name in terms and terms[name].any():
                terms[name] = terms[name] + explanation.log_normaliser
        self.no_bound = explanation.no_bound
        if self.no_bound:
            terms.pop("other", None)
        images, reconstruction = (x.cpu().numpy() for x in (explanation.images, explanation.reconstruction))
        kl = explanation.kl.double().cpu().numpy()
        bound = {} if self.no_bound else _bound(terms, kl, images.shape[-1])
        scores = {"mse": mean_squared_error(images, reconstruction), **bound, **above, **terms}
        for name, values in scores.items():
            self.values.setdefault(name, []).append(values)

    def result(self) -> Metrics:
        """Returns `mse`, `nll`, `kl` and so on, each with `<name>_stderr`.

        Terms that are 0 for every image are left out, because they belong to a part that the system does not have.
        """
        result: Metrics = {}
        for name, parts in self.values.items():
            if name in ALWAYS or any(part.any() for part in parts):
                result |= mean_and_error(name, np.concatenate(parts))
        if self.no_bound:
            result |= missing(self.no_bound, "bpd", "bpd_with_cross", "kl")
        elif "kl_cross" not in result:
            result |= missing("this system has no KL_cross", "bpd_with_cross")
        if "nll_above_floor" not in result:
            result |= missing("the likelihood has no floor", "nll_above_floor")
        return result


def _bound(
    terms: dict[str, NDArray[np.floating]], kl: NDArray[np.floating], size: int
) -> dict[str, NDArray[np.floating]]:
    """The KL, and -ELBO in bits per dimension, without and with KL_cross: each [B]."""
    negative_elbo = terms["nll"] + kl + terms.get("other", 0.0)
    bound = {"bpd": bits_per_dimension(negative_elbo, size), "kl": kl}
    if "kl_cross" not in terms or not terms["kl_cross"].any():
        return bound
    return bound | {"bpd_with_cross": bits_per_dimension(negative_elbo + terms["kl_cross"], size)}
