"""Handlers within derived models and guides count as around the call, in every stage of training."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import SRI_ELBO, TermsELBO
from pyro_sri.objectives.sri import encode_slots, read_terms, trace_prior
from pyro_sri.presets import PRESETS
from support.programs import build_sri

COUNT = 3
MASK = torch.tensor([True, False, True])
EMORL = {"image_size": 32, "num_slots": 3}


class Case(NamedTuple):
    model: Any
    guide: Any
    elbo: TermsELBO
    images: Tensor


# A preset, fields of it, and attributes of its objective: what is trained at step 0.
PHASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "genesis": ("genesis-shapestacks", {}, {}),
    "genesis_v2": ("genesis_v2-g-shapestacks", {}, {}),
    "recurrent": ("recurrent-mog-shapestacks", {}, {}),
    "slot_attention": ("slot_attention-tetrominoes", {}, {}),
    "air, annealed": ("air-multi_digits", {}, {}),
    "air, annealed, by score": ("air-multi_digits", {"estimator": "score"}, {}),
    "emorl, rpp": ("emorl-quick", EMORL | {"prior": "rpp"}, {"curriculum": [(0, 2)]}),
    "emorl, rev": ("emorl-quick", EMORL | {"prior": "rev"}, {"curriculum": [(0, 1)]}),
    "emorl, bu": ("emorl-quick", EMORL | {"prior": "bu"}, {"curriculum": [(0, 1)]}),
    "emorl, unrefined": ("emorl-quick", EMORL, {"curriculum": [(0, 0)]}),
} | {
    f"{preset}, {stage}": (preset, fields, attributes)
    for preset, fields in {"sri-quick": {"image_size": 32}, "sri_emorl-quick": EMORL}.items()
    for stage, attributes in {
        "segregation": {"segregation_steps": 9},
        "all": {"segregation_steps": 0, "prior_from": None},
        "prior": {"segregation_steps": 0, "prior_from": 0},
    }.items()
}
phases = pytest.mark.parametrize("phase", PHASES)


def build(phase: str, handler: Callable[[], Any] = contextlib.nullcontext) -> Case:
    """A pair in training, with the handler within the `forward` of both of its programs."""
    preset, fields, attributes = PHASES[phase]
    config = dataclasses.replace(PRESETS[preset].config.tiny(), **fields)
    pyro.set_rng_seed(0)
    model, guide, elbo = config.build()
    for name, value in attributes.items():
        setattr(elbo, name, value)
    for program in (model, guide):
        derive(program, handler)
    return Case(model, guide, elbo.train(), torch.rand(COUNT, 3, config.image_size, config.image_size))


def derive(program: Any, handler: Callable[[], Any]) -> None:
    """Makes a program one of a derived class, as a user would write it."""

    class Derived(type(program)):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with handler():
                return super().forward(*args, **kwargs)

    program.__class__ = Derived


def terms_of(case: Case) -> dict[str, Tensor]:
    pyro.set_rng_seed(7)
    return case.elbo.terms(case.model, case.guide, case.images)


@functools.lru_cache
def plain(phase: str) -> dict[str, Tensor]:
    return {name: term.detach() for name, term in terms_of(build(phase)).items()}


HANDLERS: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "a scale": (functools.partial(poutine.scale, scale=0.1), torch.full((COUNT,), 0.1)),
    "a mask": (functools.partial(poutine.mask, mask=MASK), MASK.float()),
}


@phases
@pytest.mark.parametrize("handler", HANDLERS)
def test_handlers_within_derived_programs_count(phase: str, handler: str) -> None:
    """The segregation is a pair of its own, which its own programs weigh."""
    context, weight = HANDLERS[handler]
    derived = terms_of(build(phase, context))
    if phase.startswith("emorl") and handler == "a scale":  # refinement sees the gradient of the scaled loss
        with context():
            expected = terms_of(build(phase))
    else:
        expected = {
            name: term if name.startswith("segregation") else weight * term for name, term in plain(phase).items()
        }
    expected.pop("baseline", None)  # a regression onto what is scaled
    for name, term in expected.items():
        torch.testing.assert_close(derived[name], term, rtol=1e-4, atol=1e-3, msg=f"{name}: {derived[name]}, {term}")


def in_stage(stage: str) -> SRI_ELBO:
    return (
        SRI_ELBO(segregation_steps=9)
        if stage == "segregation"
        else SRI_ELBO(prior_from=0 if stage == "prior" else None)
    )


def test_the_weight_of_a_refined_draw_is_its_own() -> None:
    """If only the guide is scaled, s KL(q || p) + (s - 1) log p(z) at the refined draw."""
    case = build("emorl, rpp")
    derive(case.guide, functools.partial(poutine.scale, scale=0.5))
    traces = case.elbo.trace(case.model, case.guide, case.images)
    refined, prior = traces.guide.nodes["layer_0_slots"], traces.priors.nodes["layer_0_slots"]["fn"]
    divergence = torch.distributions.kl_divergence(refined["fn"], prior)
    expected = 0.5 * divergence - 0.5 * prior.log_prob(refined["value"])
    torch.testing.assert_close(case.elbo.read(traces)["kl_slots"], expected)


class LabelledScenes(SceneModel):
    """Its labels hang on the slots; it decodes without asking its base."""

    def forward(self, images: Any, labels: Any, **_: Any) -> Any:
        with pyro.plate("scenes", len(images)):
            slots = self.sample_slots(len(images), self.num_slots)
            pyro.sample("label", dist.Bernoulli(logits=slots.mean((1, 2))), obs=labels)
            return pyro.sample("image", dist.Normal(self.decoder(slots).rgb.mean(1), 1.0).to_event(3), obs=images)


@pytest.mark.parametrize("encoded", [False, True])
def test_the_prior_alone_hears_what_else_is_observed(encoded: bool, images: Tensor) -> None:
    model = LabelledScenes(image_size=32, num_slots=3, slot_size=8, scene_size=12)
    guide = build_sri()[1]
    guide._linked = (model.slot_prior,)
    guide.forward = lambda images, labels, _run=guide.forward: _run(images)
    inputs = encode_slots(guide, images) if encoded else images
    terms = SRI_ELBO(prior_from=0).terms(model, guide, inputs, torch.ones(4))
    assert set(terms) == {"kl_scene", "kl_slots", "kl_cross", "other"}
    assert (terms["other"] > 0).all()
    assert terms["kl_slots"].isfinite().all()


@pytest.mark.parametrize("stage", ["segregation", "all", "prior"])
def test_every_stage_takes_handlers_around_it(stage: str, images: Tensor) -> None:
    """Recorders see each site once, a wrapped model counts and decodes no more than otherwise."""
    model, guide = build_sri()
    decoded: list[Any] = []
    model.decoder.register_forward_hook(lambda *_: decoded.append(1))
    elbo = in_stage(stage)
    pyro.set_rng_seed(3)
    expected = elbo.terms(model, guide, images)
    count = len(decoded)
    pyro.set_rng_seed(3)
    with poutine.trace() as recorder:
        terms = elbo.terms(poutine.infer_config(model, config_fn=lambda _: {}), guide, images)
    assert all(torch.equal(terms[name], expected[name]) for name in expected)
    assert ("slot_0" in recorder.trace) == (stage != "segregation")
    assert len(decoded) == 2 * count == 2 * (stage == "all")
    assert set(elbo.terms(model, guide, images, num_slots=2)) == set(expected)


@pytest.mark.parametrize("stage", ["segregation", "all", "prior"])
def test_every_stage_refuses_what_hides_the_segregation(stage: str, images: Tensor) -> None:
    model, guide = build_sri()
    with pytest.raises(ValueError, match="use handlers as contexts"):
        in_stage(stage).terms(model, poutine.scale(guide, scale=2.0), images)


def test_stages_refuse_programs_without_what_they_train(images: Tensor) -> None:
    model, guide = build_sri()
    guide.segregate = lambda images, num_slots: guide.segregation.guide.infer(images, 3)
    with pytest.raises(ValueError, match="SRIGuide cannot replace its first stage"):
        in_stage("prior").terms(model, guide, images)
    guide.segregation.model = None
    with pytest.raises(ValueError, match="use segregation_steps=0"):
        in_stage("segregation").terms(model, guide, images)


def test_the_prior_takes_any_number_of_encoded_slots(images: Tensor) -> None:
    model, guide = build_sri()
    encoded = encode_slots(guide, images)[:, :2]
    traces = trace_prior(model, guide, encoded)
    assert "slot_1" in traces.model
    assert "slot_2" not in traces.model
    assert set(read_terms(traces)) == {"kl_scene", "kl_slots", "kl_cross"}
