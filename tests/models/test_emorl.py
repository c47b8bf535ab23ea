"""The EMORL model as a Pyro program: its chain of layers, its handlers, its samples."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_sri.models.emorl import EMORLModel
from pyro_sri.nn import slot_decoder

PRIORS = ("rpp", "rev", "bu")


def build(**fields: object) -> EMORLModel:
    shape = {"image_size": 16, "num_slots": 3, "slot_size": 6, "num_layers": 3, "decoder": "small"}
    return EMORLModel(**shape | fields)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16)


@pytest.mark.parametrize(("prior", "order"), [("rpp", (2, 1, 0)), ("rev", (2, 1, 0)), ("bu", (0, 1, 2))])
def test_sites_in_order(prior: str, order: tuple[int, ...], images: torch.Tensor) -> None:
    trace = poutine.trace(build(prior=prior)).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}
    shapes = {f"layer_{layer}_slots": (3, 6) for layer in order}
    shapes |= {"slot_rgb": (3, 3, 16, 16), "slot_masks": (3, 1, 16, 16), "reconstruction": (3, 16, 16)}
    shapes |= {"image": (3, 16, 16)}
    assert list(sites) == list(shapes)
    for name, shape in shapes.items():
        assert sites[name]["value"].shape == (2, *shape)
        assert sites[name]["fn"].batch_shape == (2,)
        assert [frame.name for frame in sites[name]["cond_indep_stack"]] == ["scenes"]
    assert sites["image"]["is_observed"]
    trace.compute_log_prob()


@pytest.mark.parametrize("prior", PRIORS)
def test_each_layer_depends_on_the_one_before_it_in_the_chain(prior: str) -> None:
    model = build(prior=prior)
    latents = {f"layer_{layer}_slots": torch.randn(2, 3, 6) for layer in range(3)}

    def means(changed: int | None = None) -> list[torch.Tensor]:
        data = dict(latents)
        if changed is not None:
            data[f"layer_{changed}_slots"] = data[f"layer_{changed}_slots"] + 1
        nodes = poutine.trace(poutine.condition(model, data=data)).get_trace(num_scenes=2).nodes
        return [nodes[f"layer_{layer}_slots"]["fn"].mean for layer in range(3)]

    before = means()
    assert torch.equal(before[model.prior.order[0]], torch.zeros(2, 3, 6))
    for position, layer in enumerate(model.prior.order):
        after = means(layer)
        for later, other in enumerate(model.prior.order):
            assert torch.equal(before[other], after[other]) is not (later == position + 1)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_image_shows_the_last_layer_or_the_one_asked_for(prior: str) -> None:
    model = build(prior=prior)
    latents = {f"layer_{layer}_slots": torch.randn(2, 3, 6) for layer in range(3)}
    conditioned = poutine.condition(model, data=latents)
    for asked, shown in ((None, 2), (0, 0), (1, 1)):
        rgb = poutine.trace(conditioned).get_trace(num_scenes=2, decoded_layer=asked).nodes["slot_rgb"]["value"]
        torch.testing.assert_close(rgb, model.decoder(latents[f"layer_{shown}_slots"]).rgb)


def test_slots_are_exchangeable() -> None:
    """Permuting the slots of every layer permutes every conditional prior, and leaves the image's mean as it is."""
    model = build()
    latents = {f"layer_{layer}_slots": torch.randn(1, 3, 6) for layer in range(3)}
    shuffled = {name: slots[:, [2, 0, 1]] for name, slots in latents.items()}
    one, other = (poutine.trace(poutine.condition(model, data=d)).get_trace().nodes for d in (latents, shuffled))
    torch.testing.assert_close(one["layer_0_slots"]["fn"].mean[:, [2, 0, 1]], other["layer_0_slots"]["fn"].mean)
    torch.testing.assert_close(one["reconstruction"]["value"], other["reconstruction"]["value"])


def test_predictive_samples_scenes() -> None:
    drawn = Predictive(build(), num_samples=2)(num_scenes=2)
    assert drawn["image"].shape == (2, 2, 3, 16, 16)
    assert drawn["layer_0_slots"].shape == (2, 2, 3, 6)
    assert build()().shape == (1, 3, 16, 16)


def test_temperature_scales_every_prior() -> None:
    model = build()
    warm = poutine.trace(model).get_trace(num_scenes=2)
    latents = {name: site["value"] for name, site in warm.nodes.items() if name.startswith("layer_")}
    cold = poutine.trace(poutine.condition(model, data=latents)).get_trace(num_scenes=2, temperature=0.5)
    for name in latents:
        torch.testing.assert_close(cold.nodes[name]["fn"].stddev, 0.5 * warm.nodes[name]["fn"].stddev)


@pytest.mark.parametrize("num_slots", [1, 5])
def test_any_number_of_slots(num_slots: int) -> None:
    trace = poutine.trace(build()).get_trace(num_scenes=2, num_slots=num_slots)
    assert trace.nodes["slot_rgb"]["value"].shape == (2, num_slots, 3, 16, 16)


def test_one_layer() -> None:
    for prior in PRIORS:
        trace = poutine.trace(build(num_layers=1, prior=prior)).get_trace()
        assert "layer_0_slots" in trace
        assert "layer_1_slots" not in trace


@pytest.mark.parametrize(
    ("decoder", "sizes"),
    [("iodine", (16, 35)), ("small", (17, 35)), ("big", (32, 96)), ("genesis_v2", (32, 48))],
    ids=lambda v: str(v),
)
def test_decoders_fit_their_image_sizes(decoder: str, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        rgb, log_masks = slot_decoder(size, 8, decoder)(torch.randn(1, 2, 8))
        assert rgb.shape == (1, 2, 3, size, size)
        torch.testing.assert_close(log_masks.exp().sum(1), torch.ones(1, 1, size, size))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (
            {"decoder": "big", "image_size": 35},
            "image size 35 does not fit the decoder 'big': it takes multiples of 16",
        ),
        ({"decoder": "huge"}, "unknown decoder 'huge'"),
        ({"image_size": 0}, "image size 0"),
        ({"prior": "flat"}, "unknown prior 'flat'"),
        ({"num_layers": 0}, "0 layers are too few"),
    ],
)
def test_what_does_not_fit(fields: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build(**fields)


def test_render_model(images: torch.Tensor) -> None:
    graph = pyro.render_model(build(), model_args=(images,))
    assert "layer_2_slots -> layer_1_slots" in graph.source
    assert "layer_1_slots -> layer_0_slots" in graph.source
    assert "layer_2_slots -> image" in graph.source
    assert "layer_0_slots -> image" not in graph.source
    graph = pyro.render_model(build(prior="bu"), model_args=(images,))
    assert "layer_0_slots -> layer_1_slots" in graph.source
