"""What Pyro scores counts in every objective as in Pyro's own: scales, masks, conditions, further sites and factors."""

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
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor

from pyro_sri.models.image import sample_image
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import EnumeratedAIR_ELBO, TermsELBO, objective_of
from pyro_sri.presets import PRESETS
from pyro_sri.programs import check_range
from pyro_sri.system.errors import UserError
from support.programs import build_sri
from support.systems import uncovered

# Where a draw of ours is one of Pyro's, term for term; with one layer, EMORL's prior hangs on no draw of its own.
STOCK: dict[str, tuple[type[Trace_ELBO], dict[str, Any]]] = {
    "sri": (TraceMeanField_ELBO, {}),
    "genesis_v2": (Trace_ELBO, {}),
    "genesis": (Trace_ELBO, {}),
    "recurrent": (TraceMeanField_ELBO, {}),
    "slot_attention": (Trace_ELBO, {}),
    "emorl": (TraceMeanField_ELBO, {"num_layers": 1}),
    "air": (Trace_ELBO, {"estimator": "score"}),
}
SYSTEMS = {PRESETS[name].config.system: name for name in uncovered(())}
systems = pytest.mark.parametrize("system", SYSTEMS)
COUNT = 3


class Case(NamedTuple):
    model: Any
    guide: Any
    elbo: TermsELBO
    images: Tensor


def build(system: str, **fields: Any) -> Case:
    config = dataclasses.replace(PRESETS[SYSTEMS[system]].config.tiny(), **fields)
    model, guide, elbo = config.build()
    images = torch.rand(COUNT, 3, config.image_size, config.image_size)
    return Case(model.eval(), guide.eval(), elbo.eval(), images)


CASES = functools.cache(build)  # for tests that change nothing in them


def seeded(run: Callable[[], Any]) -> Any:
    pyro.set_rng_seed(5)
    return run()


def labelled(model: Any, *, plate: str = "labels") -> Any:
    """The model with a label for each image, which hangs on nothing."""

    def story(*args: Any, **kwargs: Any) -> Any:
        images = model(*args, **kwargs)
        with pyro.plate(plate, COUNT):
            pyro.sample("label", dist.Bernoulli(torch.tensor([0.1, 0.2, 0.3])), obs=torch.ones(COUNT))
        return images

    return story


def factored(model: Any) -> Any:
    def story(*args: Any, **kwargs: Any) -> Any:
        pyro.factor("preference", torch.tensor(-400.0))
        return model(*args, **kwargs)

    return story


MASK = torch.tensor([True, False, True])
CONTEXTS: dict[str, Callable[[], Any]] = {
    "nothing": contextlib.nullcontext,
    "a scale": lambda: poutine.scale(scale=0.5),
    "a tensor as scale": lambda: poutine.scale(scale=torch.tensor([0.5, 1.0, 2.0])),
    "a mask": lambda: poutine.mask(mask=MASK),
    "no score at all": lambda: poutine.mask(mask=False),
    "a scale and a mask": lambda: _both(),
}


@contextlib.contextmanager
def _both() -> Any:
    with poutine.scale(scale=3.0), poutine.mask(mask=MASK):
        yield


@systems
@pytest.mark.parametrize("context", CONTEXTS)
def test_enclosing_handlers_count_as_for_pyro(system: str, context: str) -> None:
    stock, fields = STOCK[system]
    case = build(system, **fields)
    with CONTEXTS[context]():
        terms = seeded(lambda: case.elbo.terms(*case[:2], case.images))
        expected = seeded(lambda: stock().loss(*case[:2], case.images))
    assert case.elbo.negative_elbo(terms).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert all(term.shape == (COUNT,) for term in terms.values())


@systems
@pytest.mark.parametrize("context", [name for name in CONTEXTS if name != "nothing"])
def test_every_term_is_weighed_for_each_image(system: str, context: str) -> None:
    """Also those that no ELBO of Pyro's has: the segregation's, KL_cross, the number of objects summed out."""
    case = build(system)
    plain = seeded(lambda: case.elbo.terms(*case[:2], case.images))
    with CONTEXTS[context]():
        terms = seeded(lambda: case.elbo.terms(*case[:2], case.images))
    weight = {"a scale": torch.tensor(0.5), "a mask": MASK.float(), "a scale and a mask": 3 * MASK}.get(context)
    if context == "a tensor as scale":
        weight = torch.tensor([0.5, 1.0, 2.0])
    for name, term in plain.items():
        expected = torch.zeros(COUNT) if weight is None else weight * term
        torch.testing.assert_close(terms[name], expected, rtol=1e-4, atol=1e-3, msg=name)


@systems
@pytest.mark.parametrize("further", [labelled, factored])
def test_further_sites_count_or_are_refused(system: str, further: Any) -> None:
    stock, fields = STOCK[system]
    case = build(system, **fields)
    model = further(case.model)
    if system == "emorl":  # its model may be derived from, not wrapped
        with pytest.raises(ValueError, match="wrapped model"):
            case.elbo.terms(model, case.guide, case.images)
        return
    terms = seeded(lambda: case.elbo.terms(model, case.guide, case.images))
    expected = seeded(lambda: stock().loss(model, case.guide, case.images))
    assert terms["other"].shape == (COUNT,)
    assert case.elbo.negative_elbo(terms).sum().item() == pytest.approx(expected, rel=1e-4)
    plain = {name: term for name, term in terms.items() if name != "other"}
    added = case.elbo.objective(terms) - case.elbo.objective(plain)
    torch.testing.assert_close(added, terms["other"].mean(), rtol=1e-3, atol=1e-2)


def test_summed_out_objects_take_nothing_further() -> None:
    case = build("air")
    assert isinstance(case.elbo, EnumeratedAIR_ELBO)
    for further in (labelled, factored):
        with pytest.raises(UserError, match="AIR_ELBO"):
            case.elbo.terms(further(case.model), case.guide, case.images)


WRAPPED: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "both scaled": lambda m, g: (poutine.scale(m, scale=0.5), poutine.scale(g, scale=0.5)),
    "the model scaled": lambda m, g: (poutine.scale(m, scale=0.5), g),
    "the guide scaled": lambda m, g: (m, poutine.scale(g, scale=0.5)),
    "both masked": lambda m, g: (poutine.mask(m, mask=False), poutine.mask(g, mask=False)),
    "the model masked": lambda m, g: (poutine.mask(m, mask=MASK), g),
}


@pytest.mark.parametrize("wrap", WRAPPED)
@systems
def test_wrapped_programs_count_or_are_refused(system: str, wrap: str) -> None:
    _, fields = STOCK[system]
    case = build(system, **fields)
    model, guide = WRAPPED[wrap](*case[:2])
    if system == "emorl" or (system == "sri" and guide is not case.guide):
        with pytest.raises(ValueError, match="use handlers as contexts"):
            case.elbo.terms(model, guide, case.images)
        return
    analytic = system in ("sri", "recurrent")  # Pyro's own leaves out a model's weight there
    stock = TraceMeanField_ELBO if analytic and wrap.startswith("both") else Trace_ELBO
    total = [
        seeded(lambda: case.elbo.negative_elbo(case.elbo.terms(model, guide, case.images)).sum().item()),
        seeded(lambda: stock().loss(model, guide, case.images)),
    ]
    if analytic and stock is Trace_ELBO:  # the same in expectation
        assert total[0] == pytest.approx(total[1], rel=0.05)
    else:
        assert total[0] == pytest.approx(total[1], rel=1e-4, abs=1e-3)


def test_a_weight_of_the_model_alone_counts_in_closed_form() -> None:
    """s_q log q - s_p log p in expectation: what the analytic KL leaves out is counted at the draw."""
    case = build("recurrent")
    losses = []
    for elbo in (case.elbo, Trace_ELBO()):
        values = [elbo.loss(poutine.scale(case.model, scale=0.3), case.guide, case.images) for _ in range(100)]
        losses.append(torch.tensor(values) * (COUNT if elbo is case.elbo else 1))
    error = sum(values.var() / 100 for values in losses) ** 0.5
    assert (losses[0].mean() - losses[1].mean()).abs() < 4 * error


def some_latent(case: Case) -> dict[str, Tensor]:
    """The name of a latent that the guide draws for the model, and another value of it."""
    traces = case.elbo.trace(case.model, case.guide, case.images)
    drawn = [name for name, site in traces.model.nodes.items() if site["inferred"]]
    return {drawn[-1]: traces.model.nodes[drawn[-1]]["value"].detach() + 1}


class Unchanged(Reparam):
    def apply(self, msg: Any) -> Any:
        return {name: msg[name] for name in ("fn", "value", "is_observed")}


REPLACING: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "poutine.do": lambda data: poutine.do(data=data),
    "poutine.reparam": lambda data: poutine.reparam(config=dict.fromkeys(data, Unchanged())),
    "poutine.uncondition": lambda data: poutine.uncondition(),
    "poutine.equalize": lambda data: poutine.equalize(sites=list(data)),
    "poutine.enum": lambda data: poutine.enum(first_available_dim=-3),
    "poutine.lift": lambda data: poutine.lift(prior={}),
    "scope": lambda data: scope(prefix="inner"),
}


@systems
@pytest.mark.parametrize("handler", REPLACING)
def test_handlers_that_replace_sites_are_refused_in_one_line(system: str, handler: str) -> None:
    case = CASES(system)
    with pytest.raises(UserError, match=f"{handler} cannot enclose") as caught, REPLACING[handler](some_latent(case)):
        case.elbo.terms(*case[:2], case.images)
    assert "\n" not in str(caught.value)


@systems
def test_what_the_guide_does_not_hear_the_model_does_not_hear(system: str) -> None:
    case = CASES(system)
    plain = seeded(lambda: case.elbo.terms(*case[:2], case.images))
    with poutine.condition(data=some_latent(case)), poutine.block():
        hidden = seeded(lambda: case.elbo.terms(*case[:2], case.images))
    for name, term in plain.items():
        torch.testing.assert_close(hidden[name], term, msg=name)


@systems
def test_marks_reach_guide_and_model(system: str) -> None:
    case = CASES(system)
    with poutine.infer_config(config_fn=lambda site: {"mark": site["name"]}):
        traces = case.elbo.trace(*case[:2], case.images)
    for name in some_latent(case):
        assert traces.guide.nodes[name]["infer"]["mark"] == traces.model.nodes[name]["infer"]["mark"] == name
    assert traces.model.nodes["image"]["infer"]["mark"] == "image"


def test_an_enclosing_replay_reaches_what_the_model_alone_has() -> None:
    case = CASES("genesis_v2")

    def with_weather(*args: Any, **kwargs: Any) -> Any:
        pyro.sample("weather", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return case.model(*args, **kwargs)

    recorded = poutine.trace(with_weather).get_trace(num_scenes=COUNT)
    with poutine.replay(trace=recorded), pytest.warns(UserWarning, match="the guide lacks weather"):
        traces = case.elbo.trace(with_weather, case.guide, case.images)
    assert traces.model.nodes["weather"]["value"] is recorded.nodes["weather"]["value"]


def test_a_conditioned_model_observes() -> None:
    case = build("recurrent")
    far = {"slot_0": torch.full((COUNT, 8), 30.0)}
    pair = poutine.condition(case.model, data=far), poutine.block(case.guide, hide=["slot_0"])
    terms = seeded(lambda: case.elbo.terms(*pair, case.images))
    expected = seeded(lambda: TraceMeanField_ELBO().loss(*pair, case.images))
    assert case.elbo.negative_elbo(terms).sum().item() == pytest.approx(expected, rel=1e-5)
    assert (terms["other"] > 1000).all()
    air = build("air")
    one = poutine.condition(air.model, data={"z_pres_0": torch.ones(COUNT)})
    with pytest.raises(UserError, match=r"poutine\.condition"):
        air.elbo.terms(one, air.guide, air.images)


def test_an_enclosing_condition_reaches_what_the_model_alone_has() -> None:
    case = build("genesis_v2")

    def with_weather(*args: Any, **kwargs: Any) -> Any:
        pyro.sample("weather", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return case.model(*args, **kwargs)

    with poutine.condition(data={"weather": torch.full((2,), 3.0)}):
        terms = case.elbo.terms(with_weather, case.guide, case.images)
    expected = -dist.Normal(0.0, 1.0).log_prob(torch.tensor(3.0)) * 2 / COUNT
    torch.testing.assert_close(terms["other"], expected.expand(COUNT))


def test_latents_that_the_guide_lacks_are_drawn_from_the_prior() -> None:
    """q is then p, whose KL is 0; Pyro warns of it, and so do we."""
    case = build("genesis_v2")
    hidden = poutine.block(case.guide, hide=["slot_0"])
    with pytest.warns(UserWarning, match="the guide lacks slot_0"):
        terms = case.elbo.terms(case.model, hidden, case.images)
    assert "other" not in terms
    with poutine.mask(mask=False):  # nothing is amiss where it does not count
        case.elbo.terms(case.model, hidden, case.images)


@pytest.mark.parametrize("system", ["genesis_v2", "genesis", "recurrent"])
def test_a_latent_that_all_images_share_counts_once(system: str) -> None:
    case = build(system)

    def under_weather(program: Any, loc: float) -> Any:
        def story(*args: Any, **kwargs: Any) -> Any:
            for name in ("weather", "climate"):
                pyro.sample(name, dist.Normal(torch.full((2,), loc), 1.0).to_event(1))
            return program(*args, **kwargs)

        return story

    pair = under_weather(case.model, 0.0), under_weather(case.guide, 20.0)
    terms = seeded(lambda: case.elbo.terms(*pair, case.images))
    expected = seeded(lambda: STOCK[system][0]().loss(*pair, case.images))
    assert all(term.shape == (COUNT,) for term in terms.values())
    assert case.elbo.negative_elbo(terms).sum().item() == pytest.approx(expected, rel=1e-5)


def test_what_the_guide_alone_scores_counts() -> None:
    case = build("genesis_v2")

    def guide(*args: Any, **kwargs: Any) -> None:
        case.guide(*args, **kwargs)
        pyro.factor("entropy", torch.tensor(6.0), has_rsample=True)

    terms = case.elbo.terms(case.model, guide, case.images)
    torch.testing.assert_close(terms["other"], torch.full((COUNT,), 6.0 / COUNT))


class LabelledScenes(SceneModel):
    """A label that hangs on the slots, of some images."""

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, images: Any = None, labels: Any = None, known: Any = None, **_: Any) -> Any:
        with pyro.plate("scenes", len(images)):
            slots = self.sample_slots(len(images), self.num_slots)
            with poutine.mask(mask=known):
                pyro.sample("label", dist.Categorical(logits=self.head(slots.mean(1))), obs=labels)
            return sample_image(self.likelihood, self.decoder(slots), images)


def test_arguments_reach_model_and_guide(images: Tensor) -> None:
    """By position too, as SVI passes them on."""
    _, guide = build_sri()
    model = LabelledScenes(image_size=32, num_slots=3, slot_size=8, scene_size=12)
    guide.forward = lambda images, labels=None, known=None, _run=guide.forward: _run(images)
    elbo = objective_of(model, guide).train()
    labels, known = torch.tensor([0, 1, 1, 0]), torch.tensor([True, False, False, True])
    terms = elbo.terms(model, guide, images, labels, known)
    assert ((terms["other"] > 0) == known).all()
    loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step(images, labels, known=known)
    assert loss > 0


@systems
def test_images_of_another_range_or_shape_are_refused_in_one_line(system: str) -> None:
    case = build(system)
    size = case.images.shape[-1]
    for wrong in (255 * case.images, 2 * case.images - 1, case.images * float("nan")):
        with pytest.raises(UserError, match=r"\[0, 1\]") as caught:
            case.elbo.terms(case.model, case.guide, wrong)
        assert "\n" not in str(caught.value)
    rectangle = torch.rand(2, 3, size, size + 16)
    wrongs = [case.images.permute(0, 2, 3, 1), case.images[:, :1], torch.rand(2, 3, size + 16, size + 16), rectangle]
    wrongs += [case.images[0], (255 * case.images).byte(), case.images[:0], case.images.numpy()]
    for wrong in wrongs:
        for program in (case.model, case.guide):
            with pytest.raises(UserError, match="takes") as caught:
                program(wrong)
            assert "\n" not in str(caught.value)
    check_range(case.model, case.images + 0.004)  # rounding


def test_validation_off_reads_no_values() -> None:
    case = build("recurrent")
    with pyro.validation_enabled(False):
        case.elbo.terms(case.model, case.guide, 2 * case.images)


@systems
def test_a_pair_knows_its_objective(system: str) -> None:
    config = PRESETS[SYSTEMS[system]].config.tiny()
    model, guide, elbo = config.build()
    assert objective_of(model, guide) is elbo
    assert objective_of(poutine.scale(model, scale=2.0), poutine.scale(guide, scale=2.0)) is elbo
    del guide._objective
    assert type(objective_of(model, guide)) is type(elbo)
    other = type(elbo)()
    other(model, guide)
    assert objective_of(model, guide) is other
    assert not any(name.startswith("_objective") for name in guide.state_dict())


def test_the_objective_by_kind_follows_the_estimator() -> None:
    for estimator in ("score", "enumerated"):
        model, guide, elbo = dataclasses.replace(PRESETS["air-multi_digits"].config.tiny(), estimator=estimator).build()
        del guide._objective
        assert type(objective_of(model, guide)) is type(elbo)
