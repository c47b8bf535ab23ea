import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyro
import pytest
import torch
from conftest import build_sri
from pyro.distributions import Normal
from sklearn.metrics import adjusted_rand_score

from pyro_sri.data.format import Scenes
from pyro_sri.data.loading import evaluation_batches, to_images
from pyro_sri.data.writing import write_dataset
from pyro_sri.distributions import ImageLikelihood
from pyro_sri.elbo import SRI_ELBO
from pyro_sri.errors import UserError
from pyro_sri.evaluation import _counts, evaluate
from pyro_sri.inference import explain, sample_scenes
from pyro_sri.metrics.likelihood import importance_bound, importance_log_weights


def test_metrics_equal_a_plain_computation(tetrominoes: Path) -> None:
    model, guide = build_sri(num_slots=4)
    metrics = evaluate(model, guide, tetrominoes, batch_size=16, iwae_images=3, iwae_samples=4, seed=2)
    batch = next(evaluation_batches(tetrominoes, "test", 16))
    pyro.set_rng_seed(2)
    explanation = explain(model, guide, to_images(batch["images"], "cpu"))
    terms = {name: term.mean().item() for name, term in explanation.terms.items()}
    dimensions = 3 * 32 * 32 * math.log(2)
    assert metrics["num_images"] == 16
    assert metrics["nll"] == pytest.approx(terms["nll"])
    assert metrics["kl"] == pytest.approx(terms["kl_scene"] + terms["kl_slots"])
    assert metrics["bpd"] == pytest.approx((terms["nll"] + metrics["kl"]) / dimensions)
    assert metrics["bpd_with_cross"] == pytest.approx((terms["nll"] + metrics["kl"] + terms["kl_cross"]) / dimensions)
    images = to_images(batch["images"], "cpu")
    assert metrics["mse"] == pytest.approx((explanation.reconstruction - images).square().mean().item(), rel=1e-5)
    expected = []
    for masks, slots in zip(batch["masks"], explanation.slot_masks, strict=True):
        true, predicted = masks[..., 0].argmax(0), slots[:, 0].argmax(0)
        expected.append(adjusted_rand_score(true[true > 0], predicted[true > 0]))
    assert metrics["ari_fg"] == pytest.approx(np.mean(expected))
    assert {"ari", "ari_fg_attention", "iwae_bpd", "frechet_reason", "structure_accuracy_reason"} <= metrics.keys()
    assert metrics["data"].startswith("generated")
    json.dumps(metrics, allow_nan=False)


def test_same_seed_same_metrics(tetrominoes: Path) -> None:
    sri = build_sri()
    runs = [evaluate(*sri, tetrominoes, num_images=4, iwae_images=1, iwae_samples=2) for _ in range(2)]
    assert runs[0] == runs[1]


def test_unnormalised_likelihoods_are_reported_normalised(tetrominoes: Path) -> None:
    results = []
    for normalised in (True, False):
        pyro.set_rng_seed(0)
        sri = build_sri(likelihood=ImageLikelihood(normalised=normalised))
        results.append(evaluate(*sri, tetrominoes, num_images=4, iwae_images=2, iwae_samples=2))
    for name in ("nll", "segregation_nll", "bpd", "iwae_bpd"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5)


def test_data_without_masks(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    write_dataset(tmp_path / "plain.h5", {"test": [Scenes(images)]}, {})
    metrics = evaluate(*build_sri(), tmp_path / "plain.h5", iwae_images=0)
    assert metrics["ari_fg"] is None
    assert metrics["ari_fg_reason"] == "the data has no masks"
    assert metrics["iwae_bpd"] is None
    assert metrics["mse"] > 0


def test_images_without_foreground_are_left_out_and_counted(tmp_path: Path, tetrominoes: Path) -> None:
    with h5py.File(tetrominoes) as file:
        images, masks = file["test/imgs"][:4], file["test/masks"][:4]
    masks[1, 0], masks[1, 1:] = 255, 0
    write_dataset(tmp_path / "some.h5", {"test": [Scenes(images, masks)]}, {})
    sri = build_sri()
    metrics = evaluate(*sri, tmp_path / "some.h5", iwae_images=0)
    assert metrics["num_images_without_foreground"] == 1
    assert math.isfinite(metrics["ari_fg"])


def test_a_broken_model_is_not_scored_as_if_it_were_fine(tetrominoes: Path) -> None:
    model, guide = build_sri()
    with torch.no_grad():
        model.decoder.layers[13].bias.fill_(float("nan"))
    with pyro.validation_enabled(False), pytest.raises(UserError, match="not finite"):
        evaluate(model, guide, tetrominoes, num_images=4, iwae_images=0)


class Linear(torch.nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1) for every pixel of a 3x4x4 image: log p(x) has a closed form."""

    def __init__(self, exact: bool) -> None:
        super().__init__()
        self.exact = exact

    def model(self, images: torch.Tensor) -> None:
        with pyro.plate("scenes", len(images)):
            z = pyro.sample("scene", Normal(torch.zeros(len(images), 1), 1.0).to_event(1))
            rgb = z[:, :, None, None, None].expand(-1, 1, 3, 4, 4)
            likelihood = ImageLikelihood(kind="gaussian", pixel_std=1.0, normalised=False)
            pyro.sample("image", likelihood(rgb, torch.zeros(len(images), 1, 1, 4, 4)), obs=images)

    def guide(self, images: torch.Tensor) -> None:
        precision = 1 + images[0].numel()
        loc = images.flatten(1).sum(1, keepdim=True) / precision
        scale = precision**-0.5 * (1.0 if self.exact else 1.5)
        with pyro.plate("scenes", len(images)):
            pyro.sample("scene", Normal(loc, scale).to_event(1))


@pytest.mark.parametrize("exact", [True, False])
def test_importance_bound_against_the_closed_form(exact: bool) -> None:
    linear = Linear(exact)
    images = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    flat = images.flatten(1)
    covariance = torch.eye(48, dtype=torch.float64) + 1
    evidence = torch.distributions.MultivariateNormal(torch.zeros(48, dtype=torch.float64), covariance).log_prob(flat)
    bound = importance_bound(importance_log_weights(linear.model, linear.guide, images, 2000, chunk=500))
    tolerance = 1e-5 if exact else 0.1
    torch.testing.assert_close(bound, evidence, atol=tolerance, rtol=0)


def test_more_samples_tighten_the_bound(images: torch.Tensor) -> None:
    sri = build_sri()
    log_weights = importance_log_weights(*sri, images, 64)
    assert importance_bound(log_weights).mean() > log_weights.mean()
    terms = SRI_ELBO().terms(*sri, images)
    elbo = -(terms["nll"] + terms["kl_scene"] + terms["kl_slots"]).mean()
    assert importance_bound(log_weights).mean() > elbo - 5


def test_explanation_is_in_slot_order(images: torch.Tensor) -> None:
    model, guide = build_sri(num_slots=4)
    explanation = explain(model, guide, images)
    assert explanation.attention_masks.shape == explanation.slot_masks.shape == (4, 4, 1, 32, 32)
    assert explanation.imagination.shape == images.shape
    torch.testing.assert_close(explanation.attention_masks.sum(1), torch.ones(4, 1, 32, 32))


@pytest.mark.parametrize("num_slots", [None, 2, 5])
def test_sample_scenes(num_slots: int | None) -> None:
    model, _ = build_sri()
    scenes = sample_scenes(model, 5, num_slots=num_slots, temperature=0.7, chunk=2)
    assert scenes.images.shape == (5, 3, 32, 32)
    assert scenes.slot_rgb.shape == (5, num_slots or 3, 3, 32, 32)
    torch.testing.assert_close((scenes.slot_rgb * scenes.slot_masks).sum(1), scenes.images)


def test_counts_by_hand() -> None:
    metrics = _counts(np.array([[0, 0], [1, 1], [1, 2], [2, 2]]))
    assert metrics["count_accuracy"] == 0.75
    assert (metrics["count_1_found_1"], metrics["count_1_found_2"], metrics["count_2_found_1"]) == (1, 1, 0)
    assert sum(value for name, value in metrics.items() if "found" in name) == 4
    assert _counts(np.array([[3, 2]])) == {
        "count_accuracy": 0.0,
        **{f"count_3_found_{found}": int(found == 2) for found in range(4)},
    }
    assert "no masks" in _counts(np.empty((0, 2), dtype=int))["count_accuracy_reason"]


def test_only_systems_that_count_have_counts(sri: Any, tetrominoes: Path) -> None:
    assert "count_accuracy" not in evaluate(*sri, tetrominoes, num_images=4, iwae_images=0)
