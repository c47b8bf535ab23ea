"""Parameters that no training should reach: densities, masks, controllers and their gradients stay finite."""

import itertools
import math
from collections.abc import Callable

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_sri.distributions import (
    GaussianImage,
    MixtureImage,
    genesis_posterior_scale,
    genesis_prior_scale,
    sri_scale,
)
from pyro_sri.matching import greedy_matching, hungarian_matching, slot_distances
from pyro_sri.nn import InstanceColours, SlotAttention, StickBreaking
from pyro_sri.nn.stick_breaking import break_stick
from pyro_sri.objectives.geco import EMORL_FLOOR, EmorlGECO, GenesisGECO
from pyro_sri.objectives.mask_kl import mask_divergence
from pyro_sri.training.step import TrainingStep
from support.soaked import HEAVY, PRESETS, build

RAW = (0.0, 1.0, -1.0, 80.0, -80.0, 104.0, -104.0, 1e3, -1e3, 1e4, -1e4)
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
MAPS = {scale.__name__: scale for scale in (sri_scale, genesis_posterior_scale, genesis_prior_scale)}


def assert_finite(*tensors: Tensor) -> None:
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


@PRECISIONS
@pytest.mark.parametrize("name", MAPS)
def test_scales_are_positive(name: str, dtype: torch.dtype) -> None:
    raw = torch.tensor(RAW, dtype=dtype, requires_grad=True)
    scales = MAPS[name](raw)
    (gradient,) = torch.autograd.grad(scales.sum(), raw)
    assert_finite(scales, gradient)
    assert scales.min() > 0
    assert scales[raw.argsort()].diff().min() >= 0


@PRECISIONS
@pytest.mark.parametrize("posterior", ["sri_scale", "genesis_posterior_scale"])
@pytest.mark.parametrize("prior", ["sri_scale", "genesis_prior_scale"])
def test_kls_between_any_two_scales(posterior: str, prior: str, dtype: torch.dtype) -> None:
    """In closed form and by Monte Carlo, with means far apart, each with its gradients."""
    grid = itertools.product(RAW, RAW, (0.0, 1.0, 1e4), (0.0, -1e4))
    parameters = [torch.tensor(column, dtype=dtype, requires_grad=True) for column in zip(*grid, strict=True)]
    raw_q, raw_p, loc_q, loc_p = parameters
    q, p = Normal(loc_q, MAPS[posterior](raw_q)), Normal(loc_p, MAPS[prior](raw_p))
    value = q.rsample()
    closed, drawn = kl_divergence(q, p), q.log_prob(value) - p.log_prob(value)
    for kl in (closed, drawn):
        assert_finite(kl, *torch.autograd.grad(kl.sum(), parameters, retain_graph=True))
    assert closed.min() >= -1e-5  # zero up to rounding where the two are equal


@PRECISIONS
@pytest.mark.parametrize("kind", ["gaussian", "channel", "pixel"])
def test_likelihoods_of_saturated_masks_and_far_colours(kind: str, dtype: torch.dtype) -> None:
    """One mask takes all, by logits up to 10,000; colours are up to 1,000 from the image; sigma is down to 0.01."""
    for factor, far, std in itertools.product((1.0, 1e4), (1.0, 1e3), (0.01, 0.7)):
        logits = (factor * torch.randn(2, 5, 1, 4, 4, dtype=dtype)).requires_grad_()
        rgb = (far * torch.randn(2, 5, 3, 4, 4, dtype=dtype)).requires_grad_()
        images = torch.randint(0, 2, (2, 3, 4, 4)).to(dtype)
        log_masks = logits.log_softmax(1)
        if kind == "gaussian":
            log_prob = GaussianImage(rgb, log_masks, std).log_prob(images)
        else:
            log_prob = MixtureImage(rgb, log_masks, std, mixture=kind).log_prob(images)
        assert_finite(log_prob, *torch.autograd.grad(log_prob.sum(), (logits, rgb)))


@PRECISIONS
def test_a_broken_stick_of_huge_logits(dtype: torch.dtype) -> None:
    logits = (1e4 * torch.randn(2, 5, 1, 4, 4, dtype=dtype)).requires_grad_()
    log_masks, log_scopes = break_stick(logits)
    other = torch.randn(2, 5, 1, 4, 4, dtype=dtype).softmax(1)
    divergences = torch.stack([mask_divergence(log_masks.exp(), other), mask_divergence(other, log_masks.exp())])
    assert_finite(log_masks, log_scopes, divergences)
    assert_finite(*torch.autograd.grad(log_masks.sum() + divergences.sum(), logits))
    torch.testing.assert_close(log_masks.exp().sum(1), torch.ones(2, 1, 4, 4, dtype=dtype))


@PRECISIONS
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
def test_clusters_of_extreme_colours(kernel: str, dtype: torch.dtype) -> None:
    """Colours that are all the same, or 10,000 apart; kernels so wide that all is one, or so narrow that nothing is."""
    for factor, log_sigma in itertools.product((0.0, 1.0, 1e4), (-20.0, 0.0, 20.0)):
        clusters = StickBreaking(8, 4, 3, InstanceColours(start="none", kernel=kernel)).to(dtype)
        clusters.log_sigma.data.fill_(log_sigma)
        features = (factor * torch.randn(2, 8, 4, 4, dtype=dtype)).requires_grad_()
        log_masks = clusters(
            features, torch.rand(2, 3, 4, 4, dtype=dtype), torch.rand(2, 4, 4, dtype=dtype), 3
        ).log_masks
        torch.testing.assert_close(log_masks.exp().sum(1), torch.ones(2, 1, 4, 4, dtype=dtype))
        log_masks[:, 0].sum().backward()
        assert_finite(log_masks, features.grad, *(parameter.grad for parameter in clusters.parameters()))


@PRECISIONS
def test_attention_that_is_sure_of_itself(dtype: torch.dtype) -> None:
    attention = SlotAttention(8).to(dtype)
    attention.query.weight.data.mul_(1e4)
    slots = torch.randn(2, 3, 8, dtype=dtype, requires_grad=True)
    updates, masks = attention(slots, *attention.read(1e4 * torch.randn(2, 16, 64, dtype=dtype)))
    updates.sum().backward()
    assert_finite(updates, masks, slots.grad, *(parameter.grad for parameter in attention.parameters()))
    assert masks.max() == 1


@PRECISIONS
@pytest.mark.parametrize("nll", [-1e8, -1.0, 1e4, 1e30])
def test_the_published_controller_far_from_its_goal(nll: float, dtype: torch.dtype) -> None:
    """A thousand steps far from the goal end at a clamp, and from there it comes back."""
    geco = GenesisGECO(target=0.0, image_size=32, step_size=1e-3, beta_min=1e-10, beta_max=1e10).to(dtype)
    kl = torch.ones((), dtype=dtype, requires_grad=True)
    for _ in range(1_000):
        geco.update(torch.tensor(nll, dtype=dtype))
    loss = geco(torch.zeros((), dtype=dtype), kl)
    assert_finite(loss, *torch.autograd.grad(loss, kl), *(buffer.double() for buffer in geco.buffers()))
    assert geco.beta.item() == pytest.approx(1e10 if nll < 0 else 1e-10)
    geco.error_ema.zero_()
    for _ in range(1_000):
        geco.update(torch.tensor(math.copysign(1e4, -nll), dtype=dtype))
    assert geco.beta.item() == pytest.approx(1e-10 if nll < 0 else 1e10)


@PRECISIONS
@pytest.mark.parametrize("nll", [-1e8, -1.0, 1e4, 1e15])
def test_emorls_controller_far_from_its_goal(nll: float, dtype: torch.dtype) -> None:
    """It is at its floor while the goal is met; else it grows by step_size times the error, step by step."""
    geco = EmorlGECO(target=0.0, image_size=64, step_size=1e-6).to(dtype)
    for _ in range(1_000):
        geco.update(torch.tensor(nll, dtype=dtype))
    expected = max(EMORL_FLOOR, EMORL_FLOOR + 999 * 1e-6 * nll)
    assert geco.beta.item() == pytest.approx(expected, rel=1e-3)
    last = torch.tensor(nll, dtype=dtype, requires_grad=True)
    loss = geco(last, torch.zeros((), dtype=dtype))
    assert_finite(loss, *torch.autograd.grad(loss, last), *(buffer.double() for buffer in geco.buffers()))


@PRECISIONS
@pytest.mark.parametrize("matching", [greedy_matching, hungarian_matching])
@pytest.mark.parametrize("far", [0.0, 1e25, math.inf, math.nan])
def test_an_order_is_a_permutation_whatever_the_slots(
    matching: Callable[[Tensor], Tensor], far: float, dtype: torch.dtype
) -> None:
    """Slots that are all the same, whose distances overflow, or that are not finite."""
    imagined, segregated = torch.randn(2, 3, 5, 8, dtype=dtype)
    imagined, segregated = (torch.stack([slots[0], far * slots[1], slots[2]]) for slots in (imagined, segregated))
    order = matching(slot_distances(imagined, segregated))
    assert torch.equal(order.sort(1).values, torch.arange(5).expand(3, 5))
    usual = matching(slot_distances(imagined[::2], segregated[::2]))
    assert torch.equal(order[::2], usual)


def last_biases(module: TrainingStep) -> dict[str, Tensor]:
    """The last bias of every network of model and guide: behind means, raw scales, logits, colours."""
    found = {}
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            found[".".join(name.split(".")[:2])] = parameter
    return found


@pytest.mark.parametrize(
    "preset", [pytest.param(preset, marks=pytest.mark.slow if preset in HEAVY else ()) for preset in PRESETS]
)
def test_a_step_with_huge_outputs(preset: str) -> None:
    """One network after the other gives out 10,000, or -10,000."""
    module, _ = build(preset)
    for (name, bias), value in itertools.product(last_biases(module).items(), (1e4, -1e4)):
        before = bias.detach().clone()
        bias.data.fill_(value)
        module.zero_grad(set_to_none=True)
        with pyro.validation_enabled(False):  # as in training, but for its first steps
            loss, terms = module(torch.rand(1, 3, 32, 32))
        loss.backward()
        for what, tensor in {"loss": loss, **terms}.items():
            assert torch.isfinite(tensor).all(), (name, value, what)
        for what, parameter in module.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), (name, value, what)
        bias.data.copy_(before)
