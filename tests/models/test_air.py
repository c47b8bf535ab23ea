"""AIR as Pyro programs: sites, handlers, objectives, training, and what only DAIR can do."""

import contextlib
import copy
import itertools
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Normal
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceGraph_ELBO

from pyro_sri.guides.air import AIRGuide
from pyro_sri.inference import explain, sample_scenes
from pyro_sri.models.air import AIRModel, GreyImage, as_grey
from pyro_sri.nn import affine_matrix, inverse_where, place_windows, read_windows, transform
from pyro_sri.objectives.air import AIR_ELBO, EnumeratedAIR_ELBO, Presence, PresenceAnnealing
from pyro_sri.system.errors import UserError
from pyro_sri.viz import infer_beliefs

AIR = tuple[AIRModel, AIRGuide]

LATENTS = {
    f"{name}_{t}": shape for t in range(3) for name, shape in (("z_pres", ()), ("z_where", (3,)), ("z_what", (5,)))
}
PICTURES = {
    "slot_rgb": (3, 3, 20, 20),
    "slot_masks": (3, 1, 20, 20),
    "reconstruction": (3, 20, 20),
    "image": (3, 20, 20),
}
OBJECTIVES = {"published": AIR_ELBO, "enumerated": EnumeratedAIR_ELBO, "stock": TraceGraph_ELBO}


def build(**fields: Any) -> AIR:
    model = AIRModel(
        image_size=20,
        window_size=8,
        code_size=5,
        decoder_sizes=(12,),
        scale_prior=(2.0, 0.2),
        presence_prior=fields.pop("presence_prior", (0.6, 0.5, 0.4)),
    )
    sizes = {"hidden_size": 16, "embed_sizes": (10,), "encoder_sizes": (9,), "baseline_sizes": (7,)}
    return model, AIRGuide(model, **{**sizes, "baseline_scale": 1.0, **fields})


@pytest.fixture
def air() -> AIR:
    return build()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 1, 20, 20).expand(-1, 3, -1, -1)


def sites_of(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}


# Sites and handlers


def test_sites_of_the_model_in_order(air: AIR, images: torch.Tensor) -> None:
    trace = poutine.trace(air[0]).get_trace(images)
    sites = sites_of(trace)
    assert list(sites) == [*LATENTS, *PICTURES]
    for name, shape in (LATENTS | PICTURES).items():
        assert sites[name]["value"].shape == (4, *shape)
        assert sites[name]["fn"].batch_shape == (4,)
        assert [frame.name for frame in sites[name]["cond_indep_stack"]] == ["scenes"]
    assert sites["image"]["is_observed"]
    trace.compute_log_prob()
    assert "slot_rgb" in trace.format_shapes()


@pytest.mark.parametrize("differential", [False, True])
def test_sites_of_the_guide_in_order(images: torch.Tensor, differential: bool) -> None:
    _, guide = build(differential=differential)
    sites = sites_of(poutine.trace(guide).get_trace(images))
    assert list(sites) == list(LATENTS)
    for name, shape in LATENTS.items():
        assert sites[name]["value"].shape == (4, *shape)


def test_presence_is_monotone_and_absent_objects_are_not_scored(air: AIR) -> None:
    trace = poutine.trace(air[0]).get_trace(num_scenes=200)
    trace.compute_log_prob()
    sites = trace.nodes
    bits = torch.stack([sites[f"z_pres_{t}"]["value"] for t in range(3)], 1)
    assert (bits.diff(dim=1) <= 0).all()
    assert 0.5 < bits[:, 0].mean() < 0.7
    for t, name in itertools.product(range(3), ("z_where", "z_what")):
        scored = sites[f"{name}_{t}"]["log_prob"] != 0
        assert torch.equal(scored, bits[:, t].bool())


def test_pictures_agree(air: AIR) -> None:
    sites = poutine.trace(air[0]).get_trace(num_scenes=20).nodes
    value = {name: sites[name]["value"] for name in PICTURES}
    torch.testing.assert_close(value["slot_rgb"].sum(1), value["reconstruction"])
    absent = torch.stack([sites[f"z_pres_{t}"]["value"] for t in range(3)], 1) == 0
    assert (value["slot_rgb"][absent] == 0).all()
    assert 0 <= value["slot_masks"].min() <= value["slot_masks"].sum(1).max() <= 1 + 1e-5
    assert torch.equal(value["image"][:, 0], value["image"][:, 2])


def test_predictive(air: AIR, images: torch.Tensor) -> None:
    model, guide = air
    drawn = Predictive(model, num_samples=3)(num_scenes=2)
    assert drawn["image"].shape == (3, 2, 3, 20, 20)
    assert drawn["z_pres_2"].shape == (3, 2)
    posterior = Predictive(guide, num_samples=2)(images)
    again = Predictive(model, posterior_samples=posterior)(num_scenes=4)
    assert again["reconstruction"].shape == (2, 4, 3, 20, 20)


@pytest.mark.parametrize("num_slots", [1, 2, 5])
def test_any_number_of_steps(air: AIR, images: torch.Tensor, num_slots: int) -> None:
    for program in air:
        trace = poutine.trace(program).get_trace(images, num_slots=num_slots)
        assert f"z_pres_{num_slots - 1}" in trace
        assert f"z_pres_{num_slots}" not in trace


def test_condition_and_replay(air: AIR, images: torch.Tensor) -> None:
    model, guide = air
    none = {"z_pres_0": torch.zeros(2)}
    empty = poutine.trace(poutine.condition(model, data=none)).get_trace(num_scenes=2)
    assert (empty.nodes["reconstruction"]["value"] == 0).all()
    guide_trace = poutine.trace(guide).get_trace(images)
    replayed = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(images)
    for name in LATENTS:
        assert torch.equal(replayed.nodes[name]["value"], guide_trace.nodes[name]["value"])


def test_temperature_scales_places_and_codes(air: AIR) -> None:
    model, _ = air
    warm = poutine.trace(model).get_trace(num_scenes=2).nodes
    cold = poutine.trace(model).get_trace(num_scenes=2, temperature=0.5).nodes
    for name in ("z_where_0", "z_what_1"):
        torch.testing.assert_close(cold[name]["fn"].variance, 0.25 * warm[name]["fn"].variance)


def test_same_seed_same_scene(air: AIR) -> None:
    pyro.set_rng_seed(5)
    first = air[0](num_scenes=2)
    pyro.set_rng_seed(5)
    assert torch.equal(first, air[0](num_scenes=2))
    assert air[0]().shape == (1, 3, 20, 20)


def test_render_model(air: AIR, images: torch.Tensor) -> None:
    graph = pyro.render_model(air[0], model_args=(images,))
    assert "z_pres_0 -> z_pres_1" in graph.source


@pytest.mark.parametrize(
    "fields", [{"presence_prior": ()}, {"presence_prior": (1.0,)}, {"scale_prior": (3.0, 0.0)}, {"pixel_std": 0.0}]
)
def test_refuses_impossible_priors(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        AIRModel(image_size=20, **fields)


# The grey likelihood


def test_grey_image_counts_each_pixel_once() -> None:
    mean = torch.rand(5, 4, 4)
    dist = GreyImage(mean, 0.3)
    images = dist.sample()
    assert images.shape == (5, 3, 4, 4)
    expected = torch.distributions.Normal(mean, 0.3).log_prob(as_grey(images)).sum((1, 2))
    torch.testing.assert_close(dist.log_prob(images), expected)
    assert dist.sample((7,)).shape == (7, 5, 3, 4, 4)
    assert dist.mean.shape == dist.variance.shape == (5, 3, 4, 4)
    assert dist.expand((2, 5)).log_prob(images).shape == (2, 5)
    assert -dist.log_prob(dist.mean).max().item() == pytest.approx(dist.nll_floor)


def test_grey_density_of_a_rounded_mean_is_in_float32() -> None:
    mean, image = torch.rand(2, 16, 16).bfloat16(), torch.rand(2, 3, 16, 16)
    exact = GreyImage(mean.double(), 0.3).log_prob(image.double())
    torch.testing.assert_close(GreyImage(mean, 0.3).log_prob(image).double(), exact, rtol=1e-5, atol=0)


def test_colour_is_averaged() -> None:
    dist = GreyImage(torch.full((2, 2), 0.5), 0.3)
    colour = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 2, 2)
    torch.testing.assert_close(dist.log_prob(colour), dist.log_prob(torch.full((3, 2, 2), 0.5)))


# The spatial transformer


def test_transform_by_hand() -> None:
    picture = torch.arange(16.0).view(4, 4)
    assert torch.equal(transform(picture, torch.tensor([1.0, 0.0, 0.0]), 4), picture)
    # One pixel is 2/4 of the range: reading half a unit to the right moves the picture one pixel to the left.
    shifted = transform(picture, torch.tensor([1.0, 0.5, 0.0]), 4)
    assert torch.equal(shifted[:, :3], picture[:, 1:])
    assert (shifted[:, 3] == 0).all()
    down = transform(picture, torch.tensor([1.0, 0.0, -0.5]), 4)
    assert torch.equal(down[1:], picture[:3])
    # At scale 2 the picture lies in the middle half; its pixels are averages of 2 x 2.
    small = transform(picture, torch.tensor([2.0, 0.0, 0.0]), 4)
    assert small[1:3, 1:3].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert small.sum() == small[1:3, 1:3].sum()


def test_transform_equals_grid_sampling() -> None:
    where = torch.tensor(
        [[2.3, 0.4, -0.9], [0.7, -0.1, 0.2], [-1.53, 0.31, 0.6]], dtype=torch.float64, requires_grad=True
    )
    windows = torch.rand(3, 6, 6, dtype=torch.float64, requires_grad=True)
    grid = torch.nn.functional.affine_grid(affine_matrix(where), [3, 1, 15, 15], align_corners=False)
    sampled = torch.nn.functional.grid_sample(windows[:, None], grid, align_corners=False)[:, 0]
    ours = place_windows(windows, where, 15)
    torch.testing.assert_close(ours, sampled)
    weights = torch.rand_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad((weights * ours).sum(), (windows, where)),
        torch.autograd.grad((weights * sampled).sum(), (windows, where)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_reading_undoes_placing() -> None:
    where = torch.tensor([2.0, 0.5, -0.5])
    torch.testing.assert_close(inverse_where(inverse_where(where)), where)
    window = torch.ones(10, 10)
    read = read_windows(place_windows(window, where, 40), where, 10)
    torch.testing.assert_close(read[1:-1, 1:-1], window[1:-1, 1:-1])


# Objectives


def test_presence_of_counts() -> None:
    yes = torch.tensor([[0.9, 0.5, 0.2]])
    prior = Presence(yes.log(), (1 - yes).log())
    torch.testing.assert_close(prior.of_counts().exp(), torch.tensor([[0.1, 0.45, 0.36, 0.09]]))
    bits = torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(prior.of_bits(bits).exp(), torch.tensor([[0.9, 0.5, 1.0]]))


@pytest.mark.parametrize("differential", [False, True])
def test_enumeration_is_the_expectation_over_counts(images: torch.Tensor, differential: bool) -> None:
    """The sum over n, each n run by itself with its presence bits fixed and weighed by hand, at the same places."""
    model, guide = build(differential=differential)
    elbo = EnumeratedAIR_ELBO()
    traces = elbo.trace(model, guide, images)
    terms = elbo.read(traces)
    held = {name: site["value"] for name, site in traces.guide.nodes.items() if name.startswith(("z_where", "z_what"))}
    expected = {name: torch.zeros(4) for name in elbo.bound}
    for n in range(4):
        bits = {f"z_pres_{t}": torch.full((4,), float(t < n)) for t in range(3)}
        with poutine.condition(data=held | bits):
            pattern = AIR_ELBO().trace(model, guide, images)
        sites = pattern.guide.nodes
        q = torch.stack([sites[name]["fn"].log_prob(bit) for name, bit in bits.items()]).sum(0)
        p = torch.stack([pattern.model.nodes[name]["fn"].log_prob(bit) for name, bit in bits.items()]).sum(0)
        expected["kl_pres"] += q.exp() * (q - p)
        image = pattern.model.nodes["image"]
        expected["nll"] -= q.exp() * image["fn"].log_prob(image["value"])
        for t, latent in itertools.product(range(n), ("where", "what")):
            name = f"z_{latent}_{t}"
            kl = torch.distributions.kl_divergence(sites[name]["fn"], pattern.model.nodes[name]["fn"])
            expected[f"kl_{latent}"] += q.exp() * kl
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-4, atol=1e-3)


def test_enumeration_refuses_fixed_counts(air: AIR, images: torch.Tensor) -> None:
    with poutine.condition(data={"z_pres_1": torch.zeros(4)}):
        AIR_ELBO().terms(*air, images)
        with pytest.raises(ValueError, match="summed out"):
            EnumeratedAIR_ELBO().terms(*air, images)
    with poutine.condition(data={"z_where_1": torch.ones(4, 3)}):
        EnumeratedAIR_ELBO().terms(*air, images)
    with poutine.replay(trace=poutine.trace(air[1]).get_trace(images)), pytest.raises(ValueError, match="summed out"):
        EnumeratedAIR_ELBO().terms(*air, images)


def with_more(program: Any, mean: float, name: str = "style") -> Any:
    """A program with two further latents: one that all images share, and one for each image."""

    def story(images: torch.Tensor) -> Any:
        pyro.sample("shared", Normal(mean, 1.0))
        with pyro.plate("styles", len(images)):
            pyro.sample(name, Normal(mean * torch.ones(len(images)), 1.0))
        return program(images)

    return story


@pytest.mark.parametrize("name", ["style", "z_what_colour", "z_pres_flag"])
def test_further_latents_count(name: str, air: AIR, images: torch.Tensor) -> None:
    pair = with_more(air[0], 0.0, name), with_more(air[1], 3.0, name)
    pyro.set_rng_seed(1)
    stock = Trace_ELBO().loss(*pair, images) / len(images)
    elbo = AIR_ELBO().eval()
    pyro.set_rng_seed(1)
    terms = elbo.terms(*pair, images)
    assert terms["other"].mean() > 1
    assert elbo.negative_elbo(terms).mean().item() == pytest.approx(stock, rel=1e-5)
    assert elbo.objective(terms).item() == pytest.approx(stock, rel=1e-5)
    with pytest.raises(UserError, match="additional observations, latents"):
        EnumeratedAIR_ELBO().terms(*pair, images)


def test_a_score_that_images_share_is_whole_to_each_presence_bit(air: AIR, images: torch.Tensor) -> None:
    """It has the gradient of a score as large for each image."""
    model, guide = air
    gradients = []
    for shared in (False, True):

        def with_factor(images: torch.Tensor, shared: bool = shared) -> None:
            model(images)
            with contextlib.nullcontext() if shared else pyro.plate("factors", len(images)):
                pyro.factor("factor", torch.tensor(1e4) if shared else torch.full((len(images),), 1e4))

        pyro.set_rng_seed(2)
        loss = AIR_ELBO().differentiable_loss(with_factor, guide, images)
        gradients.append(torch.autograd.grad(loss, guide.attend.predict[-1].bias)[0])
    assert gradients[0][0].abs() > 10
    torch.testing.assert_close(*gradients)


def test_a_latent_that_would_not_learn_is_refused(air: AIR, images: torch.Tensor) -> None:
    logits = torch.zeros(4, requires_grad=True)

    def with_bit(program: Any, logits: torch.Tensor) -> Any:
        def story(images: torch.Tensor) -> Any:
            with pyro.plate("bits", len(images)):
                pyro.sample("bit", Bernoulli(logits=logits))
            return program(images)

        return story

    pair = with_bit(air[0], torch.zeros(4)), with_bit(air[1], logits)
    with pytest.raises(UserError, match="draws 'bit' from a Bernoulli"):
        AIR_ELBO().terms(*pair, images)
    with torch.no_grad():
        AIR_ELBO().terms(*pair, images)
    with poutine.condition(data={"bit": torch.ones(4)}):
        AIR_ELBO().terms(*pair, images)
    AIR_ELBO().terms(pair[0], with_bit(air[1], logits.detach()), images)


def test_estimators_agree_in_expectation(images: torch.Tensor) -> None:
    model, guide = build()
    many = images[:1].expand(3000, -1, -1, -1)
    with torch.no_grad(), pyro.validation_enabled(False):
        bounds = [
            sum(terms[name].mean() for name in elbo.bound)
            for elbo in (AIR_ELBO(), EnumeratedAIR_ELBO())
            for terms in [elbo.terms(model, guide, many)]
        ]
    torch.testing.assert_close(*bounds, rtol=2e-2, atol=0.0)


def test_score_function_is_unbiased_and_enumeration_has_less_variance() -> None:
    """The gradient at the presence probability's bias, of 64 draws each time."""
    pyro.set_rng_seed(3)
    model, guide = build(baseline_scale=None)
    image = torch.rand(1, 1, 20, 20).expand(64, 3, -1, -1)
    bias = guide.attend.predict[-1].bias

    def gradients(elbo: Any, count: int) -> torch.Tensor:
        with pyro.validation_enabled(False):
            losses = (elbo.differentiable_loss(model, guide, image) for _ in range(count))
            return torch.stack([torch.autograd.grad(loss, bias)[0][0] for loss in losses])

    exact, published = gradients(EnumeratedAIR_ELBO(), 20), gradients(AIR_ELBO(), 60)
    error = published.std() / 60**0.5 + exact.std() / 20**0.5
    assert (exact.mean() - published.mean()).abs() < 4 * error
    assert exact.std() < published.std() / 3


@pytest.mark.parametrize("objective", [AIR_ELBO, EnumeratedAIR_ELBO])
@pytest.mark.parametrize("schedule", [{"start": 0.99}, {"weight": 30.0}, {"start": 0.1, "weight": 3.0}])
def test_annealing(air: AIR, images: torch.Tensor, objective: Any, schedule: dict[str, float]) -> None:
    annealing = PresenceAnnealing(2, **schedule)
    elbo = objective(annealing=annealing)
    model, guide = air
    pyro.set_rng_seed(1)
    first = elbo.terms(model, guide, images)
    assert (first["annealing"] != 0).any()
    pyro.set_rng_seed(1)
    assert (elbo.eval().terms(model, guide, images)["annealing"] == 0).all()
    for _ in range(2):
        elbo.train().differentiable_loss(model, guide, images)
        elbo.advance()
    assert annealing.steps_done == 2
    with torch.no_grad():
        elbo.differentiable_loss(model, guide, images)
    assert annealing.steps_done == 2
    pyro.set_rng_seed(1)
    last = elbo.terms(model, guide, images)
    assert last["annealing"].abs().max() < 1e-4
    for name in elbo.bound:
        torch.testing.assert_close(first[name], last[name])
    assert "annealing.steps_done" in elbo.state_dict()


def test_annealing_by_hand() -> None:
    annealing = PresenceAnnealing(4, start=0.9, weight=81.0)
    prior = Presence(torch.tensor([[0.1]]).log(), torch.tensor([[0.9]]).log())
    # The logit falls from ln 9 to -ln 9, the weight by a third, in each of four steps.
    for probability, weight in ((0.9, 81.0), (0.75, 27.0), (0.5, 9.0), (0.25, 3.0), (0.1, 1.0), (0.1, 1.0)):
        torch.testing.assert_close(annealing.prior(prior).log_yes.exp(), torch.tensor([[probability]]))
        torch.testing.assert_close(annealing.weight(), torch.tensor(weight))
        annealing.advance()


def test_annealing_weighs_the_kl(air: AIR, images: torch.Tensor) -> None:
    terms = EnumeratedAIR_ELBO(annealing=PresenceAnnealing(9, weight=5.0)).terms(*air, images)
    torch.testing.assert_close(terms["annealing"], 4 * terms["kl_pres"])


@pytest.mark.parametrize("fields", [{"steps": 0}, {"steps": 1, "start": 1.0}, {"steps": 1, "weight": 0.0}])
def test_annealing_refuses_what_is_out_of_range(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="annealing takes"):
        PresenceAnnealing(**fields)


# Training


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_svi_trains(air: AIR, images: torch.Tensor, objective: str) -> None:
    model, guide = air
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(guide.state_dict())
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), OBJECTIVES[objective]())
    for _ in range(2):
        assert torch.isfinite(torch.tensor(svi.step(images)))
    for module, old in zip(air, before, strict=True):
        changed = {name for name, value in module.state_dict().items() if not torch.equal(value, old[name])}
        trained = {name for name in old if objective != "enumerated" or not name.startswith("baseline")}
        assert changed == trained


@pytest.mark.parametrize("objective", ["published", "enumerated"])
@pytest.mark.parametrize("differential", [False, True])
def test_every_parameter_gets_a_gradient(images: torch.Tensor, objective: str, differential: bool) -> None:
    pyro.set_rng_seed(1)
    model, guide = build(
        differential=differential, baseline_scale=1.0 if objective == "published" else None, presence_prior=(0.9,)
    )
    module = OBJECTIVES[objective]()(model, guide)
    with pyro.settings.context(module_local_params=True):
        module(images).backward()
    assert not len(pyro.get_param_store())
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_saved_and_loaded_equal(images: torch.Tensor) -> None:
    pairs = [build(differential=True) for _ in range(2)]
    elbos = [EnumeratedAIR_ELBO(annealing=PresenceAnnealing(5)) for _ in pairs]
    modules = [elbo(*pair) for elbo, pair in zip(elbos, pairs, strict=True)]
    modules[1].load_state_dict(modules[0].state_dict())
    losses = []
    for module in modules:
        pyro.set_rng_seed(2)
        losses.append(module(images))
    assert torch.equal(*losses)


# What is inferred


def test_find_objects_is_certain_and_monotone(air: AIR, images: torch.Tensor) -> None:
    objects = air[1].find_objects(images, num_slots=4)
    assert objects.presence.shape == (4, 4)
    assert objects.where.shape == (4, 4, 3)
    assert objects.what.shape == (4, 4, 5)
    assert (objects.presence.int().diff(dim=1) <= 0).all()
    assert torch.equal(objects.counts, objects.presence.sum(1))
    again = air[1].find_objects(images, num_slots=4)
    assert all(torch.equal(one, other) for one, other in zip(objects, again, strict=True))


@pytest.mark.parametrize("differential", [False, True])
def test_only_dair_sees_what_is_left(images: torch.Tensor, differential: bool) -> None:
    """When step 0 explains something, DAIR's step 1 sees the image without it; AIR's sees the image."""
    model, guide = build(differential=differential)
    with poutine.trace() as recorder, poutine.condition(data={"z_pres_0": torch.ones(4)}):
        guide(images)
    sites = recorder.trace.nodes
    where, what = sites["z_where_0"]["value"], sites["z_what_0"]["value"]
    drawn = place_windows(model.decoder(what), where, 20)
    seen = as_grey(images) - drawn if differential else as_grey(images)
    expected, _ = guide.encoder(seen, sites["z_where_1"]["value"])
    torch.testing.assert_close(sites["z_what_1"]["fn"].mean, expected)


@pytest.mark.parametrize("elbo", [AIR_ELBO(), EnumeratedAIR_ELBO(), None])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_only_objects_that_are_inferred_are_shown(elbo: Any, count: int, images: torch.Tensor) -> None:
    """Whatever the objective runs to form its loss."""
    model, guide = build(predict_sizes=())
    with torch.no_grad():
        guide.attend.predict[-1].weight.zero_()
        guide.attend.predict[-1].bias[0] = 12.0 if count else -12.0
    guide.num_slots = model.num_slots = max(count, 1)
    explanation = explain(model, guide, images, elbo)
    assert explanation.counts.tolist() == [count] * 4
    assert torch.equal(explanation.counts, guide.find_objects(images).counts)
    shown = explanation.slot_rgb.flatten(2).amax(2) > 0
    assert shown.sum(1).tolist() == [count] * 4
    assert bool(explanation.reconstruction.any()) == bool(explanation.slot_masks.any()) == bool(count)
    beliefs = infer_beliefs(guide, images)
    assert beliefs.present.sum(1).tolist() == [count] * 4


def test_the_scene_that_is_shown_is_the_most_likely(air: AIR, images: torch.Tensor) -> None:
    explanation = explain(*air, images, EnumeratedAIR_ELBO())
    found = air[1].find_objects(images)
    values = {f"z_{name}_{t}": getattr(found, part)[:, t] for t in range(3) for name, part in PARTS.items()}
    values = {name: value.float() for name, value in values.items()}
    sites = poutine.trace(poutine.condition(air[0], data=values)).get_trace(num_scenes=4).nodes
    torch.testing.assert_close(explanation.reconstruction, sites["reconstruction"]["value"])
    terms = EnumeratedAIR_ELBO().terms(*air, images)
    assert set(explanation.terms) == set(terms)


PARTS = {"pres": "presence", "where": "where", "what": "what"}


def test_explained_like_any_other_system(air: AIR, images: torch.Tensor) -> None:
    explanation = explain(*air, images)
    assert explanation.slot_rgb.shape == (4, 3, 3, 20, 20)
    torch.testing.assert_close(explanation.slot_rgb.sum(1), explanation.reconstruction)
    scenes = sample_scenes(air[0], 3, num_slots=2)
    assert scenes.slot_masks.shape == (3, 2, 1, 20, 20)


def test_presence_is_never_drawn_from_nan(images: torch.Tensor) -> None:
    """Where training diverges: drawing from NaN would stop a GPU for good, before the loss is looked at."""
    model, guide = build()
    with torch.no_grad():
        guide.attend.predict[-1].bias.fill_(torch.nan)
    with pyro.validation_enabled(False):
        trace = poutine.trace(guide).get_trace(images)
        loss = AIR_ELBO()(model, guide)(images)
    assert not trace.nodes["z_pres_0"]["fn"].probs.isnan().any()
    assert not loss.isfinite()  # which is what ends the training
