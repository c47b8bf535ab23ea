import itertools

import pytest
import torch

from pyro_sri.objectives import EMORL_ELBO, SRI_ELBO, EmorlGECO, GenesisGECO
from support.golden import Golden, assert_relative

IMAGE_SIZE = 64  # step sizes are quoted for it, so that the recorded ones are the controllers' own


@pytest.mark.parametrize("trace", ["speedup10", "nospeedup", "lowclamp", "highclamp"])
def test_genesis_trace(trace: str) -> None:
    golden = Golden("geco_genesis")
    setting = {
        name: golden.config(f"{trace}_{name}") for name in ("step_size", "alpha", "beta_init", "beta_min", "beta_max")
    }
    speedup = golden.config(f"{trace}_speedup")
    geco = GenesisGECO(
        target=golden.config("goal") / (3 * IMAGE_SIZE**2),
        image_size=IMAGE_SIZE,
        speedup=None if speedup < 0 else speedup,
        **setting,
    ).double()
    results: dict[str, list[torch.Tensor]] = {name: [] for name in ("beta_used", "loss", "err_ema", "beta_after")}
    for err, kl in zip(golden["in/err"], golden["in/kl"], strict=True):
        results["beta_used"].append(geco.beta.clone())
        results["loss"].append(geco(err, kl))
        geco.update(err)
        results["err_ema"].append(geco.error_ema.clone())
        results["beta_after"].append(geco.beta.clone())
    for name, values in results.items():
        recorded = golden[f"out/{trace}/{name}"]
        assert torch.allclose(torch.stack(values), recorded, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("trace", ["accel10", "accel1"])
def test_emorl_trace(trace: str) -> None:
    golden = Golden("geco_emorl")
    setting = {name: golden.config(f"{trace}_{name}") for name in ("step_size", "alpha", "acceleration")}
    geco = EmorlGECO(target=golden.config("target") / (3 * IMAGE_SIZE**2), image_size=IMAGE_SIZE, **setting).double()
    geco.beta.copy_(torch.tensor(0.55, dtype=torch.float64))
    results: dict[str, list[torch.Tensor]] = {
        name.removeprefix(f"out/{trace}/"): [] for name in golden.starting(f"out/{trace}/")
    }
    for nll, kl in zip(golden["in/nll"], golden["in/kl"], strict=True):
        nll.requires_grad_(True)
        results["C_ema_used"].append(geco.slack_ema.clone())
        results["beta_used"].append(geco.beta.clone())
        results["lagrange_used"].append(geco.weight)
        loss = geco(nll, kl)
        results["loss"].append(loss.detach())
        results["constraint"].append((kl - loss).detach())
        results["dconstraint_dnll"].append(-torch.autograd.grad(loss, nll)[0])
        geco.update(nll)
        results["C_ema_after"].append(geco.slack_ema.clone())
        results["beta_after"].append(geco.beta.clone())
    for name, values in results.items():
        assert_relative(torch.stack(values), golden[f"out/{trace}/{name}"])


def test_step_and_goal_scale_with_the_image() -> None:
    geco = GenesisGECO(target=0.5, image_size=32, step_size=1e-6)
    assert geco.goal == 0.5 * 3 * 32 * 32
    assert geco.step_size == pytest.approx(4e-6)


@pytest.mark.parametrize("geco", [GenesisGECO, EmorlGECO])
def test_state_is_in_buffers_and_updates_leave_no_graph(geco: type[GenesisGECO] | type[EmorlGECO]) -> None:
    controller = geco(target=0.0, image_size=32, step_size=1e-3)
    nll = torch.tensor(10.0, requires_grad=True)
    for _ in range(3):
        controller.update(nll * 2)
    saved = controller.state_dict()
    assert len(saved) == 3
    assert not any(buffer.requires_grad for buffer in controller.buffers())
    again = geco(target=0.0, image_size=32, step_size=1e-3)
    again.load_state_dict(saved)
    for ours, theirs in itertools.zip_longest(again.buffers(), controller.buffers()):
        assert torch.equal(ours, theirs)


def test_beta_can_be_capped_at_that_of_the_elbo() -> None:
    geco = GenesisGECO(target=1.0, image_size=32, step_size=1.0, beta_init=0.5, beta_max=1.0)
    geco.update(torch.tensor(0.0))
    assert geco.beta == 1.0


@pytest.mark.parametrize("geco", [GenesisGECO, EmorlGECO])
def test_a_step_that_is_not_scaled_with_the_image(geco: type[GenesisGECO] | type[EmorlGECO]) -> None:
    controller = geco(target=0.5, image_size=32, step_size=1e-6, scaled=False)
    assert controller.step_size == 1e-6
    assert controller.goal == 0.5 * 3 * 32 * 32


def test_the_weight_is_what_the_terms_weigh() -> None:
    nll, kl = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    genesis = GenesisGECO(target=0.0, image_size=32, beta_init=0.25)
    emorl = EmorlGECO(target=0.0, image_size=32)
    (of_kl,) = torch.autograd.grad(genesis(nll, kl), kl)
    (of_nll,) = torch.autograd.grad(emorl(nll, kl), nll)
    assert genesis.weight == of_kl == 0.25
    assert emorl.weight == of_nll
    assert emorl.weight.item() == pytest.approx(1.0055, abs=1e-4)


def test_the_plain_elbo_before_a_controller_begins() -> None:
    """After the warm start the moving average begins at goal - NLL."""
    geco = EmorlGECO(target=0.0, image_size=32, step_size=1e-3, warm_start=2)
    elbo = EMORL_ELBO(geco=geco, curriculum=[(0, 0)])
    terms = {"nll": torch.full((4,), 7.0), "kl_slots": torch.full((4,), 2.0)}
    losses, phases = [], []
    for step in range(4):
        elbo.step = step
        phases.append(elbo.phase)
        losses.append(elbo.objective(terms).item())
        elbo.advance()
        assert geco.started == (step >= 2)
        assert geco.slack_ema.item() == pytest.approx(-7.0 if step >= 2 else 0.0)
    assert losses[0] == losses[1] == pytest.approx(3 * (7 + 2))  # w_0 = 3 without refinement
    assert phases[0] == phases[1] != phases[2] == phases[3]
    elbo.eval().step = 0
    assert elbo.objective(terms).item() != losses[0]  # evaluation does not warm up


def test_sri_and_genesis_warm_up_too() -> None:
    for elbo, nll in ((SRI_ELBO(geco=slow()), "nll"), (SRI_ELBO(segregation_geco=slow()), "segregation_nll")):
        terms = dict.fromkeys(("segregation_nll", "segregation_kl", "nll", "kl_scene"), torch.ones(2))
        geco = next(iter(elbo.controllers().values()))
        assert elbo.objective(terms).item() == 4.0, nll
        elbo.advance()
        assert not geco.started
        elbo.step = 5
        assert elbo.objective(terms).item() == 3.5
        elbo.advance()
        assert geco.started


def slow() -> GenesisGECO:
    return GenesisGECO(target=0.0, image_size=32, beta_init=0.5, warm_start=5)
