"""EMORL_ELBO beside Pyro's own ELBOs, SVI and ELBOModule; refinement with and without gradients."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.objectives import EMORL_ELBO, SRI_ELBO, EmorlGECO, GenesisGECO

PRIORS = ("rpp", "rev", "bu")


def build(**fields: Any) -> tuple[EMORLModel, EMORLGuide]:
    shape = {"image_size": 16, "num_slots": 3, "slot_size": 6, "num_layers": 2, "decoder": "small"}
    own = {name: fields.pop(name) for name in ("dual_gru", "refinement_steps") if name in fields}
    model = EMORLModel(**shape | fields)
    return model, EMORLGuide(model, **{"refinement_steps": 2} | own)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16)


class PriorsSeeWhatIsPassedOn(Messenger):
    """Makes the fresh draws equal to those that the guide passes on, as stock ELBOs have them."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_on: dict[str, torch.Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.passed_on[msg["name"]] = msg["value"]

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"].startswith("prior_draw_"):
            layer = msg["name"].removeprefix("prior_draw_")
            msg["value"], msg["done"] = self.passed_on[f"layer_{layer}_slots"], True


@pytest.mark.parametrize(("prior", "temperature"), [("rpp", 1.0), ("rev", 1.0), ("bu", 1.0), ("rpp", 0.5), ("bu", 2.0)])
def test_mean_field_elbo_without_refinement(prior: str, temperature: float, images: torch.Tensor) -> None:
    """Exactly, under the same draws; it warns of reversed priors, whose sites come in the other order."""
    pair = build(prior=prior)
    pyro.set_rng_seed(3)
    with contextlib.nullcontext() if prior == "bu" else pytest.warns(UserWarning, match="mean field"):
        stock = TraceMeanField_ELBO().loss(*pair, images, temperature=temperature)
    pyro.set_rng_seed(3)
    with PriorsSeeWhatIsPassedOn():
        terms = EMORL_ELBO().terms(*pair, images, refinement_steps=0, temperature=temperature)
    assert stock == pytest.approx((terms["nll"] + terms["kl_slots"]).sum().item(), rel=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
def test_trace_elbo_trains(prior: str, images: torch.Tensor) -> None:
    model, guide = build(prior=prior)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    assert torch.isfinite(torch.tensor(svi.step(images)))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_terms(steps: int, images: torch.Tensor) -> None:
    terms = EMORL_ELBO().terms(*build(), images, refinement_steps=steps)
    iterations = [f"{name}_{i}" for i in range(steps) for name in ("nll", "kl")]
    assert list(terms) == ["nll", "kl_slots", "kl_above", *iterations]
    assert all(term.shape == (2,) for term in terms.values())
    assert all((terms[name] > 0).all() for name in terms if name.startswith("kl") and name != "kl_above")


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("steps", [0, 1])
def test_what_the_bound_pays_beyond_the_objective(prior: str, steps: int, images: torch.Tensor) -> None:
    elbo = EMORL_ELBO()
    traces = elbo.trace(*build(prior=prior), images, refinement_steps=steps)
    expected = traces.layer_kls[0] if prior == "rpp" and steps else torch.zeros(2)
    assert torch.equal(elbo.read(traces)["kl_above"], expected)


def test_traces_describe_the_last_iteration(images: torch.Tensor) -> None:
    for prior in PRIORS:
        model, guide = build(prior=prior)
        traces = EMORL_ELBO().trace(model, guide, images)
        drawn = traces.guide.nodes["refined_slots_2"]
        stands_for = traces.guide.nodes[f"layer_{model.prior.refined_layer}_slots"]
        assert stands_for["fn"] is drawn["fn"]
        assert stands_for["mask"] is None
        assert not stands_for["infer"]
        assert drawn["infer"]["is_auxiliary"]
        torch.testing.assert_close(traces.model.nodes["slot_rgb"]["value"], model.decoder(drawn["value"]).rgb)
        first = traces.iterations[0].model.nodes["slot_rgb"]["value"]
        assert not torch.equal(first, traces.model.nodes["slot_rgb"]["value"])
        traces.guide.compute_log_prob()


def test_steps_are_those_of_the_guide_unless_asked_for(images: torch.Tensor) -> None:
    model, guide = build(refinement_steps=1)
    assert "refined_slots_1" in EMORL_ELBO().trace(model, guide, images).guide
    guide.refinement_steps = 0
    assert "refined_slots_1" not in EMORL_ELBO().trace(model, guide, images).guide
    assert "refined_slots_2" in EMORL_ELBO().trace(model, guide, images, refinement_steps=2).guide


@pytest.mark.parametrize("steps", [0, 2])
def test_without_gradients(steps: int, images: torch.Tensor) -> None:
    """The same numbers, and nothing that drags a graph along."""
    elbo, (model, guide) = EMORL_ELBO(), build()
    pyro.set_rng_seed(1)
    expected = elbo.terms(model, guide, images, refinement_steps=steps)
    pyro.set_rng_seed(1)
    with torch.no_grad():
        traces = elbo.trace(model, guide, images, refinement_steps=steps)
        terms = elbo.read(traces)
    for name, term in terms.items():
        assert not term.requires_grad
        torch.testing.assert_close(term, expected[name].detach())
    for trace in (traces.guide, traces.model):
        values = [site["value"] for site in trace.nodes.values() if site["type"] == "sample"]
        assert not any(v.requires_grad for v in values)
    assert all(p.grad is None for p in (*model.parameters(), *guide.parameters()))


@pytest.fixture
def _frozen_without_a_word() -> Iterator[None]:
    """Pyro warns of frozen networks that it would store."""
    with pyro.settings.context(module_local_params=True):
        yield


@pytest.mark.usefixtures("_frozen_without_a_word")
@pytest.mark.parametrize("frozen", ["model", "guide", "both", "some means"])
@pytest.mark.parametrize("learning", [True, False])
def test_frozen_weights_change_no_number(frozen: str, learning: bool, images: torch.Tensor) -> None:
    """Refinement takes gradients with respect to posteriors, not to weights."""
    model, guide = build()
    parts = {"model": [model], "guide": [guide], "both": [model, guide], "some means": [guide.loc_mlp]}
    results = []
    for freeze in (False, True):
        for module in parts[frozen]:
            module.requires_grad_(not freeze)
        pyro.set_rng_seed(1)
        with torch.set_grad_enabled(learning):
            results.append(EMORL_ELBO().terms(model, guide, images))
    for name, term in results[0].items():
        assert torch.equal(results[1][name], term), name


@pytest.mark.usefixtures("_frozen_without_a_word")
def test_frozen_weights_train_the_rest_as_before(images: torch.Tensor) -> None:
    """The decoder's gradients do not depend on whether the guide is frozen."""
    model, guide = build()
    gradients = []
    for learns in (True, False):
        guide.requires_grad_(learns)
        pyro.set_rng_seed(1)
        loss = EMORL_ELBO().differentiable_loss(model, guide, images)
        gradients.append(torch.autograd.grad(loss, list(model.decoder.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_weight_of_the_kls_is_told() -> None:
    def weight(geco: EmorlGECO | GenesisGECO | None) -> float:
        return EMORL_ELBO(geco=geco, kl_weight=0.5).weights()["beta"]

    assert weight(None) == 0.5
    assert weight(GenesisGECO(target=0.0, image_size=16, beta_init=0.1)) == pytest.approx(0.05)
    assert weight(EmorlGECO(target=0.0, image_size=16)) == pytest.approx(2 * 1.0055, abs=1e-3)  # of the NLL
    assert SRI_ELBO(segregation=EMORL_ELBO(kl_weight=0.5)).weights() == {"beta": 1.0, "beta_segregation": 0.5}


def test_inference_mode(images: torch.Tensor) -> None:
    with torch.inference_mode():
        assert not EMORL_ELBO().terms(*build(), images, refinement_steps=0)["nll"].requires_grad
        with pytest.raises(ValueError, match=r"use torch\.no_grad"):
            EMORL_ELBO().terms(*build(), images)


def test_refinement_leaves_no_gradients_behind(images: torch.Tensor) -> None:
    model, guide = build()
    EMORL_ELBO().terms(model, guide, images)
    assert all(p.grad is None for p in (*model.parameters(), *guide.parameters()))


def test_refinement_lowers_the_loss_once_trained(images: torch.Tensor) -> None:
    """Refinement alone is trained: what it starts from stays as bad as it was."""
    torch.manual_seed(0)
    model, guide = build(refinement_steps=1)
    with pyro.settings.context(module_local_params=True):
        module = EMORL_ELBO()(model, guide)
        optimizer = torch.optim.Adam(guide.refinement.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            module(images).backward()
            optimizer.step()
    with torch.no_grad():
        draws = [EMORL_ELBO().terms(model, guide, images) for _ in range(16)]
    gains = torch.stack([terms["nll_0"] + terms["kl_0"] - terms["nll"] - terms["kl_slots"] for terms in draws])
    assert gains.mean() > 3 * gains.std() / gains.numel() ** 0.5


def test_svi_and_elbo_module_agree(images: torch.Tensor) -> None:
    """The same loss and, after a step, the same parameters; every one of them has moved."""
    results = []
    for use_svi in (True, False):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = build()
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        pyro.set_rng_seed(7)
        if use_svi:
            loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), EMORL_ELBO()).step(images)
        else:
            with pyro.settings.context(module_local_params=True):
                module = EMORL_ELBO()(model, guide)
                optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
                tensor = module(images)
                tensor.backward()
                optimizer.step()
                loss = tensor.item()
                assert not list(pyro.get_param_store().keys())
        after = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        assert not any(torch.equal(b, a) for b, a in zip(before, after, strict=True))
        results.append((loss, after))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("dual_gru", [True, False])
def test_every_parameter_learns(prior: str, dual_gru: bool, images: torch.Tensor) -> None:
    """Finite gradients for all, non-zero for all but those that are zero in exact arithmetic."""
    module = EMORL_ELBO()(*build(prior=prior, dual_gru=dual_gru)).double()
    module(images.double()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    zero = {name for name, p in module.named_parameters() if p.grad.abs().max() < 1e-10}
    assert zero == {"guide.attention.norm.bias"}  # the softmax over slots does not see a shift of every query


def test_each_tensor_is_saved_once(images: torch.Tensor) -> None:
    module = EMORL_ELBO(geco=EmorlGECO(target=0.0, image_size=16))(*build())
    module(images).backward()
    state = module.state_dict()
    geco = {f"elbo.geco.{name}" for name in ("beta", "slack_ema", "started")}
    assert set(state) == {name for name, _ in module.named_parameters()} | geco
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    copied = copy.deepcopy(module)
    copied.load_state_dict(state)
    assert torch.equal(copied.elbo.geco.slack_ema, module.elbo.geco.slack_ema)


def test_geco(images: torch.Tensor) -> None:
    elbo = EMORL_ELBO(geco=EmorlGECO(target=-3.0, image_size=16, step_size=1e-3), kl_weight=0.5)
    model, guide = build()
    module = elbo(model, guide)

    def state() -> list[float]:
        return [buffer.item() for buffer in elbo.buffers()]

    start = state()
    with torch.no_grad():
        module(images)
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), elbo).evaluate_loss(images)
    module.eval()
    module(images)
    assert state() == start
    module.train()
    pyro.set_rng_seed(5)
    module(images).backward()
    assert state() == start
    elbo.advance()
    pyro.set_rng_seed(5)
    nll = EMORL_ELBO(geco=EmorlGECO(target=0.0, image_size=16), kl_weight=0.5).terms(model, guide, images)["nll"]
    assert elbo.geco.slack_ema.item() == pytest.approx(-3.0 * 3 * 256 - nll.mean().item(), rel=1e-5)
    terms = elbo.eval().terms(model, guide, images)
    mean = {name: term.mean() for name, term in terms.items()}
    constraint = elbo.geco.weight * elbo.geco.slack_ema
    kl = 5 / 3 * mean["kl_0"] + 4 / 3 * mean["kl_1"] + mean["kl_slots"]
    torch.testing.assert_close(elbo.objective(terms), 0.5 * kl - 4 * constraint)


def test_further_latents_count(images: torch.Tensor) -> None:
    class Styled(EMORLModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            pyro.sample("style", Normal(0.0, 1.0))
            return super().forward(*args, **kwargs)

    class StyledGuide(EMORLGuide):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            pyro.sample("style", Normal(3.0, 1.0))
            return super().forward(*args, **kwargs)

    shape = {"image_size": 16, "num_slots": 3, "slot_size": 6, "num_layers": 2, "decoder": "small"}
    model = Styled(**shape)
    traces = EMORL_ELBO().trace(model, StyledGuide(model), images, refinement_steps=1)
    style = traces.guide.nodes["style"]["value"]
    kl = Normal(3.0, 1.0).log_prob(style) - Normal(0.0, 1.0).log_prob(style)
    terms = EMORL_ELBO().read(traces)
    for name in ("other", "other_0"):
        torch.testing.assert_close(terms[name], (kl / 2).expand(2))


def test_an_enclosing_recorder_sees_every_refinement(images: torch.Tensor) -> None:
    pair = build()
    pyro.set_rng_seed(4)
    plain = EMORL_ELBO().terms(*pair, images)
    pyro.set_rng_seed(4)
    with poutine.trace() as recorder:
        handled = EMORL_ELBO().terms(*pair, images)
    assert all(torch.equal(plain[name], handled[name]) for name in plain)
    recorded = [name for name in recorder.trace.nodes if name.startswith("refined_slots_")]
    assert recorded == ["refined_slots_1", "refined_slots_2"]


def test_terms_of_latents_fixed_by_an_enclosing_handler(images: torch.Tensor) -> None:
    pair = build()
    trace = poutine.trace(pair[1]).get_trace(images)
    draws = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample" and n != "scenes"}
    with torch.no_grad(), poutine.condition(data=draws):
        one, other = (EMORL_ELBO().terms(*pair, images, refinement_steps=0) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_wrapped_guide_is_refused(images: torch.Tensor) -> None:
    model, guide = build()
    for pair in ((model, poutine.condition(guide, data={})), (poutine.block(model), guide)):
        with pytest.raises(ValueError, match="hides its networks"):
            EMORL_ELBO().terms(*pair, images)


def test_another_number_of_slots(images: torch.Tensor) -> None:
    traces = EMORL_ELBO().trace(*build(), images, num_slots=5)
    assert traces.model.nodes["slot_masks"]["value"].shape == (2, 5, 1, 16, 16)


def test_no_host_synchronisation_on_the_training_path(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    module = EMORL_ELBO(geco=EmorlGECO(target=0.5, image_size=16))(*build())
    with pyro.validation_enabled(False):
        module(images)
        for method in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, method, _refuse)
        module(images).backward()
        monkeypatch.undo()


def _refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("this waits for the device")
