"""The guides of GENESIS, GENESIS-v2 and the recurrent guide as Pyro programs."""

import copy

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.nn import PyroModule

from pyro_sri.guides.recurrent import RecurrentGuide
from pyro_sri.nn import stop_early
from pyro_sri.objectives import SlotELBO
from support.programs import build_pair, build_sri

SITES = {
    "genesis_v2": {"segregation_seeds": (32, 32), "attention_masks": (3, 1, 32, 32)}
    | {f"slot_{k}": (16,) for k in range(3)},
    "genesis": {f"mask_slot_{k}": (6,) for k in range(3)}
    | {"log_masks": (3, 1, 32, 32)}
    | {f"component_slot_{k}": (5,) for k in range(3)},
    "recurrent": {"scene": (12,)} | {f"slot_{k}": (16,) for k in range(3)},
}
AUXILIARY = {"segregation_seeds", "attention_masks"}

systems = pytest.mark.parametrize("system", SITES)


@systems
def test_sites_in_order(system: str, images: torch.Tensor) -> None:
    trace = poutine.trace(build_pair(system)[1]).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "scenes"}
    assert list(sites) == list(SITES[system])
    for name, shape in SITES[system].items():
        assert sites[name]["value"].shape == (4, *shape), name
        assert [frame.name for frame in sites[name]["cond_indep_stack"]] == ["scenes"]
        assert bool(sites[name]["infer"].get("is_auxiliary")) is (name in AUXILIARY)
        assert (sites[name]["mask"] is False) is (name in AUXILIARY)


@systems
@pytest.mark.parametrize("num_slots", [1, 2, 5])
def test_any_number_of_slots(system: str, num_slots: int, images: torch.Tensor) -> None:
    model, guide = build_pair(system)
    terms = SlotELBO().terms(model, guide, images, num_slots=num_slots)
    assert all(torch.isfinite(term).all() for term in terms.values())


@systems
def test_posterior_predictive(system: str, images: torch.Tensor) -> None:
    model, guide = build_pair(system)
    posterior = Predictive(guide, num_samples=2)(images)
    drawn = Predictive(model, posterior_samples=posterior)(num_scenes=4)
    assert drawn["image"].shape == (2, 4, 3, 32, 32)


@systems
def test_replay(system: str, images: torch.Tensor) -> None:
    model, guide = build_pair(system)
    trace = poutine.trace(guide).get_trace(images)
    replayed = poutine.trace(poutine.replay(model, trace)).get_trace(images)
    for name in SITES[system].keys() - AUXILIARY:
        assert replayed.nodes[name]["value"] is trace.nodes[name]["value"]


@systems
def test_same_seed_same_draws(system: str, images: torch.Tensor) -> None:
    guide = build_pair(system)[1].eval()
    last, drawn = list(SITES[system])[-1], []
    for _ in range(2):
        pyro.set_rng_seed(1)
        drawn.append(poutine.trace(guide).get_trace(images).nodes[last]["value"])
    assert torch.equal(*drawn)


def test_later_slots_follow_earlier_ones(images: torch.Tensor) -> None:
    """The recurrent guides read the latents that they drew before."""
    for system, site in (("genesis", "mask_slot"), ("recurrent", "slot")):
        guide = build_pair(system)[1].eval()
        size = SITES[system][f"{site}_0"]

        def means(first: float, guide: PyroModule = guide, site: str = site, size: tuple[int, ...] = size):
            data = {f"{site}_0": torch.full((4, *size), first), f"{site}_1": torch.zeros(4, *size)}
            nodes = poutine.trace(poutine.condition(guide, data=data)).get_trace(images).nodes
            return [nodes[f"{site}_{k}"]["fn"].mean for k in range(3)]

        zero, one = means(0.0), means(1.0)
        assert torch.equal(zero[0], one[0])
        assert not torch.equal(zero[1], one[1])
        assert not torch.equal(zero[2], one[2])


def test_components_see_their_own_mask(images: torch.Tensor) -> None:
    guide = build_pair("genesis")[1].eval()
    log_masks = torch.full((4, 3, 1, 32, 32), 1 / 3).log()
    changed = log_masks.clone()
    changed[:, 1, :, :16] = -9.0

    def means(masks: torch.Tensor) -> list[torch.Tensor]:
        nodes = poutine.trace(poutine.condition(guide, data={"log_masks": masks})).get_trace(images).nodes
        return [nodes[f"component_slot_{k}"]["fn"].mean for k in range(3)]

    before, after = means(log_masks), means(changed)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


def test_genesis_guide_does_not_own_the_mask_decoder() -> None:
    model, guide = build_pair("genesis")
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}
    copied = copy.deepcopy(SlotELBO()(model, guide))
    assert copied.guide.mask_decoder is copied.model.mask_decoder
    assert copied.guide.mask_decoder is not guide.mask_decoder


def test_early_stop(images: torch.Tensor) -> None:
    """Each image run with the number of slots that its clustering stops at has the masks of the stopped clustering."""
    guide = build_pair("genesis_v2")[1].eval()
    seeds = torch.rand(4, 32, 32)
    with torch.no_grad():
        clusters = guide.cluster(guide.encoder(images), images, seeds)
        masses = clusters.log_masks[:, 1].exp().sum((1, 2, 3))
        min_mass = masses.mean().item()  # some images stop at the second mask
        stopped, expected = stop_early(clusters, min_mass)
        counts = guide.count_slots(images, seeds, min_mass)
        assert torch.equal(counts, expected)
        assert 2 in counts
        for index, count in enumerate(counts.tolist()):
            one = slice(index, index + 1)
            with poutine.condition(data={"segregation_seeds": seeds[one]}):
                trace = poutine.trace(guide).get_trace(images[one], num_slots=count)
            masks = trace.nodes["attention_masks"]["value"]
            torch.testing.assert_close(masks, stopped[one, :count].exp())
            assert f"slot_{count}" not in trace
            assert torch.equal(stopped[one, count:].exp(), torch.zeros(1, 3 - count, 1, 32, 32))
    assert torch.equal(guide.count_slots(images, seeds, 0.0), torch.full((4,), 3))
    assert torch.equal(guide.count_slots(images, seeds, 1e9), torch.full((4,), 1))


def test_slot_guide_can_segregate(images: torch.Tensor) -> None:
    """The guide of GENESIS-v2 on its own is also one for the segregation pair."""
    guide = build_pair("genesis_v2")[1]
    with pyro.plate("scenes", 4):
        segregation = guide.infer(images)
    assert segregation.means.shape == segregation.slots.shape == (4, 3, 16)


def test_recurrent_guide_refuses_odd_sizes() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        RecurrentGuide(build_sri()[0], image_size=40)
