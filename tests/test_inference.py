"""Asking a pair what it sees: whatever mode it is in, and without naming its objective."""

import dataclasses
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

import pyro_sri
from pyro_sri.config import GenesisConfig
from pyro_sri.evaluation import evaluate, importance_log_weights
from pyro_sri.inference import explain, sample_scenes
from pyro_sri.objectives import SRI_ELBO, objective_of
from pyro_sri.presets import PRESETS
from pyro_sri.system.errors import UserError
from support.programs import build_sri
from support.systems import uncovered

systems = pytest.mark.parametrize("preset", uncovered(()))


def build(preset: str, **fields: Any) -> tuple[Any, Any, Any, Tensor]:
    config = dataclasses.replace(PRESETS[preset].config.tiny(), **fields)
    return *config.build(), torch.rand(2, 3, config.image_size, config.image_size)


@systems
def test_the_objective_comes_with_the_pair(preset: str) -> None:
    model, guide, elbo, images = build(preset)
    explanations = []
    for given in (None, elbo):
        pyro.set_rng_seed(1)
        explanations.append(explain(model, guide, images, given))
    one, other = (explanation.terms for explanation in explanations)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@systems
def test_evaluation_leaves_every_module_as_it_was(preset: str) -> None:
    model, guide, elbo, images = build(preset)
    model.train()
    guide.eval()
    elbo.train()
    modes = [module.training for part in (model, guide, elbo) for module in part.modules()]
    before = [(name, buffer.clone()) for part in (model, guide, elbo) for name, buffer in part.named_buffers()]
    explain(model, guide, images, elbo)
    sample_scenes(model, 2)
    if model.record.has_prior:
        importance_log_weights(model, guide, images, 2)
    assert modes == [module.training for part in (model, guide, elbo) for module in part.modules()]
    after = [buffer for part in (model, guide, elbo) for buffer in part.buffers()]
    assert [name for (name, old), new in zip(before, after, strict=True) if not torch.equal(old, new)] == []


def test_modes_come_back_after_an_error() -> None:
    model, guide, elbo, _ = build("genesis-shapestacks")
    for part in (model, guide, elbo):
        part.train()
    with pytest.raises(UserError):
        explain(model, guide, torch.rand(2, 3, 48, 48), elbo)
    assert all(module.training for part in (model, guide, elbo) for module in part.modules())


@pytest.mark.parametrize("fields", [{"segregation_steps": 10}, {"prior_from": 1}])
def test_a_part_that_trains_alone_does_not_hide_the_rest(fields: dict[str, int]) -> None:
    model, guide, elbo, images = build("sri-quick", **fields)
    elbo.step = 5
    explanation = explain(model, guide, images, elbo)
    assert {"nll", "segregation_nll", "kl_slots"} <= explanation.terms.keys()


def test_evaluate_takes_a_pair_as_it_is_built(tetrominoes: Path) -> None:
    shape: dict[str, Any] = {"image_size": 32, "num_slots": 3, "channels": 8, "component_layers": 2}
    model, guide, _ = GenesisConfig(preset="p", dataset="d", **shape).build()
    before = [buffer.clone() for buffer in model.buffers()]
    metrics = evaluate(model, guide, tetrominoes, num_images=4, iwae_images=2, iwae_samples=2, num_samples=2)
    assert {"kl_masks", "kl_components"} <= metrics.keys()
    assert all(torch.equal(old, new) for old, new in zip(before, model.buffers(), strict=True))


def test_a_loaded_pair_says_its_objective() -> None:
    pair = pyro_sri.load("sri-quick")
    model, guide = pair
    assert pair.model is model
    assert isinstance(pair.objective, SRI_ELBO)
    assert pair.objective.mask_kl == "decoder"
    assert pair.objective is objective_of(model, guide)
    assert not pair.objective.training


def test_plain_functions_have_an_objective_too(images: Tensor) -> None:
    model, guide = build_sri()
    assert isinstance(objective_of(model, guide), SRI_ELBO)
    assert explain(model, guide, images).terms["segregation_nll"].any()


@systems
def test_scenes_of_no_number_and_of_no_temperature(preset: str) -> None:
    model, *_ = build(preset)
    some = sample_scenes(model, 2)
    state = torch.get_rng_state()
    none = sample_scenes(model, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert [tensor.shape for tensor in none] == [(0, *tensor.shape[1:]) for tensor in some]
    for call in (lambda: sample_scenes(model, -1), lambda: model(num_scenes=0)):
        with pytest.raises(UserError, match="cannot be drawn"):
            call()
    for temperature in (-1.0, float("nan")):
        with pytest.raises(UserError, match="it must be 0 or more"):
            sample_scenes(model, 1, temperature=temperature)


@pytest.mark.parametrize("preset", ["sri-quick", "genesis-shapestacks", "emorl-tetrominoes"])
def test_temperature_0_is_the_mean_scene(preset: str) -> None:
    model, _, _, images = build(preset)
    still = sample_scenes(model, 2, temperature=0.0)
    torch.testing.assert_close(still.images[0], still.images[1])
    torch.testing.assert_close(still.images, sample_scenes(model, 2, temperature=1e-6).images, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="temperature 0"):
        model(images, temperature=0.0)


@systems
def test_images_and_weights_of_different_precision_are_refused_in_one_line(preset: str) -> None:
    model, guide, elbo, images = build(preset)
    for call in (lambda: guide(images.double()), lambda: explain(model, guide, images.double(), elbo)):
        with pytest.raises(UserError, match=r"images are float64, but the weights of \w+ are float32") as caught:
            call()
        assert "\n" not in str(caught.value)
    model.double(), guide.double()
    assert explain(model, guide, images.double(), elbo).terms["nll"].dtype == torch.float64


@systems
def test_plates_around_a_program_are_refused_in_one_line(preset: str) -> None:
    model, guide, _, images = build(preset)
    calls = [
        lambda: pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True).loss(model, guide, images),
        lambda: pyro.infer.Predictive(model, num_samples=2, parallel=True)(num_scenes=2),
    ]
    for call in calls:
        with pytest.raises(UserError, match="vectorize_particles=True or parallel=True") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="'scenes' is already open"), pyro.plate("scenes", 2):
        model(num_scenes=2)
    assert pyro.infer.Trace_ELBO(num_particles=2).loss(model, guide, images) is not None
