"""SlotELBO beside Pyro's own ELBOs, SVI and ELBOModule, for every pair of model and guide that it trains."""

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule

from pyro_sri.objectives import SRI_ELBO, GenesisGECO, SlotELBO
from pyro_sri.objectives.mask_kl import MaskKL, read_mask_kl
from pyro_sri.programs import Latents, Program, Record
from support.programs import build_pair

TERMS = {
    "genesis_v2": ("nll", "kl_slots"),
    "genesis": ("nll", "kl_masks", "kl_components"),
    "recurrent": ("nll", "kl_scene", "kl_slots"),
}
systems = pytest.mark.parametrize("system", TERMS)


def total(terms: dict[str, torch.Tensor]) -> float:
    return sum(term.sum().item() for term in terms.values())


@systems
def test_terms(system: str, images: torch.Tensor) -> None:
    pair = build_pair(system)
    elbo = SlotELBO(analytic=True)
    terms = elbo.terms(*pair, images)
    assert tuple(terms) == TERMS[system]
    assert all(term.shape == (4,) for term in terms.values())
    assert all((term > 0).all() for name, term in terms.items() if name != "nll")
    torch.testing.assert_close(elbo.negative_elbo(terms), sum(terms.values()))


@systems
@pytest.mark.parametrize(("stock", "analytic"), [(Trace_ELBO, False), (TraceMeanField_ELBO, True)])
def test_stock_elbos_agree(system: str, stock: Any, analytic: bool, images: torch.Tensor) -> None:
    """Exactly, under the same draws, without a warning (which would be an error here)."""
    pair = build_pair(system)
    pyro.set_rng_seed(3)
    expected = stock().loss(*pair, images)
    pyro.set_rng_seed(3)
    assert total(SlotELBO(analytic=analytic).terms(*pair, images)) == pytest.approx(expected, rel=1e-5)


def test_the_recurrent_guide_works_with_the_objective_of_sri(images: torch.Tensor) -> None:
    pair = build_pair("recurrent")
    pyro.set_rng_seed(3)
    ours = SlotELBO(analytic=True).terms(*pair, images)
    pyro.set_rng_seed(3)
    terms = SRI_ELBO().terms(*pair, images)
    assert all(torch.equal(ours[name], terms[name]) for name in ours)
    assert all(not terms[name].any() for name in terms.keys() - ours.keys())
    SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), SRI_ELBO()).step(images)


@systems
def test_svi_and_elbo_module_agree(system: str, images: torch.Tensor) -> None:
    """The same loss and, after a step, the same parameters and statistics."""
    results = []
    for use_svi in (True, False):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = build_pair(system)
        before = copy.deepcopy(SlotELBO()(model, guide).state_dict())
        pyro.set_rng_seed(7)
        if use_svi:
            loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), SlotELBO()).step(images)
        else:
            with pyro.settings.context(module_local_params=True):
                module = SlotELBO()(model, guide)
                optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
                tensor = module(images)
                tensor.backward()
                optimizer.step()
                loss = tensor.item()
                assert not list(pyro.get_param_store().keys())
        state = SlotELBO()(model, guide).state_dict()
        changed = [name for name in state if not torch.equal(state[name], before[name])]
        assert len(changed) > 0.95 * len(state)
        results.append((loss, state))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, ours in results[0][1].items():
        torch.testing.assert_close(ours, results[1][1][name], rtol=1e-5, atol=1e-6)


@systems
def test_every_parameter_learns(system: str, images: torch.Tensor) -> None:
    """Finite gradients for all, non-zero for all but those that are zero in exact arithmetic."""
    module = SlotELBO()(*(part.double() for part in build_pair(system)))
    module(images.double()).backward()
    size = {name: p.grad.abs().max().item() for name, p in module.named_parameters()}
    zero = {name for name, largest in size.items() if not largest > 1e-9}  # NaN fails below
    if system == "genesis":  # biases in front of batch normalisation
        normalised = [f"guide.mask_encoder.{i}" for i in range(5)]
        normalised += [f"model.mask_decoder.layers.{i}" for i in range(1, 6)]
        assert zero == {f"{layer}.conv.bias" for layer in normalised}
    else:  # distances do not change when every colour is shifted
        assert zero <= {"guide.stick_breaking.colour_head.conv.bias"}
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@systems
def test_each_tensor_is_saved_once_and_comes_back(system: str, images: torch.Tensor) -> None:
    module = SlotELBO()(*build_pair(system))
    module(images).backward()
    state = module.state_dict(keep_vars=True)
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    other = SlotELBO()(*build_pair(system))
    other.load_state_dict(module.state_dict())
    losses = []
    for one in (module.eval(), other.eval()):
        pyro.set_rng_seed(2)
        losses.append(one(images).item())
    assert losses[0] == losses[1]


@systems
def test_enclosing_recorders_and_draws_change_nothing(system: str, images: torch.Tensor) -> None:
    pair = [part.eval() for part in build_pair(system)]
    pyro.set_rng_seed(4)
    plain = SlotELBO().terms(*pair, images)
    pyro.set_rng_seed(4)
    with poutine.trace() as recorder:
        handled = SlotELBO().terms(*pair, images)
    draws = {n: s["value"] for n, s in recorder.trace.nodes.items() if s["type"] == "sample" and n != "scenes"}
    with poutine.condition(data=draws):
        again = SlotELBO().terms(*pair, images)
    for name, term in plain.items():
        assert torch.equal(term, handled[name])
        torch.testing.assert_close(term, again[name])


@pytest.mark.parametrize("objective", [SlotELBO, Trace_ELBO])
def test_masks_are_decoded_once(objective: Any, images: torch.Tensor) -> None:
    """By the guide; the model takes them over, and batch normalisation counts one pass."""
    model, guide = build_pair("genesis")
    calls: list[Any] = []
    model.mask_decoder.register_forward_hook(lambda *call: calls.append(call))
    objective()(model, guide)(images).backward()
    assert len(calls) == 1
    assert model.mask_decoder.layers[1].h_norm.num_batches_tracked == 1
    assert model.mask_decoder.logit.weight.grad.abs().max() > 0
    model.eval()
    model(num_scenes=1)
    assert len(calls) == 2


def test_mask_kl(images: torch.Tensor) -> None:
    model, guide = build_pair("genesis_v2")
    grads = {}
    for mask_kl in ("attached", "detached", "decoder"):
        elbo = SlotELBO(mask_kl=mask_kl)
        pyro.set_rng_seed(1)
        terms = elbo.terms(model, guide, images)
        assert (terms["mask_kl"] > 0).all()
        torch.testing.assert_close(elbo.negative_elbo(terms), terms["nll"] + terms["kl_slots"])
        mean = {name: term.mean() for name, term in terms.items()}
        torch.testing.assert_close(elbo.objective(terms), mean["nll"] + mean["kl_slots"] + mean["mask_kl"])
        tensors = (model.decoder.layers[-1].weight, guide.stick_breaking.log_sigma)
        grads[mask_kl] = torch.autograd.grad(mean["mask_kl"], tensors, allow_unused=True)
    assert grads["detached"][0] is None
    assert grads["attached"][0].abs().max() > 0
    assert grads["detached"][1].abs() > 0
    assert grads["decoder"][0].abs().max() > 0


@pytest.mark.parametrize(("mask_kl", "reached"), [("attached", True), ("detached", True), ("decoder", False)])
def test_where_the_mask_kl_sends_its_gradient(images: torch.Tensor, mask_kl: MaskKL, reached: bool) -> None:
    """To the attention masks themselves; what the decoder sees of them through the slots is another matter."""
    traces = SlotELBO().trace(*build_pair("genesis_v2"), images)
    site = traces.guide.nodes["attention_masks"]
    site["value"] = site["value"].detach().requires_grad_()
    divergence = read_mask_kl(mask_kl, traces.guide, traces.model).sum()
    (gradient,) = torch.autograd.grad(divergence, [site["value"]], allow_unused=True)
    assert (gradient is not None) == reached


def test_mask_kl_needs_attention_masks(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="attention_masks"):
        SlotELBO(mask_kl="detached").terms(*build_pair("genesis"), images)
    with pytest.raises(ValueError, match="none, attached, detached, decoder"):
        SlotELBO(mask_kl="foo")


def test_latents_that_no_record_names_have_a_term_of_their_own() -> None:
    def model(images: torch.Tensor) -> None:
        with pyro.plate("scenes", len(images)):
            pyro.sample("weather", Normal(0.0, 1.0))
            pyro.sample("pose_0", Normal(0.0, 1.0))
            pyro.sample("pose_1", Normal(0.0, 1.0))
            pyro.sample("image", Normal(0.0, 1.0).expand(images.shape[1:]).to_event(3), obs=images)

    def guide(images: torch.Tensor) -> None:
        with pyro.plate("scenes", len(images)):
            pyro.sample("weather", Normal(1.0, 1.0))
            pyro.sample("pose_0", Normal(2.0, 1.0))
            pyro.sample("pose_1", Normal(3.0, 1.0))

    elbo = SlotELBO(analytic=True)
    terms = elbo.terms(model, guide, torch.rand(2, 3, 8, 8))
    assert terms["kl_weather"].tolist() == pytest.approx([0.5, 0.5])
    assert terms["kl_pose"].tolist() == pytest.approx([6.5, 6.5])
    torch.testing.assert_close(elbo.negative_elbo(terms), terms["nll"] + 7.0)
    with poutine.scale(scale=1.0):  # a handler around the model does not hide what it says of itself
        assert elbo.terms(poutine.block(model, hide=[]), guide, torch.rand(2, 3, 8, 8)).keys() == terms.keys()


def test_two_kinds_of_latents_that_share_a_term_count_once() -> None:
    class TwoKinds(Program):
        record = Record((Latents("shape_{k}", "kl_slots"), Latents("colour_{k}", "kl_slots", code=False)))

        def forward(self, images: torch.Tensor) -> None:
            with pyro.plate("scenes", len(images)):
                for name in ("shape_0", "shape_1", "colour_0", "colour_1"):
                    pyro.sample(name, Normal(0.0, 1.0))
                pyro.sample("image", Normal(0.0, 1.0).expand(images.shape[1:]).to_event(3), obs=images)

    def guide(images: torch.Tensor) -> None:
        with pyro.plate("scenes", len(images)):
            for name in ("shape_0", "shape_1", "colour_0", "colour_1"):
                pyro.sample(name, Normal(1.0, 1.0))

    images, elbo = torch.rand(2, 3, 8, 8), SlotELBO(analytic=True)
    terms = elbo.terms(TwoKinds(), guide, images)
    assert tuple(terms) == ("nll", "kl_slots")
    assert terms["kl_slots"].tolist() == pytest.approx([2.0, 2.0])
    torch.testing.assert_close(
        elbo.negative_elbo(terms).sum().item(), TraceMeanField_ELBO().loss(TwoKinds(), guide, images)
    )


def test_geco_weighs_the_kls_and_moves_in_training_alone(images: torch.Tensor) -> None:
    geco = GenesisGECO(target=0.0, image_size=32, step_size=1e-3, beta_init=3.0)
    module = SlotELBO(geco=geco)(*build_pair("genesis_v2"))
    assert isinstance(module.model, PyroModule)
    with torch.no_grad():
        terms = {name: term.mean() for name, term in module.elbo.terms(module.model, module.guide, images).items()}
        torch.testing.assert_close(module.elbo.objective(terms), terms["nll"] + 3.0 * terms["kl_slots"])
    module.eval()
    module(images)
    assert geco.beta == 3.0
    module.train()
    module(images).backward()
    assert geco.beta == 3.0
    torch.optim.SGD(module.parameters(), lr=0.0).step()
    assert geco.beta != 3.0
    assert {name for name in module.state_dict() if name.startswith("elbo.")} == {
        "elbo.geco.beta",
        "elbo.geco.error_ema",
        "elbo.geco.started",
    }


@systems
def test_no_host_synchronisation_on_the_training_path(
    system: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing asks a tensor for its value between the images and the gradients."""
    module = SlotELBO(geco=GenesisGECO(target=0.5, image_size=32))(*build_pair(system))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("waits for the device")

    with pyro.validation_enabled(False):
        module(images)
        for method in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, method, refuse)
        module(images).backward()
        monkeypatch.undo()
    assert all(p.grad is not None for p in module.parameters())
