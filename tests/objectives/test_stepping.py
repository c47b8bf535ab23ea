"""Controllers and schedules move once per optimiser step, however many forward passes it takes."""

import copy
import dataclasses
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.objectives import EMORL_ELBO, SRI_ELBO, EmorlGECO, GenesisGECO, PresenceAnnealing, SlotELBO, TermsELBO
from pyro_sri.presets import PRESETS
from support.programs import build_pair, build_sri
from support.systems import uncovered

SYSTEMS = uncovered(())


def new_module() -> ELBOModule:
    return SlotELBO(geco=GenesisGECO(target=0.5, image_size=32))(*build_pair("recurrent"))


def train(module: ELBOModule, optimizer: Any, images: Tensor, parts: int, steps: int = 3) -> Tensor:
    """The weight of the KL after some steps of as many micro-batches."""
    with pyro.settings.context(module_local_params=True):
        for _ in range(steps):
            optimizer.zero_grad()
            for part in images.chunk(parts):
                (module(part) / parts).backward()
            optimizer.step()
    return module.elbo.geco.beta


def test_micro_batches_are_one_step(images: Tensor) -> None:
    whole = new_module()
    parts = copy.deepcopy(whole)
    pyro.set_rng_seed(1)
    one = train(whole, torch.optim.SGD(whole.parameters(), lr=0.0), images, 1)
    other = train(parts, torch.optim.SGD(parts.parameters(), lr=0.0), images, 4)
    assert one != 1
    assert whole.elbo.step == parts.elbo.step == 3
    torch.testing.assert_close(1 - one, 1 - other, rtol=0.02, atol=0)


def test_the_mean_of_the_passes_counts() -> None:
    seen, geco = torch.tensor([100.0, 300.0]), GenesisGECO(target=0.5, image_size=32)
    for nll in seen:
        geco.notice(nll)
    assert geco.error_ema == 0
    geco.settle()
    assert geco.error_ema == 200
    geco.settle()  # nothing was noticed since
    assert geco.error_ema == 200


def test_a_line_search_is_one_step(images: Tensor) -> None:
    module = new_module()
    optimizer = torch.optim.LBFGS(module.parameters(), lr=1e-6, max_iter=4)
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(images)
        loss.backward()
        calls.append(loss)
        return loss

    with pyro.settings.context(module_local_params=True):
        optimizer.step(closure)
    assert len(calls) > 1
    assert module.elbo.step == 1
    once = GenesisGECO(target=0.5, image_size=32)
    once.update(module.elbo.geco.error_ema)
    torch.testing.assert_close(module.elbo.geco.beta, once.beta)


def test_another_optimizer_moves_nothing(images: Tensor) -> None:
    module, other = new_module(), new_module()
    module(images).backward()
    torch.optim.SGD(other.parameters(), lr=0.0).step()
    assert module.elbo.geco.beta == 1
    assert module.elbo.step == 0
    torch.optim.SGD(list(module.parameters())[:1], lr=0.0).step()  # a part of its parameters will do
    assert module.elbo.geco.beta != 1


def test_optimizers_of_another_kind_say_so(images: Tensor) -> None:
    module = new_module()
    module(images).backward()
    for _ in range(2):  # the second has nothing to do
        module.elbo.advance()
        assert module.elbo.geco.beta != 1
        assert module.elbo.step == 1


@pytest.mark.parametrize("name", SYSTEMS)
def test_svi_moves_controllers_and_schedules_once_a_step(name: str) -> None:
    config = PRESETS[name].config.tiny()
    if config.system == "air":
        config = dataclasses.replace(config, annealing_steps=10)
    model, guide, elbo = config.build()
    start = [buffer.clone() for buffer in elbo.buffers()]
    moves: list[Any] = []
    for part in elbo.modules():
        if isinstance(part, GenesisGECO | PresenceAnnealing) or hasattr(part, "update"):
            part.update = lambda value, _run=part.update: (moves.append(value), _run(value))
    images = torch.rand(2, 3, config.image_size, config.image_size)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), elbo)
    svi.evaluate_loss(images)
    assert not moves
    assert elbo.step == 0
    svi.step(images)
    assert elbo.step == 1
    count = len(moves)
    assert count <= 2
    assert (count > 0) == any(not torch.equal(a, b) for a, b in zip(start, elbo.buffers(), strict=True))
    svi.step(images)
    assert len(moves) == 2 * count
    assert elbo.step == 2


def test_schedules_follow_svi(images: Tensor) -> None:
    """One step of each stage; what only looks at the loss or the terms, in training mode too, does not count."""
    model, guide = build_sri()
    elbo = SRI_ELBO(segregation_steps=1, prior_from=2)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), elbo)
    for step, stage in enumerate(("segregation", "all", "prior")):
        assert (elbo.step, elbo.stage) == (step, stage)
        svi.step(images)
        svi.evaluate_loss(images)
        elbo.terms(model, guide, images)
        with torch.no_grad():
            elbo.differentiable_loss(model, guide, images)


def test_who_sets_the_step_has_the_last_word(images: Tensor) -> None:
    module = SlotELBO(geco=GenesisGECO(target=0.5, image_size=32, warm_start=5))(*build_pair("recurrent"))
    for step in (3, 4, 5):
        module.elbo.step = step
        train(module, torch.optim.SGD(module.parameters(), lr=0.0), images, 1, steps=1)
        assert module.elbo.geco.started == (step == 5)
        assert module.elbo.step == step + 1


MASK = torch.tensor([True, False, True, False])


@pytest.mark.parametrize(
    ("handler", "part"),
    [
        (poutine.scale(scale=0.01), slice(None)),
        (poutine.scale(scale=torch.tensor([0.5, 1.0, 2.0, 3.0])), slice(None)),
        (poutine.mask(mask=MASK), MASK),
    ],
)
@pytest.mark.parametrize("system", ["sri", "recurrent", "emorl"])
def test_controllers_see_whole_images(system: str, handler: Any, part: Any, images: Tensor) -> None:
    """Without scale and mask, with which every goal would seem to be met."""
    model, guide, elbo = controlled(system)
    pyro.set_rng_seed(1)
    plain = elbo.terms(model, guide, images)
    pyro.set_rng_seed(1)
    with handler:
        elbo.differentiable_loss(model, guide, images)
    elbo.advance()
    for name, geco in elbo.controllers().items():
        nll = plain["segregation_nll" if name == "beta_segregation" else "nll"][part].mean()
        seen = geco.goal - geco.slack_ema if isinstance(geco, EmorlGECO) else geco.error_ema
        torch.testing.assert_close(seen, nll, rtol=1e-4, atol=1e-2)


def controlled(system: str) -> tuple[Any, Any, TermsELBO]:
    """A pair, and an objective with a controller for each half."""
    geco = GenesisGECO(target=0.5, image_size=32)
    if system == "sri":
        return *build_sri(), SRI_ELBO(geco=geco, segregation_geco=EmorlGECO(target=0.5, image_size=32))
    if system == "recurrent":
        return *build_pair(system), SlotELBO(geco=geco)
    model = EMORLModel(image_size=32, num_slots=3, slot_size=8, decoder="small")
    return model, EMORLGuide(model, refinement_steps=0), EMORL_ELBO(geco=EmorlGECO(target=0.5, image_size=32))


def test_controllers_that_see_nothing_stay(images: Tensor) -> None:
    """Also half of a step may see nothing."""
    model, guide, elbo = controlled("sri")
    start = [buffer.clone() for buffer in elbo.buffers()]
    for mask in (False, torch.zeros(4, dtype=torch.bool)):
        with poutine.mask(mask=mask):
            elbo.differentiable_loss(model, guide, images)
        elbo.advance()
        assert all(map(torch.equal, start, elbo.buffers()))
    with poutine.mask(mask=False):
        elbo.differentiable_loss(model, guide, images)
    pyro.set_rng_seed(2)
    elbo.differentiable_loss(model, guide, images)
    elbo.advance()
    pyro.set_rng_seed(2)
    torch.testing.assert_close(elbo.geco.error_ema, elbo.terms(model, guide, images)["nll"].mean())
