"""The bound of evaluation counts whatever the objective scores, or says why there is none for single images."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_sri.evaluation import MEANINGS, importance_bound, importance_log_weights
from pyro_sri.evaluation.draws import evaluate_draws
from pyro_sri.evaluation.likelihood import NoBoundError
from pyro_sri.evaluation.measures import Metrics, Truth
from pyro_sri.evaluation.measures.bound import Bound
from pyro_sri.inference import explain
from pyro_sri.presets import PRESETS

COUNT, NATS = 3, 700.0


def _after(further: Callable[[int], Any], model: Any) -> Any:
    def story(images: Tensor, **kwargs: Any) -> Tensor:
        further(len(images))
        return model(images, **kwargs)

    return story


class Case:
    """A pair whose model scores something besides the image, if given."""

    def __init__(self, preset: str = "genesis_v2-quick", further: Callable[[int], Any] | None = None) -> None:
        config = PRESETS[preset].config.tiny()
        model, self.guide, self.elbo = config.build()
        self.images = torch.rand(COUNT, 3, config.image_size, config.image_size)
        self.model: Any = model if further is None else _after(further, model)

    def metrics(self) -> Metrics:
        measure = Bound()
        for part in self.images.split(2):
            pyro.set_rng_seed(0)
            measure.update(explain(self.model, self.guide, part, self.elbo), Truth(None, ()))
        return measure.result()


def labels(count: int) -> None:
    with pyro.plate("labels", count):
        pyro.factor("label", torch.full((count,), -NATS))


def test_further_observations_of_an_image_are_part_of_its_bound() -> None:
    case = Case()
    plain, bound = case.metrics(), seeded_bound(case)
    case.model = _after(labels, case.model)
    metrics = case.metrics()
    bits = NATS / (3 * case.images.shape[-1] ** 2 * math.log(2))
    assert metrics["bpd"] == pytest.approx(plain["bpd"] + bits, rel=1e-5)
    assert metrics["other"] == pytest.approx(NATS)
    assert "other" in MEANINGS
    torch.testing.assert_close(seeded_bound(case), bound - NATS)


def seeded_bound(case: Case) -> Tensor:
    pyro.set_rng_seed(0)
    return importance_bound(case.model, case.guide, case.images, 2)


SHARED: dict[str, Callable[[int], Any]] = {
    "a factor": lambda count: pyro.factor("preference", torch.tensor(-400.0)),
    "as many factors as images": lambda count: pyro.factor("preference", torch.linspace(0, -400, count)),
    "an observation": lambda count: pyro.sample("preference", dist.Normal(0.0, 1.0), obs=torch.tensor(3.0)),
}


@pytest.mark.parametrize("shared", SHARED)
def test_what_all_images_share_gives_no_bound_of_an_image(shared: str) -> None:
    """Its share would depend on the number of images in a run: on the size of batches and chunks."""
    case = Case(further=SHARED[shared])
    metrics = case.metrics()
    for name in ("bpd", "bpd_with_cross", "kl"):
        assert metrics[name] is None
        assert "share preference" in str(metrics[f"{name}_reason"])
    assert "other" not in metrics
    assert metrics["nll"] is not None
    for chunk in (2, 32):
        with pytest.raises(NoBoundError, match="share preference"):
            importance_log_weights(case.model, case.guide, case.images, 2, chunk=chunk)
    drawn = evaluate_draws(case.model, case.guide, [case.images], 2)
    assert drawn["iwae_bpd"] is None
    assert "share preference" in str(drawn["iwae_bpd_reason"])


@pytest.mark.parametrize(
    ("preset", "absent"),
    [
        ("sri_sa-shapestacks", ("segregation_nll", "segregation_kl")),
        ("air-multi_digits", ("annealing", "bpd_with_cross")),
        ("emorl-quick", ("kl_above", "bpd_with_cross")),
    ],
)
def test_terms_of_parts_that_a_system_lacks_are_no_results(preset: str, absent: tuple[str, ...]) -> None:
    result = Case(preset).metrics()
    assert not any(result.get(name) is not None for name in absent)
    assert result["bpd"] is not None
