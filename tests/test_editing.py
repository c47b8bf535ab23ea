"""Editing: what is kept, what is imagined, and that it is what the model believes."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from PIL import Image
from pyro import poutine
from pyro.distributions import Independent
from torch import Tensor

from pyro_sri.distributions import diagonal_normal
from pyro_sri.editing import decode, imagine_rest, infer_slots, insert, remove, swap
from pyro_sri.inference import explain
from pyro_sri.presets import PRESETS
from pyro_sri.programs import record_of
from pyro_sri.scripts.main import run
from pyro_sri.system.errors import UserError
from support.programs import build_sri
from support.systems import uncovered

ROOT = Path(__file__).parent.parent

SYSTEMS = [
    "sri-mog-shapestacks",
    "sri_emorl-clevr6",
    "sri_sa-shapestacks",
    "genesis_v2_scene-mog-shapestacks",
    "genesis_v2-mog-shapestacks",
    "recurrent-mog-shapestacks",
]
SYSTEMS += uncovered(SYSTEMS)


class LinearGaussian:
    """s ~ N(0, T^2), z_0 ~ N(0.8 s, T^2), z_k ~ N(0.8 s - 0.7 z_{k-1}, (0.5 T)^2): its posteriors are known."""

    def __init__(self) -> None:
        given = torch.zeros(4, 4)  # what (s, z_0, z_1, z_2) is made of, besides noise
        given[1:, 0] = 0.8
        given[2, 1] = given[3, 2] = -0.7
        self.transform = torch.linalg.inv(torch.eye(4) - given) @ torch.tensor([1.0, 1.0, 0.5, 0.5]).diag()

    def scene_dist(self, num_scenes: int, temperature: float) -> Independent:
        return diagonal_normal(torch.zeros(num_scenes, 1), torch.full((num_scenes, 1), temperature))

    def __call__(self, num_scenes: int, num_slots: int, temperature: float) -> None:
        with pyro.plate("scenes", num_scenes):
            scene = pyro.sample("scene", self.scene_dist(num_scenes, temperature))
            loc = 0.8 * scene
            for k in range(num_slots):
                scale = torch.full_like(loc, temperature if k == 0 else 0.5 * temperature)
                slot = pyro.sample(f"slot_{k}", diagonal_normal(loc, scale))
                loc = 0.8 * scene - 0.7 * slot
        raise AssertionError("candidates are not to be decoded")

    def posterior(self, keep: list[int], values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the free slots: conditioning of a joint Gaussian."""
        covariance = (temperature**2 * self.transform @ self.transform.T)[1:, 1:]
        free = [k for k in range(3) if k not in keep]
        gain = covariance[free][:, keep] @ torch.linalg.inv(covariance[keep][:, keep])
        return gain @ values, covariance[free][:, free] - gain @ covariance[keep][:, free]


def all_different(rows: Tensor) -> bool:
    return len(rows.unique(dim=0)) == len(rows)


PROPOSALS = {
    "prior": None,
    "good": lambda kept: diagonal_normal(kept.mean(1), torch.full_like(kept[:, 0], 0.7)),
    "bad": lambda kept: diagonal_normal(kept[:, 0] - 1, torch.full_like(kept[:, 0], 0.4)),
}


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize(("keep", "temperature"), [([2], 1.0), ([0, 2], 1.0), ([1], 0.5)])
def test_the_rest_is_drawn_from_the_posterior(keep: list[int], temperature: float, proposal: str) -> None:
    """Of a linear Gaussian model, given kept slots that lie before and after the free ones."""
    model, num = LinearGaussian(), 1000
    kept = torch.tensor([0.9, -1.1, 0.7])
    slots = kept[:, None].expand(num, 3, 1)
    options = {"propose": PROPOSALS[proposal], "temperature": temperature, "candidates": 512}
    drawn = imagine_rest(model, slots, keep, **options).slots[..., 0]
    free = [k for k in range(3) if k not in keep]
    mean, covariance = model.posterior(keep, kept[keep], temperature)
    spread = covariance.diagonal().sqrt()
    # five standard errors
    assert ((drawn[:, free].mean(0) - mean).abs() < 5 * spread / num**0.5).all()
    difference = torch.cov(drawn[:, free].T).view_as(covariance) - covariance
    assert ((difference / spread / spread[:, None]).abs() < 5 * (2 / num) ** 0.5).all()


def test_kept_slots_stay_and_the_others_differ() -> None:
    model, guide = build_sri(num_slots=4)
    slots = torch.randn(1, 4, 8).expand(5, -1, -1)
    imagined = imagine_rest(model, slots, (1, 3), propose=guide.scene_dist, num_slots=6).slots
    assert imagined.shape == (5, 6, 8)
    for k in range(6):
        if k in (1, 3):
            assert torch.equal(imagined[:, k], slots[:, k])
        else:
            assert all_different(imagined[:, k])
    fewer = imagine_rest(model, slots, (1,), num_slots=2)
    assert torch.equal(fewer.slots[:, 1], slots[:, 1])
    assert fewer.slots.shape == (5, 2, 8)


def test_kept_slots_are_observed_in_the_trace() -> None:
    model, _ = build_sri()
    slots = torch.randn(2, 3, 8)
    with poutine.trace() as recorder:
        imagine_rest(model, slots, [0, 2], candidates=3)
    sites = recorder.trace.nodes
    assert [name for name in sites if re.fullmatch(r"scene|slot_\d", name)] == ["scene", "slot_0", "slot_1", "slot_2"]
    for k in (0, 2):
        assert sites[f"slot_{k}"]["is_observed"]
        assert torch.equal(sites[f"slot_{k}"]["value"], slots[:, k].repeat(3, 1))
    assert not sites["slot_1"]["is_observed"]
    assert "slot_rgb" not in sites  # candidates are not decoded


def test_candidates_count_alike_when_nothing_tells_them_apart() -> None:
    independent = PRESETS["genesis_v2-mog-shapestacks"].config.tiny().build()[0]
    slots = torch.randn(3, 3, 8)
    everything = torch.full((3,), 20.0)
    torch.testing.assert_close(imagine_rest(independent, slots, [], candidates=20).effective, everything)
    torch.testing.assert_close(imagine_rest(independent, slots, [0], candidates=20).effective, everything)
    later = imagine_rest(independent, slots, [2], candidates=20).effective
    assert ((later >= 1) & (later < 20)).all()


@pytest.mark.parametrize("preset", SYSTEMS)
def test_keeping_everything_is_the_reconstruction(preset: str) -> None:
    """Where a system draws a sequence of slots; the others are refused."""
    config = PRESETS[preset].config.tiny()
    model, guide, elbo = config.build()
    elbo(model, guide).eval()
    images = torch.rand(3, 3, config.image_size, config.image_size)
    if record_of(model).sequence is None:
        with pytest.raises(UserError, match="does not infer a sequence of slots") as error:
            infer_slots(guide, images)
        assert "\n" not in str(error.value)
        return
    pyro.set_rng_seed(1)
    explanation = explain(model, guide, images, elbo)
    pyro.set_rng_seed(1)
    slots = infer_slots(guide, images)
    kept = imagine_rest(model, slots, range(slots.shape[1]), candidates=2).slots
    assert torch.equal(kept, slots)
    scenes = decode(model, kept)
    torch.testing.assert_close(scenes.images, explanation.reconstruction)
    torch.testing.assert_close(scenes.slot_masks, explanation.slot_masks)


def test_which_systems_draw_a_sequence_of_slots() -> None:
    drawn = {PRESETS[preset].config.system: PRESETS[preset].config.tiny().build()[0] for preset in SYSTEMS}
    found = {system: record_of(model).sequence is not None for system, model in drawn.items()}
    expected = dict.fromkeys(("sri", "genesis_v2", "recurrent"), True)
    expected |= dict.fromkeys(("genesis", "emorl", "slot_attention", "air"), False)
    assert found | expected == found


def test_the_decoder_sees_a_set() -> None:
    model, _ = build_sri()
    slots = torch.randn(18, 3, 8)  # more than are decoded at once
    scenes, turned = decode(model, slots), decode(model, slots[:, [2, 0, 1]])
    torch.testing.assert_close(decode(model, slots[17:]).images, scenes.images[17:])
    torch.testing.assert_close(turned.images, scenes.images)
    torch.testing.assert_close(turned.slot_masks, scenes.slot_masks[:, [2, 0, 1]])


def test_removing_and_inserting() -> None:
    model, _ = build_sri()
    slots = torch.randn(2, 3, 8)
    without = remove(slots, [1])
    assert torch.equal(without, slots[:, [0, 2]])
    torch.testing.assert_close(decode(model, without).slot_masks.sum(1), torch.ones(2, 1, 32, 32))
    assert torch.equal(insert(without, slots[:, 1], 1), slots)
    assert torch.equal(insert(slots[:, :2], slots[:, 2], 2), slots)
    assert torch.equal(insert(slots, torch.ones(8), 0)[:, 0], torch.ones(2, 8))  # one value for all scenes
    assert torch.equal(remove(slots, []), slots)


def test_swapping() -> None:
    first, second = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    before = first.clone(), second.clone()
    swapped = swap(first, 0, second, 3)
    assert torch.equal(swapped[0][:, 0], second[:, 3])
    assert torch.equal(swapped[1][:, 3], first[:, 0])
    assert torch.equal(swapped[0][:, 1:], first[:, 1:])
    for again, original, now in zip(swap(swapped[0], 0, swapped[1], 3), before, (first, second), strict=True):
        assert torch.equal(again, original)
        assert torch.equal(now, original)  # nothing was changed in place


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda model, slots: imagine_rest(model, slots, [0, 3]), "no slot 3: the slots are 0 to 2"),
        (lambda model, slots: imagine_rest(model, slots, [-1]), "no slot -1: the slots are 0 to 2"),
        (lambda model, slots: imagine_rest(model, slots, [2], num_slots=2), "no slot 2: the slots are 0 to 1"),
        (lambda model, slots: remove(slots, [3]), "no slot 3: the slots are 0 to 2"),
        (lambda model, slots: remove(slots, [0, 1, 2]), "leave at least one"),
        (lambda model, slots: insert(slots, slots[:, 0], 4), "no slot 4: the slots are 0 to 3"),
        (lambda model, slots: swap(slots, 0, slots, -1), "no slot -1"),
        (lambda model, slots: swap(slots, 3, slots, 0), "no slot 3"),
    ],
)
def test_what_is_refused(edit: Any, says: str) -> None:
    model, _ = build_sri()
    with pytest.raises(ValueError, match=says) as error:
        edit(model, torch.randn(2, 3, 8))
    assert "\n" not in str(error.value)


def test_tensors_say_which_slots() -> None:
    model, _, _ = PRESETS["sri-quick"].config.tiny().build()
    slots = torch.randn(2, 3, 8)
    numbers, mask = torch.tensor([0, 2]), torch.tensor([True, False, True])
    for keep in (numbers, mask, {0, 2}):
        kept = imagine_rest(model, slots, keep, candidates=3).slots
        torch.testing.assert_close(kept[:, numbers], slots[:, numbers])
        assert remove(slots, keep).equal(slots[:, 1:2])
    with pytest.raises(ValueError, match="does not say which of 3 slots"):
        remove(slots, torch.tensor([True]))
    proposed = imagine_rest(model, slots, numbers, propose=lambda kept: model.scene_dist(len(kept)), candidates=3)
    still = imagine_rest(model, slots, [0], propose=lambda kept: model.scene_dist(2), candidates=3, temperature=0.0)
    assert proposed.slots.shape == still.slots.shape == slots.shape


def test_slots_learn_through_the_decoder() -> None:
    model, _, _ = PRESETS["sri-quick"].config.tiny().build()
    slots = torch.randn(2, 3, 8, requires_grad=True)
    decode(model, slots).images.sum().backward()
    assert slots.grad.any()
    assert not decode(model, slots.detach()).images.requires_grad
    with pytest.raises(ValueError, match="at least one scene"):
        decode(model, slots[:0])


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command and every block of Python in docs/editing.md, in order; they draw the page's own pictures."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "editing.md").read_text()
    namespace: dict[str, object] = {}
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(code, namespace)
        else:
            for line in code.splitlines():
                assert shlex.split(line)[0] == "pyro-sri"
                run(shlex.split(line)[1:])
    pictures = re.findall(r"\]\(images/(editing-.*?\.png)\)", page)
    assert len(pictures) >= 2
    for name in pictures:
        drawn, shown = (np.asarray(Image.open(path)) for path in (tmp_path / name, ROOT / "docs" / "images" / name))
        assert drawn.shape == shown.shape, name
