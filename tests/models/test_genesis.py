"""The models of GENESIS and GENESIS-v2 as Pyro programs: their sites, their handlers, their samples."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.nn import PyroModule

from pyro_sri.models.genesis import GenesisModel
from pyro_sri.models.genesis_v2 import AutoregressiveSlotModel

PICTURES = {"slot_rgb": (3, 3, 32, 32), "slot_masks": (3, 1, 32, 32), "reconstruction": (3, 32, 32)}
LATENTS = {
    "genesis_v2": {f"slot_{k}": (8,) for k in range(3)},
    "genesis": {f"mask_slot_{k}": (6,) for k in range(3)}
    | {"log_masks": (3, 1, 32, 32)}
    | {f"component_slot_{k}": (5,) for k in range(3)},
}


def build(system: str, **fields: object) -> PyroModule:
    shape = {"image_size": 32, "num_slots": 3}
    if system == "genesis_v2":
        return AutoregressiveSlotModel(**shape | {"slot_size": 8} | fields)
    small = {"mask_slot_size": 6, "component_slot_size": 5, "decoder_channels": 8}
    return GenesisModel(**shape | small | fields).eval()


def latents(model: PyroModule, num_scenes: int = 2) -> dict[str, torch.Tensor]:
    """Draws from the prior: those that do not follow from others."""
    nodes = poutine.trace(model).get_trace(num_scenes=num_scenes).nodes
    return {name: node["value"] for name, node in nodes.items() if name.rstrip("012").endswith("slot_")}


systems = pytest.mark.parametrize("system", LATENTS)


@systems
def test_sites_in_order(system: str, images: torch.Tensor) -> None:
    trace = poutine.trace(build(system)).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}
    expected = LATENTS[system] | PICTURES | {"image": (3, 32, 32)}
    assert list(sites) == list(expected)
    for name, shape in expected.items():
        assert sites[name]["value"].shape == (4, *shape)
        assert sites[name]["fn"].batch_shape == (4,)
        assert [frame.name for frame in sites[name]["cond_indep_stack"]] == ["scenes"]
        assert sites[name]["is_observed"] == (name not in LATENTS[system])
    trace.compute_log_prob()
    assert "slot_masks" in trace.format_shapes()


@systems
def test_deterministic_sites_agree(system: str) -> None:
    nodes = poutine.trace(build(system)).get_trace(num_scenes=2).nodes
    masks, rgb = nodes["slot_masks"]["value"], nodes["slot_rgb"]["value"]
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 1, 32, 32))
    torch.testing.assert_close((masks * rgb).sum(1), nodes["reconstruction"]["value"])
    assert 0 <= rgb.min() <= rgb.max() <= 1


@systems
def test_the_first_prior_is_standard_and_the_others_follow_what_came_before(system: str) -> None:
    model = build(system)
    site = "slot" if system == "genesis_v2" else "mask_slot"
    drawn = latents(model)

    def nodes(**changes: torch.Tensor):
        return poutine.trace(poutine.condition(model, data=drawn | changes)).get_trace(num_scenes=2).nodes

    before, after = nodes(), nodes(**{f"{site}_1": drawn[f"{site}_1"] + 1})
    first = before[f"{site}_0"]["fn"]
    assert torch.equal(first.mean, torch.zeros_like(first.mean))
    assert torch.equal(first.stddev, torch.ones_like(first.mean))
    assert torch.equal(before[f"{site}_1"]["fn"].mean, after[f"{site}_1"]["fn"].mean)
    assert not torch.equal(before[f"{site}_2"]["fn"].mean, after[f"{site}_2"]["fn"].mean)
    assert before[f"{site}_2"]["fn"].mean.abs().max() < 1


@systems
def test_temperature_scales_every_prior(system: str) -> None:
    model = build(system)
    drawn = latents(model)
    warm, cold = (
        poutine.trace(poutine.condition(model, data=drawn)).get_trace(num_scenes=2, temperature=t).nodes
        for t in (1.0, 0.5)
    )
    for name in drawn:
        torch.testing.assert_close(cold[name]["fn"].stddev, 0.5 * warm[name]["fn"].stddev)
        torch.testing.assert_close(cold[name]["fn"].mean, warm[name]["fn"].mean)


@systems
@pytest.mark.parametrize("num_slots", [1, 2, 5])
def test_any_number_of_slots(system: str, num_slots: int) -> None:
    nodes = poutine.trace(build(system)).get_trace(num_scenes=2, num_slots=num_slots).nodes
    assert nodes["slot_rgb"]["value"].shape == (2, num_slots, 3, 32, 32)
    assert nodes["slot_masks"]["value"].shape == (2, num_slots, 1, 32, 32)


@systems
def test_predictive_samples_scenes(system: str) -> None:
    drawn = Predictive(build(system), num_samples=3)(num_scenes=2)
    assert drawn["image"].shape == (3, 2, 3, 32, 32)
    assert drawn["slot_masks"].shape == (3, 2, 3, 1, 32, 32)


@systems
def test_condition_and_block(system: str) -> None:
    model = build(system)
    name, shape = next(iter(LATENTS[system].items()))
    trace = poutine.trace(poutine.condition(model, data={name: torch.ones(2, *shape)})).get_trace(num_scenes=2)
    assert torch.equal(trace.nodes[name]["value"], torch.ones(2, *shape))
    assert name not in poutine.trace(poutine.block(model, hide=[name])).get_trace(num_scenes=2)
    assert model().shape == (1, 3, 32, 32)


@systems
def test_same_seed_same_scene(system: str) -> None:
    model = build(system)
    drawn = []
    for _ in range(2):
        pyro.set_rng_seed(5)
        drawn.append(model(num_scenes=2))
    assert torch.equal(*drawn)


@systems
def test_render_model(system: str, images: torch.Tensor) -> None:
    source = pyro.render_model(build(system), model_args=(images,)).source
    if system == "genesis_v2":
        assert "slot_0 -> slot_1" in source
        assert "slot_2 -> image" in source
    else:
        assert "mask_slot_0 -> mask_slot_1" in source
        assert "mask_slot_2 -> component_slot_2" in source
        assert "mask_slot_2 -> component_slot_1" not in source
        assert "component_slot_2 -> image" in source


def test_sampling_without_the_tanh() -> None:
    """As the authors' GENESIS does; with images the prior is the trained one."""
    official, ours = build("genesis", squash_samples=False), build("genesis")
    ours.load_state_dict(official.state_dict())
    drawn = latents(ours)
    conditioned = [poutine.condition(model, data=drawn) for model in (official, ours)]
    sampled = [poutine.trace(model).get_trace(num_scenes=2).nodes["mask_slot_1"]["fn"].mean for model in conditioned]
    torch.testing.assert_close(sampled[0].tanh(), sampled[1])
    assert not torch.allclose(*sampled)
    images = torch.rand(2, 3, 32, 32)
    scored = [poutine.trace(model).get_trace(images).nodes["mask_slot_1"]["fn"].mean for model in conditioned]
    assert torch.equal(*scored)


@pytest.mark.parametrize("size", [16, 48, 96, 128])
def test_genesis_refuses_other_sizes(size: int) -> None:
    with pytest.raises(ValueError, match=rf"image size {size} does not fit GENESIS: it takes 32 or 64"):
        build("genesis", image_size=size)


def test_genesis_at_64() -> None:
    assert build("genesis", image_size=64)(num_scenes=1).shape == (1, 3, 64, 64)
