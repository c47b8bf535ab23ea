"""Reconstruction error, the terms of the objective, and the bound."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pyro_sri.evaluation.measures.base import (
    NO_BOUND,
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

    def update(self, explanation: Explanation, truth: Truth) -> None:
        """Adds a batch."""
        terms = {name: term.double().cpu().numpy() for name, term in explanation.terms.items()}
        above = {} if explanation.nll_floor is None else {"nll_above_floor": terms["nll"] - explanation.nll_floor}
        for name in ("nll", "segregation_nll"):
            if name in terms:
                terms[name] = terms[name] + explanation.log_normaliser
        kl = explanation.kl.double().cpu().numpy()
        size = explanation.images.shape[-1]
        images, reconstruction = (x.cpu().numpy() for x in (explanation.images, explanation.reconstruction))
        bound = {"bpd": bits_per_dimension(terms["nll"] + kl, size), "kl": kl} if explanation.has_bound else {}
        scores = {"mse": mean_squared_error(images, reconstruction), **bound, **above, **terms}
        if "kl_cross" in terms:
            scores["bpd_with_cross"] = bits_per_dimension(terms["nll"] + kl + terms["kl_cross"], size)
        for name, values in scores.items():
            self.values.setdefault(name, []).append(values)

    def result(self) -> Metrics:
        """Returns `mse`, `nll`, `kl` and so on, each with `<name>_stderr`."""
        result: Metrics = {}
        for name, parts in self.values.items():
            result |= mean_and_error(name, np.concatenate(parts))
        if "bpd" not in result:
            return result | missing(NO_BOUND, "bpd", "bpd_with_cross", "kl") | self._floor(result)
        if "bpd_with_cross" not in result:
            result |= missing("this system has no KL_cross", "bpd_with_cross")
        return result | self._floor(result)

    def _floor(self, result: Metrics) -> Metrics:
        if "nll_above_floor" in result:
            return {}
        return missing("the likelihood has no floor", "nll_above_floor")
