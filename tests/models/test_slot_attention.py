"""Slot Attention as a Pyro program: auto-encoder, and encoder of SRI-SA*."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.scene import SceneModel
from pyro_sri.models.slot_attention import SlotAttentionModel
from pyro_sri.objectives import SRI_ELBO, SlotAttentionLoss

SHAPE = {"image_size": 16, "num_slots": 3, "slot_size": 8}


def build(*, learnt_slots: bool = False) -> tuple[SlotAttentionModel, SlotAttentionGuide]:
    return SlotAttentionModel(**SHAPE), SlotAttentionGuide(**SHAPE, learnt_slots=learnt_slots)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16)


@pytest.mark.parametrize("learnt_slots", [False, True])
def test_sites_in_order(learnt_slots: bool, images: torch.Tensor) -> None:
    model, guide = build(learnt_slots=learnt_slots)
    guide_trace, model_trace = (poutine.trace(program).get_trace(images) for program in (guide, model))

    def drawn(trace: poutine.Trace) -> dict[str, torch.Size]:
        return {
            name: site["value"].shape[1:]
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and name != "scenes"
        }

    assert drawn(guide_trace) == {
        "initial_slots": (3, 8),
        "attention_masks": (3, 1, 16, 16),
        "segregated_slots": (3, 8),
    }
    assert list(drawn(model_trace)) == ["segregated_slots", "slot_rgb", "slot_masks", "reconstruction", "image"]
    for name in ("initial_slots", "attention_masks"):
        assert guide_trace.nodes[name]["mask"] is False
        assert guide_trace.nodes[name]["infer"]["is_auxiliary"]
    masks = guide_trace.nodes["attention_masks"]["value"]
    torch.testing.assert_close(masks.sum(1), torch.ones(4, 1, 16, 16))


def test_only_the_start_is_random(images: torch.Tensor) -> None:
    _, guide = build()
    nodes = poutine.trace(guide).get_trace(images).nodes
    start = {"initial_slots": nodes["initial_slots"]["value"]}
    again = poutine.trace(poutine.condition(guide, data=start)).get_trace(images).nodes
    assert torch.equal(nodes["segregated_slots"]["value"], again["segregated_slots"]["value"])
    shuffled = {"initial_slots": start["initial_slots"][:, [2, 0, 1]]}
    again = poutine.trace(poutine.condition(guide, data=shuffled)).get_trace(images).nodes
    torch.testing.assert_close(nodes["segregated_slots"]["value"][:, [2, 0, 1]], again["segregated_slots"]["value"])


def test_loss_is_the_likelihood_up_to_a_constant(images: torch.Tensor) -> None:
    """And stock ELBOs are its sum over the batch: slots are not scored."""
    pair = build()
    pyro.set_rng_seed(3)
    terms = SlotAttentionLoss().terms(*pair, images)
    constant = 0.5 * torch.log(torch.tensor(torch.pi)) * 3 * 16**2
    torch.testing.assert_close(terms["nll"], terms["squared_error"] + constant)
    pyro.set_rng_seed(3)
    assert Trace_ELBO().loss(*pair, images) == pytest.approx(terms["nll"].sum().item(), rel=1e-5)


def test_svi_and_elbo_module_agree(images: torch.Tensor) -> None:
    results = []
    for use_svi in (True, False):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = build()
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        pyro.set_rng_seed(7)
        if use_svi:
            loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), SlotAttentionLoss()).step(images)
        else:
            with pyro.settings.context(module_local_params=True):
                module = SlotAttentionLoss()(model, guide)
                optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
                tensor = module(images)
                tensor.backward()
                optimizer.step()
                loss = tensor.item()
        after = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        assert not any(torch.equal(b, a) for b, a in zip(before, after, strict=True))
        results.append((loss, after))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_every_parameter_learns(images: torch.Tensor) -> None:
    module = SlotAttentionLoss()(*build()).double()
    module(images.double()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    zero = {name for name, p in module.named_parameters() if p.grad.abs().max() < 1e-10}
    assert zero == {"guide.attention.norm.bias"}  # the softmax over slots does not see a shift of every query
    state = module.state_dict()
    assert set(state) == {name for name, _ in module.named_parameters()}
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize("num_slots", [1, 5])
def test_any_number_of_slots(num_slots: int, images: torch.Tensor) -> None:
    traces = SlotAttentionLoss().trace(*build(), images, num_slots=num_slots)
    assert traces.model.nodes["slot_masks"]["value"].shape == (4, num_slots, 1, 16, 16)


def test_predictive_and_render_model(images: torch.Tensor) -> None:
    model, guide = build()
    assert Predictive(model, num_samples=2)(num_scenes=3)["image"].shape == (2, 3, 3, 16, 16)
    posterior = Predictive(guide, num_samples=2)(images)
    assert Predictive(model, posterior_samples=posterior)(num_scenes=4)["image"].shape == (2, 4, 3, 16, 16)
    assert "segregated_slots -> image" in pyro.render_model(model, model_args=(images,)).source


def test_learnt_slots_are_not_exchangeable(images: torch.Tensor) -> None:
    _, guide = build(learnt_slots=True)
    site = poutine.trace(guide).get_trace(images).nodes["initial_slots"]
    loc = site["fn"].mean
    assert not torch.equal(loc[:, 0], loc[:, 1])
    assert torch.equal(loc[0], loc[1])
    with pytest.raises(ValueError, match="this network has learnt its 3 slots one by one: it cannot use 4"):
        guide(images, num_slots=4)


def test_what_sri_segregates_with(images: torch.Tensor) -> None:
    """`infer` draws in the caller's plate; gradients reach every parameter of the encoder."""
    _, guide = build(learnt_slots=True)
    with poutine.trace() as recorder, pyro.plate("scenes", 4):
        means, scales, slots = guide.infer(images)
    site = recorder.trace.nodes["segregated_slots"]
    assert torch.equal(site["fn"].mean, means)
    assert torch.equal(site["fn"].stddev, scales)
    assert torch.equal(site["value"], slots)
    (means.square().sum() + slots.sum()).backward()
    assert all(p.grad is not None for p in guide.parameters())


@pytest.mark.parametrize("learnt_slots", [False, True])
def test_segregation_of_sri(learnt_slots: bool, images: torch.Tensor) -> None:
    model = SceneModel(**SHAPE, scene_size=6)
    guide = SRIGuide(model, SegregationPair(*build(learnt_slots=learnt_slots)), num_layers=1)
    terms = SRI_ELBO().terms(model, guide, images)
    assert all(torch.isfinite(term).all() for term in terms.values())


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="it takes multiples of 16"):
        SlotAttentionModel(**SHAPE | {"image_size": 35}, decoder="big")
    with pytest.raises(ValueError, match="0 rounds of attention are too few"):
        SlotAttentionGuide(**SHAPE, num_iterations=0)
