import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Normal
from sklearn.metrics import adjusted_rand_score

from pyro_sri.config import RunConfig
from pyro_sri.data.format import DatasetFile, SceneArrays
from pyro_sri.data.loading import evaluation_batches, to_images
from pyro_sri.data.writing import write_dataset
from pyro_sri.distributions import ImageLikelihood
from pyro_sri.evaluation import MEANINGS, Metrics, evaluate
from pyro_sri.evaluation.draws import evaluate_draws
from pyro_sri.evaluation.evaluate import structure_rule
from pyro_sri.evaluation.likelihood import (
    bound_of_log_weights,
    effective_sample_size,
    importance_bound,
    importance_log_weights,
)
from pyro_sri.evaluation.measures import Truth
from pyro_sri.evaluation.measures.bound import Bound
from pyro_sri.evaluation.measures.codes import CodeQuality
from pyro_sri.evaluation.measures.counting import Counting
from pyro_sri.evaluation.measures.order import Order
from pyro_sri.evaluation.measures.segmentation import Segmentation
from pyro_sri.evaluation.measures.structure import TrueStructure
from pyro_sri.evaluation.samples import evaluate_samples
from pyro_sri.evaluation.summary import CONDITIONS, flagged
from pyro_sri.features import ScatteringFeatures, cache_folder
from pyro_sri.inference import Codes, draw_scenes, explain, join_scenes, sample_scenes
from pyro_sri.objectives import SRI_ELBO
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError
from support.programs import build_sri


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
    assert {"ari", "ari_fg_attention", "iwae_bpd", "frechet", "structure_accuracy_reason"} <= metrics.keys()
    assert metrics["data"].startswith("generated")
    assert "; try" in metrics["collapse"]  # of a model that learnt nothing
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"generator": "towers"}, "tower"),
        ({"generator": "towers_broken"}, "tower"),
        ({"generator": "tetrominoes"}, None),
        ({"dataset": "objects_room"}, "room"),
        ({}, None),
    ],
)
def test_the_rule_is_that_of_the_family(tmp_path: Path, attributes: dict[str, str], rule: str | None) -> None:
    write_dataset(tmp_path / "a.h5", {"test": [SceneArrays(np.zeros((1, 8, 8, 3), dtype=np.uint8))]}, attributes)
    with DatasetFile(tmp_path / "a.h5") as file:
        assert structure_rule(file) == rule


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
    write_dataset(tmp_path / "plain.h5", {"test": [SceneArrays(images)]}, {})
    metrics = evaluate(*build_sri(), tmp_path / "plain.h5", iwae_images=0)
    assert metrics["ari_fg"] is None
    assert metrics["ari_fg_reason"] == "the data has no masks"
    assert metrics["iwae_bpd"] is None
    assert metrics["mse"] > 0


@pytest.mark.parametrize(
    ("factors", "names"),
    [
        (np.ones((16, 5)), None),
        (np.ones((16, 2, 5)), None),
        (np.ones((16, 4, 5, 2)), None),
        (np.ones((16, 4, 5)), ["x"]),
        (np.zeros(16, [("light", "f8"), ("camera", "f4", 2)]), None),
    ],
)
def test_factors_of_another_shape_leave_out_dci(tmp_path: Path, tetrominoes: Path, factors: Any, names: Any) -> None:
    shutil.copy(tetrominoes, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["test/factors"], file.attrs["factor_names"]
        file["test/factors"] = factors
        if names is not None:
            file.attrs["factor_names"] = names
    metrics = evaluate(*build_sri(), tmp_path / "a.h5", num_images=4, iwae_images=0, num_samples=0)
    assert metrics["dci_disentanglement"] is None
    assert metrics["dci_disentanglement_reason"].startswith("the data's factors have")
    assert metrics["active_dimensions"] is not None


def test_overlapping_masks_are_scored_by_what_is_seen(tmp_path: Path, tetrominoes: Path) -> None:
    with h5py.File(tetrominoes) as file:
        images, masks = file["test/imgs"][:], file["test/masks"][:]
    whole = masks.copy()
    whole[:, 0] = 255  # the background lies behind everything
    scores, sri = [], build_sri()
    for name, some in (("exact.h5", masks), ("whole.h5", whole)):
        write_dataset(tmp_path / name, {"test": [SceneArrays(images, some)]}, {"dataset": "shapestacks"})
        scores.append(evaluate(*sri, tmp_path / name, num_images=6, iwae_images=0, num_samples=0))
    for name in ("ari", "ari_fg", "order_consistency", "structure_accuracy_data"):
        assert scores[0][name] == scores[1][name], name


def test_data_without_a_background(tmp_path: Path, tetrominoes: Path) -> None:
    with h5py.File(tetrominoes) as file:
        images, masks = file["test/imgs"][:], file["test/masks"][:, 1:]
    scenes = {"test": [SceneArrays(images, masks)]}
    write_dataset(tmp_path / "a.h5", scenes, {"background_entities": [], "dataset": "shapestacks"})
    sri = build_sri()
    metrics, whole = (
        evaluate(*sri, path, num_images=6, iwae_images=0, num_samples=0) for path in (tmp_path / "a.h5", tetrominoes)
    )
    assert metrics["ari_fg"] == pytest.approx(whole["ari_fg"])
    assert metrics["num_images_without_foreground"] == 0
    assert metrics["structure_accuracy_data"] < 1  # nothing but the pieces is an object


def test_images_without_foreground_are_left_out_and_counted(tmp_path: Path, tetrominoes: Path) -> None:
    with h5py.File(tetrominoes) as file:
        images, masks = file["test/imgs"][:4], file["test/masks"][:4]
    masks[1, 0], masks[1, 1:] = 255, 0
    write_dataset(tmp_path / "some.h5", {"test": [SceneArrays(images, masks)]}, {})
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
    bound = importance_bound(linear.model, linear.guide, images, 2000, chunk=500)
    tolerance = 1e-5 if exact else 0.1
    torch.testing.assert_close(bound, evidence, atol=tolerance, rtol=0)


def test_more_samples_tighten_the_bound(images: torch.Tensor) -> None:
    sri = build_sri()
    log_weights = importance_log_weights(*sri, images, 64)
    assert bound_of_log_weights(log_weights).mean() > log_weights.mean()
    terms = SRI_ELBO().terms(*sri, images)
    elbo = -(terms["nll"] + terms["kl_scene"] + terms["kl_slots"]).mean()
    assert bound_of_log_weights(log_weights).mean() > elbo - 5


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


def test_scenes_come_a_few_at_a_time() -> None:
    model, _ = build_sri()
    pyro.set_rng_seed(0)
    pieces = list(draw_scenes(model, 5, chunk=2))
    pyro.set_rng_seed(0)
    assert [len(piece.images) for piece in pieces] == [2, 2, 1]
    torch.testing.assert_close(join_scenes(pieces).images, sample_scenes(model, 5, chunk=2).images, rtol=0, atol=0)


def counted(there: list[int], found: list[int]) -> dict[str, Any]:
    """What is measured of images with so many objects, in which so many were found."""
    measure = Counting()
    masks = np.zeros((len(there), 4, 2, 2, 1), dtype=np.uint8)
    masks[:, 0] = 255
    for image, count in enumerate(there):
        masks[image, 1 : 1 + count, 0, 0] = 255
    explanation = SimpleNamespace(counts=torch.tensor(found))
    measure.update(explanation, Truth(masks, (0,)))
    return measure.result()


def test_counts_by_hand() -> None:
    metrics = counted([0, 1, 1, 2], [0, 1, 2, 2])
    assert metrics["count_accuracy"] == 0.75
    assert (metrics["count_1_found_1"], metrics["count_1_found_2"], metrics["count_2_found_1"]) == (1, 1, 0)
    assert sum(value for name, value in metrics.items() if "found" in name) == 4
    assert counted([3], [2]) == {
        "count_accuracy": 0.0,
        **{f"count_3_found_{found}": int(found == 2) for found in range(4)},
    }
    measure = Counting()
    measure.update(SimpleNamespace(counts=torch.tensor([1])), Truth(None, (0,)))
    assert "no masks" in measure.result()["count_accuracy_reason"]


def test_only_systems_that_count_have_counts(sri: Any, tetrominoes: Path) -> None:
    assert "count_accuracy" not in evaluate(*sri, tetrominoes, num_images=4, iwae_images=0)


def test_every_metric_is_explained(tetrominoes: Path) -> None:
    metrics = evaluate(*build_sri(), tetrominoes, num_images=8, iwae_images=2, iwae_samples=9)
    names = {name for name in metrics if not name.endswith(("_reason", "_stderr", "_surprising"))}
    assert names <= MEANINGS.keys() | CONDITIONS.keys()
    assert {"frechet", "precision", "coverage", "nll_above_floor", "ppc_misfit", "iwae_bpd_8"} <= names
    assert all(f"{name}_reason" in metrics for name, value in metrics.items() if value is None)


class Drawer(torch.nn.Module):
    """A scene model that draws the scenes of a file, one after the other."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        batch = next(evaluation_batches(path, "test", 16))
        self.images = to_images(batch["images"], "cpu")
        self.masks = (batch["masks"] > 0).float().movedim(-1, 2)
        self.drawn = 0

    def forward(self, *, num_scenes: int, num_slots: int | None, temperature: float) -> None:
        chosen = (self.drawn + torch.arange(num_scenes)) % len(self.images)
        self.drawn += num_scenes
        with pyro.plate("scenes", num_scenes):
            pyro.deterministic("reconstruction", self.images[chosen], event_dim=3)
            pyro.deterministic("slot_masks", self.masks[chosen], event_dim=4)
            pyro.deterministic("slot_rgb", self.images[chosen, None] * torch.ones(1, 1, 1, 1, 1), event_dim=4)


def compare(model: torch.nn.Module, path: Path, **changes: Any) -> dict[str, Any]:
    options = {"num_real": 16, "num_generated": 16, "rule": None, "device": "cpu", "progress": lambda *_: None}
    return evaluate_samples(model, ScatteringFeatures(), path, "test", **(options | changes))


def test_a_model_that_draws_the_data_is_perfect(tetrominoes: Path) -> None:
    metrics = compare(Drawer(tetrominoes), tetrominoes)
    assert metrics["frechet"] == pytest.approx(0, abs=1e-6)
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1, 1, 1)
    assert metrics["density"] == pytest.approx(1 + 1 / 5)
    assert (metrics["frechet_images"], metrics["num_samples"]) == (16, 16)
    assert "no rule" not in metrics["structure_accuracy_reason"]
    assert compare(build_sri()[0], tetrominoes)["frechet"] > 0.1


def test_features_of_real_images_come_from_the_cache(tetrominoes: Path) -> None:
    metrics = compare(Drawer(tetrominoes), tetrominoes, num_real=15)
    kept = {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*.npz")}
    assert kept
    assert compare(Drawer(tetrominoes), tetrominoes, num_real=15) == metrics
    assert kept == {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*.npz")}


def test_generated_scenes_are_left_out_as_asked(tetrominoes: Path) -> None:
    metrics = compare(Drawer(tetrominoes), tetrominoes, num_generated=0)
    assert metrics["frechet"] is None
    assert metrics["frechet_reason"] == metrics["structure_accuracy_reason"] == "left out as asked"
    few = compare(Drawer(tetrominoes), tetrominoes, num_generated=5)
    assert few["precision"] is None
    assert "6 images" in few["precision_reason"]


def test_structure_of_generated_and_true_scenes(tmp_path: Path) -> None:
    masks = np.zeros((4, 3, 32, 32, 1), dtype=np.uint8)
    masks[:, 1, 16:24, 12:20] = masks[:, 2, 8:16, 12:20] = 255  # one block on the other
    masks[3, 2] = np.roll(masks[3, 2], -4, axis=0)  # and once above it
    masks[:, 0] = 255 * (~masks[:, 1:].any(1))
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    write_dataset(tmp_path / "towers.h5", {"test": [SceneArrays(images, masks)]}, {})
    model = Drawer.__new__(Drawer)
    torch.nn.Module.__init__(model)
    model.images, model.drawn = torch.rand(4, 3, 32, 32), 0
    model.masks = torch.from_numpy(masks > 0).float().movedim(-1, 2)
    metrics = compare(model, tmp_path / "towers.h5", num_real=4, num_generated=8, rule="tower")
    assert metrics["structure_accuracy"] == 0.75
    assert metrics["structure_accuracy_stderr"] == pytest.approx(math.sqrt(0.75 * 0.25 / 8))
    truth = TrueStructure("tower")
    truth.update(SimpleNamespace(), Truth(masks, (0,)))
    assert truth.result() == {"structure_accuracy_data": 0.75}


def images_of(linear: Linear, number: int, std: float) -> torch.Tensor:
    """Images drawn from the linear model, its pixel noise multiplied."""
    return torch.randn(number, 1, 1, 1) + std * torch.randn(number, 3, 4, 4)


def test_bounds_and_predictive_checks_of_a_true_model() -> None:
    linear = Linear(exact=True)
    images = images_of(linear, 200, 1.0)
    metrics = evaluate_draws(linear.model, linear.guide, [images[:80], images[80:]], 64)
    covariance = torch.eye(48) + 1
    evidence = torch.distributions.MultivariateNormal(torch.zeros(48), covariance).log_prob(images.flatten(1))
    expected = -evidence.mean().item() / (48 * math.log(2))
    for name in ("iwae_bpd", "iwae_bpd_8", "iwae_bpd_1"):  # the posterior is exact: so is every bound
        assert metrics[name] == pytest.approx(expected, rel=1e-4)
    assert metrics["iwae_bpd_stderr"] == pytest.approx(
        evidence.std().item() / math.sqrt(200) / (48 * math.log(2)), rel=1e-3
    )
    assert metrics["iwae_sample_size"] == pytest.approx(64, rel=1e-3)
    assert (metrics["iwae_images"], metrics["iwae_samples"]) == (200, 64)
    # The mean brightness hardly moves once it is known; the misfit is a chi-square of 48 pixels.
    assert metrics["ppc_brightness"] == pytest.approx(0.5, abs=0.1)
    assert metrics["ppc_misfit"] == pytest.approx(0.5, abs=0.08)
    assert metrics["ppc_misfit_surprising"] < 0.12


def test_predictive_checks_find_a_false_model() -> None:
    linear = Linear(exact=True)
    noisy = evaluate_draws(linear.model, linear.guide, [images_of(linear, 50, 2.0)], 40)
    calm = evaluate_draws(linear.model, linear.guide, [images_of(linear, 50, 0.5)], 40)
    assert noisy["ppc_misfit"] < 0.01 < 0.99 < calm["ppc_misfit"]
    assert noisy["ppc_roughness"] < 0.05 < 0.95 < calm["ppc_roughness"]
    assert calm["ppc_misfit_surprising"] > 0.9


def test_draws_that_cannot_tell_are_no_results() -> None:
    linear = Linear(exact=True)
    few = evaluate_draws(linear.model, linear.guide, [images_of(linear, 20, 1.0)], 38)
    assert 0 < few["ppc_misfit"] < 1
    assert few["ppc_misfit_surprising"] is None
    assert "at least 39 draws" in few["ppc_misfit_surprising_reason"]
    alone = evaluate_draws(linear.model, linear.guide, [images_of(linear, 2, 1.0)], 1)
    assert alone["iwae_sample_size"] is None
    assert alone["iwae_bpd"] is not None
    config = PRESETS["air-multi_digits"].config.tiny()
    model, guide, _ = config.build()
    grey = torch.rand(2, 1, config.image_size, config.image_size).expand(-1, 3, -1, -1)
    metrics = evaluate_draws(model, guide, [grey], 2)
    assert metrics["ppc_saturation"] is None  # of grey images and of the model's, which are all grey
    assert "never differ" in metrics["ppc_saturation_reason"]
    assert metrics["ppc_brightness"] is not None


def test_effective_sample_size_by_hand() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]])
    torch.testing.assert_close(effective_sample_size(weights.log()), torch.tensor([4.0, 1.0, 2.0]))


def test_bounds_from_fewer_draws_by_hand() -> None:
    log_weights = torch.tensor([[1.0, 3.0, 2.0, 8.0, 5.0]]).log()
    expected = (math.log(2) + math.log(5)) / 2  # two pairs; the last draw has none
    torch.testing.assert_close(bound_of_log_weights(log_weights, 2), torch.tensor([expected]))
    torch.testing.assert_close(bound_of_log_weights(log_weights), torch.tensor([math.log(19 / 5)]))


def scene_of_slots(order: list[list[int]]) -> tuple[np.ndarray, torch.Tensor]:
    """True masks of a background and three objects in rows, and slot masks in the order given for each image."""
    masks = np.zeros((len(order), 4, 8, 8, 1), dtype=np.uint8)
    for entity, row in enumerate((6, 4, 2), start=1):  # from the lowest upwards
        masks[:, entity, row, 2:6] = 255
    masks[:, 0] = 255 * (~masks[:, 1:].any(1))
    slots = np.take_along_axis(masks, np.array(order)[:, :, None, None, None], axis=1)
    return masks, torch.from_numpy(slots > 0).float().movedim(-1, 2)


def test_order_of_the_slots() -> None:
    rng = np.random.default_rng(0)
    results = []
    for orders in ([[0, 3, 1, 2]] * 60, [rng.permutation(4).tolist() for _ in range(60)]):
        measure = Order()
        for part in (orders[:20], orders[20:]):
            masks, slots = scene_of_slots(part)
            measure.update(SimpleNamespace(slot_masks=slots), Truth(masks, (0,)))
        results.append(measure.result())
    assert results[0]["order_consistency"] == pytest.approx(1)
    assert results[0]["order_information"] == pytest.approx(math.log2(3))  # bits: one of three objects
    assert results[0]["order_background"] == 1
    assert abs(results[1]["order_consistency"]) < 4 * results[1]["order_consistency_stderr"]
    assert results[1]["order_background"] < 0.5


def test_a_background_that_comes_first_is_no_order_of_objects() -> None:
    rng = np.random.default_rng(1)
    measure = Order()
    masks, slots = scene_of_slots([[0, *(1 + rng.permutation(3)).tolist()] for _ in range(100)])
    measure.update(SimpleNamespace(slot_masks=slots), Truth(masks, (0,)))
    result = measure.result()
    assert abs(result["order_consistency"]) < 4 * result["order_consistency_stderr"]
    assert result["order_background"] == 1


def test_masks_that_leave_the_background_out_gain_it() -> None:
    """As those of AIR: objects alone."""
    masks, slots = scene_of_slots([[0, 1, 2, 3]] * 4)
    measure, order = Segmentation(), Order()
    for part in (measure, order):
        part.update(SimpleNamespace(slot_masks=slots[:, 1:] * 0.9, attention_masks=None), Truth(masks, (0,)))
    result = measure.result()
    assert result["ari"] == result["ari_fg"] == pytest.approx(1)
    faint = Segmentation()
    faint.update(SimpleNamespace(slot_masks=slots[:, 1:] * 0.3, attention_masks=None), Truth(masks, (0,)))
    assert faint.result()["ari_fg"] == pytest.approx(1)
    assert faint.result()["ari"] == 0  # all is background
    assert order.positions[0].tolist() == [[-1, 0, 1, 2]] * 4
    assert order.result()["order_consistency"] == pytest.approx(1)
    assert order.result()["order_background"] is None  # it has no slot
    assert "hold objects only" in order.result()["order_background_reason"]


def test_missed_objects_have_no_position() -> None:
    """The background's mask, which objects alone leave, is not a slot that holds what was missed."""
    masks, slots = scene_of_slots([[0, 1, 2, 3]] * 30)
    found = slots[:, 1:].clone()
    found[:, 2] = 0
    found[::2] = found[::2].flip(1)
    order = Order()
    order.update(SimpleNamespace(slot_masks=found), Truth(masks, (0,)))
    assert np.unique(order.positions[0], axis=0).tolist() == [[-1, 0, 1, -1], [-1, 2, 1, -1]]
    masks, slots = scene_of_slots([[0, 1, 2, 3]] * 4)
    alone = Order()
    slots[:, 2:] = 0
    alone.update(SimpleNamespace(slot_masks=slots[:, 1:]), Truth(masks, (0,)))
    assert alone.result()["order_consistency"] is None
    nothing = Segmentation()
    nothing.update(SimpleNamespace(slot_masks=0 * slots[:, 1:], attention_masks=None), Truth(masks[:, :2], (0,)))
    assert nothing.result()["ari_fg"] == 0  # not held by the first slot


def test_one_image_has_no_commonest_position() -> None:
    measure = Order()
    masks, slots = scene_of_slots([[0, 1, 2, 3]])
    measure.update(SimpleNamespace(slot_masks=slots), Truth(masks, (0,)))
    assert "fewer than two images" in measure.result()["order_background_reason"]


def test_codes_that_are_the_factors_are_disentangled() -> None:
    rng = np.random.default_rng(1)
    measure = CodeQuality(("shape", "size"))
    for _ in range(3):
        masks, slots = scene_of_slots([[0, 1, 2, 3]] * 20)
        factors = np.stack([rng.integers(0, 3, (20, 4)), rng.random((20, 4))], axis=-1)
        # A dimension for each factor, one for the row that object_factors adds, one that says nothing.
        rows = np.broadcast_to(np.arange(4.0), (20, 4))
        means = np.stack([factors[..., 0], factors[..., 1], rows, np.zeros((20, 4))], axis=-1)
        codes = Codes(torch.from_numpy(means), torch.full((20, 4, 4), 0.1, dtype=torch.float64))
        measure.update(SimpleNamespace(codes=codes, slot_masks=slots), Truth(masks, (0,), factors))
    metrics = measure.result()
    assert min(metrics["dci_disentanglement"], metrics["dci_completeness"], metrics["dci_informativeness"]) > 0.9
    assert metrics["active_dimensions"] == 3
    assert metrics["dci_images"] == 60
    spreads = np.stack([m.reshape(-1, 4) for m in measure.means]).reshape(-1, 4).std(0, ddof=1)
    assert metrics["activeness"] == pytest.approx((spreads / 0.1).mean())


def test_what_codes_need() -> None:
    masks, slots = scene_of_slots([[0, 1, 2, 3]] * 2)
    without = CodeQuality(())
    without.update(SimpleNamespace(codes=None), Truth(masks, (0,)))
    assert "no slots with their own codes" in without.result()["dci_completeness_reason"]
    computed = CodeQuality(())
    codes = Codes(torch.randn(2, 4, 3), torch.zeros(2, 4, 3))
    computed.update(SimpleNamespace(codes=codes, slot_masks=slots), Truth(masks, (0,)))
    assert "no masks or no factors" in computed.result()["dci_completeness_reason"]
    assert "deterministic" in computed.result()["activeness_reason"]


def test_nll_stands_above_its_floor(images: torch.Tensor) -> None:
    for kind in ("mog", "gaussian"):
        likelihood = ImageLikelihood(kind=kind, pixel_std=0.3)
        exact = likelihood(
            images[:, None].expand(-1, 2, -1, -1, -1), torch.full((len(images), 2, 1, 32, 32), 0.5).log()
        )
        torch.testing.assert_close(-exact.log_prob(images), torch.full((len(images),), exact.nll_floor))
        measure = Bound()
        explanation = explain(*build_sri(likelihood=likelihood), images)
        measure.update(explanation, Truth(None, (0,)))
        metrics = measure.result()
        assert metrics["nll_above_floor"] == pytest.approx(metrics["nll"] - exact.nll_floor, rel=1e-4)
        assert metrics["nll_above_floor"] > 0


def test_an_auto_encoder_has_no_bound(tetrominoes: Path) -> None:
    config = dataclasses.replace(PRESETS["slot_attention-tetrominoes"].config.tiny(), image_size=32)
    metrics = _evaluated(config, tetrominoes)
    for name in ("bpd", "bpd_with_cross", "kl", "iwae_bpd", "beta", "frechet", "structure_accuracy"):
        assert metrics[name] is None
        assert "auto-encoder" in metrics[f"{name}_reason"]
    assert metrics["nll"] > 0
    assert not any(name.startswith(("iwae_bpd_", "ppc_")) and name != "iwae_bpd_reason" for name in metrics)


def _evaluated(config: RunConfig, data: Path, **weights: float) -> Metrics:
    model, guide, elbo = config.build()
    for name, geco in elbo.controllers().items():
        geco.beta.fill_(weights.get(name, 1.0))
    return evaluate(model, guide, data, elbo.eval(), iwae_images=2, iwae_samples=2, num_samples=6, num_images=6)


def test_what_the_kls_weighed_is_among_the_metrics(tetrominoes: Path) -> None:
    config = dataclasses.replace(PRESETS["sri-quick"].config.tiny(), num_slots=4)
    metrics = _evaluated(config, tetrominoes, beta=0.01, beta_segregation=0.5)
    assert metrics["beta"] == pytest.approx(0.01)
    assert metrics["beta_segregation"] == pytest.approx(0.5)
    assert metrics["beta_flag"].startswith("beta is 0.01, not 1")
    for name in ("bpd", "bpd_with_cross", "iwae_bpd"):
        assert flagged(name, metrics) == metrics["beta_flag"]
    assert not flagged("mse", metrics)
    fine = _evaluated(config, tetrominoes)
    assert fine["beta"] == 1
    assert "beta_flag" not in fine


@pytest.mark.parametrize("preset", ["emorl-quick", "sri_emorl-quick"])
def test_emorls_weight_is_not_its_beta(preset: str, tetrominoes: Path) -> None:
    metrics = _evaluated(PRESETS[preset].config.tiny(), tetrominoes, beta=0.55, beta_segregation=0.55)
    assert metrics["beta"] == pytest.approx(1.0055, abs=1e-4)
    if preset == "sri_emorl-quick":
        assert metrics["beta_segregation"] == pytest.approx(1.0055, abs=1e-4)
    assert "beta_flag" not in metrics
