"""Images that no data set should hold: a step, an evaluation and samples of every system stay finite."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_sri.data.format import SceneArrays
from pyro_sri.data.writing import write_dataset
from pyro_sri.evaluation import Metrics, evaluate
from pyro_sri.inference import Explanation, explain, sample_scenes
from pyro_sri.training.step import Stepper, TrainingStep
from support.soaked import PRESETS, build

SIZE = 32


def batches() -> dict[str, np.ndarray]:
    """Extreme batches uint8 [B, 32, 32, 3] by name: of one image, but for the one of two that are equal."""
    random = np.random.default_rng(0)
    pixel = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    pixel[:, 5, 7] = 255
    noise = random.integers(0, 256, pixel.shape, dtype=np.uint8)
    return {
        "black": np.zeros_like(pixel),
        "white": np.full_like(pixel, 255),
        "one colour": np.broadcast_to(np.array([50, 180, 100], np.uint8), pixel.shape).copy(),
        "a single pixel": pixel,
        "noise": noise,
        "equal images": np.repeat(noise, 2, axis=0),
        "all at 0 or 1": 255 * random.integers(0, 2, pixel.shape, dtype=np.uint8),
    }


def check_step(module: TrainingStep, stepper: Stepper, images: np.ndarray, name: str) -> None:
    """A step with finite terms, gradients and parameters."""
    stepper(torch.from_numpy(images), step=0)
    assert all(map(math.isfinite, stepper.take_means().values())), name
    for parameter, tensor in module.named_parameters():
        assert torch.isfinite(tensor).all(), (name, parameter)
        assert tensor.grad is None or torch.isfinite(tensor.grad).all(), (name, parameter)
    for buffer, tensor in module.named_buffers():
        assert torch.isfinite(tensor).all(), (name, buffer)


def check_explanation(explanation: Explanation) -> None:
    """Finite pictures, and masks that are probabilities."""
    for value in explanation:
        assert not isinstance(value, torch.Tensor) or torch.isfinite(value).all()
    total = explanation.slot_masks.sum(1)
    assert explanation.slot_masks.min() >= 0
    assert total.max() <= 1 + 1e-5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_on_every_batch(preset: str) -> None:
    module, stepper = build(preset)
    for name, images in batches().items():
        check_step(module, stepper, images, name)
    module.eval()
    images = torch.from_numpy(batches()["a single pixel"]).permute(0, 3, 1, 2) / 255
    check_explanation(explain(module.model, module.guide, images, module.elbo))


@pytest.mark.parametrize("num_slots", [1, 16])
@pytest.mark.parametrize("preset", PRESETS)
def test_one_slot_and_many(preset: str, num_slots: int) -> None:
    module, stepper = build(preset, num_slots)
    images = batches()["noise"]
    check_step(module, stepper, images, "noise")
    module.eval()
    check_explanation(
        explain(module.model, module.guide, torch.from_numpy(images).permute(0, 3, 1, 2) / 255, module.elbo)
    )


def scenes(name: str) -> SceneArrays:
    """Eight scenes with the background and two objects: mixed extremes, eight times the same, or nothing at all."""
    random = np.random.default_rng(1)
    images = np.zeros((8, SIZE, SIZE, 3), np.uint8)
    masks = np.zeros((8, 3, SIZE, SIZE, 1), np.uint8)
    factors = random.normal(size=(8, 3, 2))
    if name == "nothing":  # no pixel belongs to anything
        return SceneArrays(images, masks, factors)
    masks[:, 0] = 255
    images[:, :, :16], masks[:, 1, :, :16], masks[:, 2, :, 16:] = 200, 255, 255
    if name == "constant":
        return SceneArrays(images, masks, np.zeros_like(factors))
    images[0], masks[0, 1:] = 0, 0  # an empty scene
    images[1], masks[1, 1] = 255, 255  # an object everywhere
    images[2], masks[2, 1:] = 0, 0
    images[2, 5, 7], masks[2, 1, 5, 7] = 255, 255  # of a single pixel
    images[3], masks[3] = random.integers(0, 256, images[3].shape), 0  # without an entity
    return SceneArrays(images, masks, factors)


def check_metrics(metrics: Metrics) -> None:
    """Numbers, or None with a reason: what JSON can hold without NaN."""
    json.dumps(metrics, allow_nan=False)
    for name, value in metrics.items():
        assert value is not None or metrics[f"{name}_reason"], name


@pytest.mark.parametrize("name", ["mixed", "constant", "nothing"])
def test_metrics_are_numbers_or_have_a_reason(name: str, tmp_path: Path) -> None:
    attributes = {"factor_names": ["size", "angle"], "generator": "stacks"}
    write_dataset(tmp_path / "data.h5", {"test": [scenes(name)]}, attributes)
    for preset, num_slots in (("sri-mog-shapestacks", None), ("sri-mog-shapestacks", 1), ("air-multi_digits", None)):
        module = build(preset, num_slots)[0].eval()
        settings = {"iwae_images": 1, "iwae_samples": 2, "batch_size": 4}
        metrics = evaluate(module.model, module.guide, tmp_path / "data.h5", module.elbo, **settings)
        check_metrics(metrics)
        for score in ("ari", "ari_fg", "ari_fg_attention", "order_consistency"):
            assert metrics[score] is None or metrics[score] <= 1
        assert (metrics["ari"] is None) == (name == "nothing")
        if name == "nothing":
            assert metrics["ari_reason"] == "no pixel of any image belongs to an entity"
            assert metrics["ari_fg_reason"] == "no image has foreground"
            if preset.startswith("sri"):
                assert metrics["dci_completeness_reason"] == "no slot holds an object"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed", "constant", "nothing"])
@pytest.mark.parametrize("num_slots", [None, 1, 16])
@pytest.mark.parametrize("preset", PRESETS)
def test_metrics_of_every_system(preset: str, num_slots: int | None, name: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data.h5", {"test": [scenes(name)]}, {"factor_names": ["size", "angle"]})
    module = build(preset, num_slots)[0].eval()
    settings = {"iwae_images": 2, "iwae_samples": 2, "num_samples": 6}
    check_metrics(evaluate(module.model, module.guide, tmp_path / "data.h5", module.elbo, **settings))


@pytest.mark.parametrize("preset", PRESETS)
def test_samples_at_any_temperature(preset: str) -> None:
    """From the prior's mean to latents ten thousand standard deviations away: pictures, and masks that sum to 1."""
    module, _ = build(preset)
    module.eval()
    spread = {}  # small at any temperature where the published start of a decoder is
    for temperature in (1e-6, 1.0, 1e4):
        torch.manual_seed(3)
        drawn = sample_scenes(module.model, 3, temperature=temperature)
        for tensor in drawn:
            assert torch.isfinite(tensor).all(), temperature
        if not preset.startswith("air"):  # whose presence bits have no temperature, and whose masks leave out the black
            torch.testing.assert_close(drawn.slot_masks.sum(1), torch.ones(3, 1, SIZE, SIZE))
            spread[temperature] = (drawn.images[0] - drawn.images[1]).abs().max().item()
    if spread:
        assert spread[1e-6] < 0.01 * min(spread[1.0], spread[1e4])
