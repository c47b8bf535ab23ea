"""SRI_ELBO beside Pyro's own ELBOs, SVI and ELBOModule."""

import copy
import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule

from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import EmorlGECO, GenesisGECO, MaskKL
from pyro_sri.objectives.sri import SRI_ELBO, TERMS, encode_slots, read_terms, trace_prior, trace_sri
from support.programs import build_sri

SRI = tuple[SceneModel, SRIGuide]


def total(terms: dict[str, torch.Tensor], names: tuple[str, ...]) -> float:
    return sum(terms[name].sum().item() for name in names)


def test_terms(sri: SRI, images: torch.Tensor) -> None:
    terms = SRI_ELBO().terms(*sri, images)
    assert tuple(terms) == TERMS
    assert all(term.shape == (4,) for term in terms.values())
    assert all((terms[name] > 0).all() for name in ("kl_scene", "kl_slots", "kl_cross"))


def test_mean_field_elbo_is_the_sum_of_terms(sri: SRI, images: torch.Tensor) -> None:
    """Exactly, under the same draws, without a warning (which would be an error here)."""
    pyro.set_rng_seed(3)
    stock = TraceMeanField_ELBO().loss(*sri, images)
    pyro.set_rng_seed(3)
    terms = SRI_ELBO().terms(*sri, images)
    assert stock == pytest.approx(total(terms, ("nll", "kl_scene", "kl_slots")), rel=1e-6)


def test_trace_elbo_is_the_sum_of_terms_in_expectation(images: torch.Tensor) -> None:
    sri = build_sri(slot_size=8, scene_size=4)
    stock, ours = [], []
    with torch.no_grad():
        for seed in range(60):
            pyro.set_rng_seed(seed)
            stock.append(Trace_ELBO().loss(*sri, images))
            pyro.set_rng_seed(seed)
            ours.append(total(SRI_ELBO().terms(*sri, images), ("nll", "kl_scene", "kl_slots")))
    difference = torch.tensor(stock) - torch.tensor(ours)
    assert difference.std() > 0  # Monte Carlo against analytic
    assert abs(difference.mean().item()) < 4 * difference.std().item() / math.sqrt(len(difference))


def test_unweighed_loss_is_the_sum_of_all_terms(sri: SRI, images: torch.Tensor) -> None:
    elbo = SRI_ELBO()
    pyro.set_rng_seed(3)
    loss = elbo(*sri)(images)
    pyro.set_rng_seed(3)
    assert loss.item() == pytest.approx(total(elbo.terms(*sri, images), TERMS) / len(images), rel=1e-6)


def test_svi_and_elbo_module_agree(images: torch.Tensor) -> None:
    """The same loss and, after a step, the same parameters."""
    results = []
    for use_svi in (True, False):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide = build_sri()
        pyro.set_rng_seed(7)
        if use_svi:
            loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), SRI_ELBO()).step(images)
        else:
            with pyro.settings.context(module_local_params=True):
                module = SRI_ELBO()(model, guide)
                optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
                tensor = module(images)
                tensor.backward()
                optimizer.step()
                loss = tensor.item()
                assert not list(pyro.get_param_store().keys())
        results.append((loss, [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_svi_trains_two_instances_one_after_the_other(images: torch.Tensor) -> None:
    for _ in range(2):
        pyro.clear_param_store()
        model, guide = build_sri()
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), SRI_ELBO()).step(images)
        after = [*model.parameters(), *guide.parameters()]
        changed = [not torch.equal(b, a) for b, a in zip(before, after, strict=True)]
        assert sum(changed) > 0.95 * len(changed)


def test_every_parameter_learns(images: torch.Tensor) -> None:
    """Finite gradients for all, non-zero for all but those that are zero in exact arithmetic."""
    model, guide = build_sri(slot_size=16)
    module = SRI_ELBO()(model, guide)
    module(images).backward()
    zero = {name for name, p in module.named_parameters() if p.grad.abs().max() == 0}
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    # Distances do not change when every colour is shifted.
    assert zero <= {"guide.segregation.guide.stick_breaking.colour_head.conv.bias"}


def test_geco_moves_in_training_with_gradients_and_never_in_evaluation(sri: SRI, images: torch.Tensor) -> None:
    elbo = SRI_ELBO(
        geco=GenesisGECO(target=0.0, image_size=32, step_size=1e-3),
        segregation_geco=EmorlGECO(target=0.0, image_size=32, step_size=1e-3),
    )
    module = elbo(*sri)
    svi = SVI(*sri, pyro.optim.Adam({"lr": 1e-4}), elbo)

    def state() -> list[float]:
        return [buffer.item() for buffer in elbo.buffers()]

    start = state()
    svi.evaluate_loss(images)
    assert state() == start
    with torch.no_grad():
        module(images)
    assert state() == start
    module.eval()
    module(images)
    assert state() == start
    module.train()
    module(images).backward()
    assert state() == start
    torch.optim.SGD(module.parameters(), lr=0.0).step()
    moved = state()
    assert moved != start
    svi.step(images)
    assert state() != moved


def test_geco_state_is_saved_and_moved_with_the_module(sri: SRI, images: torch.Tensor) -> None:
    module = SRI_ELBO(geco=GenesisGECO(target=0.5, image_size=32))(*sri)
    assert isinstance(module, ELBOModule)
    module(images).backward()
    module.elbo.advance()
    saved = {name for name in module.state_dict() if name.startswith("elbo.")}
    assert saved == {"elbo.geco.beta", "elbo.geco.error_ema", "elbo.geco.started"}
    again = copy.deepcopy(module)
    again.load_state_dict(module.state_dict())
    assert again.elbo.geco.error_ema == module.elbo.geco.error_ema != 0
    assert again.double().elbo.geco.beta.dtype == torch.float64


def test_geco_weighs_each_half(sri: SRI, images: torch.Tensor) -> None:
    geco = {
        name: GenesisGECO(target=0.0, image_size=32, beta_init=beta)
        for name, beta in (("geco", 3.0), ("segregation_geco", 0.5))
    }
    elbo = SRI_ELBO(**geco)
    terms = elbo.terms(*sri, images)
    mean = {name: term.mean().item() for name, term in terms.items()}
    expected = mean["segregation_nll"] + 0.5 * mean["segregation_kl"] + mean["nll"]
    expected += 3.0 * (mean["kl_scene"] + mean["kl_slots"] + mean["kl_cross"])
    assert elbo.objective(terms).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mask_kl", ["attached", "decoder"])
@pytest.mark.parametrize("end_to_end", [False, True])
def test_mask_kl_is_weighed_as_the_kl_of_what_trains_the_segregation(
    images: torch.Tensor, end_to_end: bool, mask_kl: MaskKL
) -> None:
    model, guide = build_sri(end_to_end=end_to_end)
    if end_to_end:
        guide.segregation.model = None
    controllers = {name: GenesisGECO(target=0.0, image_size=32) for name in ("geco", "segregation_geco")}
    controllers["geco"].beta.fill_(0.25)
    controllers["segregation_geco"].beta.fill_(0.5)
    elbo = SRI_ELBO(**controllers, mask_kl=mask_kl).eval()
    terms = elbo.terms(model, guide, images)
    divergence = terms["mask_kl" if end_to_end else "segregation_mask_kl"].mean()
    assert divergence > 0
    weight = 1.0 if mask_kl == "decoder" else 0.25 if end_to_end else 0.5
    without = SRI_ELBO(**controllers).eval().objective({name: terms[name] for name in TERMS})
    torch.testing.assert_close(elbo.objective(terms), without + weight * divergence)


def test_a_decoder_follows_the_attention_with_the_weight_of_the_nll(images: torch.Tensor) -> None:
    model, guide = build_sri(end_to_end=True)
    guide.segregation.model = None
    geco = EmorlGECO(target=0.0, image_size=32)
    geco.beta.fill_(5.0)
    elbo = SRI_ELBO(geco=geco, mask_kl="decoder").eval()
    terms = elbo.terms(model, guide, images)
    without = SRI_ELBO(geco=geco).eval().objective({name: terms[name] for name in TERMS})
    weighted = torch.nn.functional.softplus(torch.tensor(5.0)) * terms["mask_kl"].mean()
    torch.testing.assert_close(elbo.objective(terms), without + weighted)


def test_mask_kl_compares_the_masks_in_the_order_of_the_slots(images: torch.Tensor) -> None:
    """Attention masks that are the decoder's, in segregated order, are no distance from those of the scene model."""
    model, guide = build_sri(end_to_end=True)
    guide.segregation.model = None
    elbo = SRI_ELBO(mask_kl="decoder")
    traces = trace_sri(model, guide, images)
    order = traces.guide.nodes["order"]["value"]
    assert (order != torch.arange(3)).any()
    decoded = traces.model.nodes["slot_masks"]["value"]
    segregated = torch.stack([decoded[b][order[b].argsort()] for b in range(len(images))])
    traces.guide.nodes["attention_masks"]["value"] = segregated
    torch.testing.assert_close(elbo.read(traces)["mask_kl"], torch.zeros(len(images)), atol=1e-3, rtol=0)


def test_terms_of_latents_fixed_by_an_enclosing_handler(sri: SRI, images: torch.Tensor) -> None:
    scene = torch.randn(4, 12)
    with poutine.condition(data={"scene": scene}):
        traces = trace_sri(*sri, images)
        other = trace_sri(*sri, images)
    assert torch.equal(traces.guide.nodes["scene"]["value"], scene)
    assert torch.equal(traces.model.nodes["scene"]["value"], scene)
    ours, theirs = (t.model.nodes["slot_0"]["fn"].mean for t in (traces, other))
    torch.testing.assert_close(ours, theirs)  # the first slot's prior depends on the scene alone


def test_an_enclosing_recorder_changes_nothing(sri: SRI, images: torch.Tensor) -> None:
    pyro.set_rng_seed(4)
    plain = SRI_ELBO().terms(*sri, images)
    pyro.set_rng_seed(4)
    with poutine.trace():
        handled = SRI_ELBO().terms(*sri, images)
    assert all(torch.equal(plain[name], handled[name]) for name in TERMS)


def test_a_wrapped_guide_is_refused(sri: SRI, images: torch.Tensor) -> None:
    """It would hide its segregation, which would silently not be trained."""
    model, guide = sri
    with pytest.raises(ValueError, match="hides its segregation"):
        SRI_ELBO().terms(model, poutine.condition(guide, data={}), images)


def test_guides_without_segregation_have_zero_terms(images: torch.Tensor) -> None:
    """Any guide with `scene` and `slot_k` will do."""
    model, _full_guide = build_sri()

    def guide(images: torch.Tensor) -> None:
        with pyro.plate("scenes", len(images)):
            pyro.sample("scene", pyro.distributions.Normal(torch.zeros(len(images), 12), 1.0).to_event(1))
            for k in range(3):
                pyro.sample(f"slot_{k}", pyro.distributions.Normal(torch.zeros(len(images), 8), 1.0).to_event(1))

    terms = SRI_ELBO().terms(model, guide, images)
    for name in ("segregation_nll", "segregation_kl", "kl_cross"):
        assert torch.equal(terms[name], torch.zeros(4))
    torch.testing.assert_close(terms["kl_scene"], torch.zeros(4))
    assert (terms["kl_slots"] > 0).all()


def test_no_host_synchronisation_on_the_training_path(
    sri: SRI, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing asks a tensor for its value between the images and the gradients."""
    elbo = SRI_ELBO(geco=GenesisGECO(target=0.5, image_size=32), segregation_geco=EmorlGECO(target=0.5, image_size=32))
    module = elbo(*sri)
    with pyro.validation_enabled(False):
        module(images)
        for method in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, method, _refuse(method))
        with pytest.raises(AssertionError, match="waits for the device"):
            images.sum().item()  # the watch is on
        module(images).backward()
        monkeypatch.undo()
    assert all(p.grad is not None for p in module.parameters())


def _refuse(method: str):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"Tensor.{method} waits for the device")

    return refuse


def test_buffers_do_not_alias_between_instances() -> None:
    pair = [GenesisGECO(target=0.0, image_size=32) for _ in range(2)]
    pair[0].update(torch.tensor(5.0))
    assert [geco.started.item() for geco in pair] == [True, False]
    assert all(a is not b for a, b in itertools.pairwise([pair[0].beta, pair[1].beta]))


def test_the_prior_alone_learns_what_relates_and_imagines(images: torch.Tensor) -> None:
    """From `prior_from` on: the KLs alone, gradients to prior and scene encoder alone, and nothing is decoded."""
    model, guide = build_sri()
    elbo = SRI_ELBO(prior_from=2, mask_kl="decoder").train()
    module = elbo(model, guide)
    learning = {
        name for name, _ in module.named_parameters() if name.startswith(("model.slot_prior", "guide.scene_encoder"))
    }
    decoded = []
    model.decoder.register_forward_hook(lambda *_: decoded.append(1))
    for step, phase in ((1, "all"), (2, "prior")):
        elbo.step = step
        assert elbo.phase == phase
        module.zero_grad()
        decoded.clear()
        with pyro.settings.context(module_local_params=True):
            pyro.set_rng_seed(3)
            loss = module(images)
            pyro.set_rng_seed(3)
            terms = elbo.terms(model, guide, images)
        loss.backward()
        reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
        assert (reached == learning) == (phase == "prior")
        assert bool(decoded) == (phase == "all")
    assert set(terms) == {"kl_scene", "kl_slots", "kl_cross"}
    torch.testing.assert_close(loss, sum(term.mean() for term in terms.values()))
    assert set(elbo.eval().terms(model, guide, images)) == {*TERMS, "segregation_mask_kl"}


def test_the_priors_kls_are_those_of_the_whole_objective(images: torch.Tensor) -> None:
    """For the same draws; fixing q(z | x) changes gradients, not values."""
    model, guide = build_sri()
    guide_trace = poutine.trace(guide).get_trace(images)
    draws = {name: site["value"] for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    draws.pop("scenes")
    with poutine.condition(data=draws):
        whole = SRI_ELBO().terms(model, guide, images)
        encoded = encode_slots(guide, images)
        prior = read_terms(trace_prior(model, guide, encoded))
    assert encoded.shape == (len(images), guide.num_slots, 2 * draws["slot_0"].shape[-1])
    assert not encoded.requires_grad
    for name in ("kl_scene", "kl_slots", "kl_cross"):
        torch.testing.assert_close(prior[name], whole[name])
