import math
from collections.abc import Callable

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pyro_sri.distributions import (
    GaussianImage,
    ImageLikelihood,
    MixtureImage,
    diagonal_normal,
    genesis_posterior_raw,
    genesis_posterior_scale,
    genesis_prior_scale,
    sri_raw,
    sri_scale,
)
from support.golden import Golden, assert_relative

B, K, SIZE, STD = 2, 4, 5, 0.3


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rgb = torch.rand(B, K, 3, SIZE, SIZE, dtype=torch.float64)
    log_masks = torch.randn(B, K, 1, SIZE, SIZE, dtype=torch.float64).log_softmax(1)
    return rgb, log_masks, torch.rand(B, 3, SIZE, SIZE, dtype=torch.float64)


def reference_mixture(rgb: torch.Tensor, log_masks: torch.Tensor, mixture: str) -> Independent:
    logits = log_masks.squeeze(2).movedim(1, -1)  # [B, H, W, K]
    if mixture == "channel":
        logits = logits[:, None].expand(-1, 3, -1, -1, -1)  # [B, 3, H, W, K]
        components = Normal(rgb.movedim(1, -1), STD)
        return Independent(MixtureSameFamily(Categorical(logits=logits), components), 3)
    components = Independent(Normal(rgb.permute(0, 3, 4, 1, 2), STD), 1)  # [B, H, W, K | 3]
    return Independent(MixtureSameFamily(Categorical(logits=logits), components), 2)


@pytest.mark.parametrize("mixture", ["channel", "pixel"])
def test_mixture_equals_torch(parts: tuple[torch.Tensor, ...], mixture: str) -> None:
    rgb, log_masks, x = parts
    ours = MixtureImage(rgb, log_masks, STD, mixture=mixture)
    theirs = reference_mixture(rgb, log_masks, mixture)
    to_theirs = (lambda t: t) if mixture == "channel" else (lambda t: t.permute(0, 2, 3, 1))
    assert_relative(ours.log_prob(x), theirs.log_prob(to_theirs(x)), 1e-12)
    assert_relative(to_theirs(ours.mean), theirs.mean, 1e-12)
    assert_relative(to_theirs(ours.variance), theirs.variance, 1e-12)


def test_gaussian_equals_torch(parts: tuple[torch.Tensor, ...]) -> None:
    rgb, log_masks, x = parts
    ours = GaussianImage(rgb, log_masks, STD)
    theirs = Independent(Normal((log_masks.exp() * rgb).sum(1), STD), 3)
    assert_relative(ours.log_prob(x), theirs.log_prob(x), 1e-12)
    assert_relative(ours.mean, theirs.mean, 1e-12)
    assert_relative(ours.stddev, theirs.stddev, 1e-12)


@pytest.mark.parametrize("kind", ["mog", "gaussian"])
def test_unnormalised_leaves_out_one_constant(parts: tuple[torch.Tensor, ...], kind: str) -> None:
    rgb, log_masks, x = parts
    with_constant = ImageLikelihood(kind=kind, pixel_std=STD)(rgb, log_masks)
    without = ImageLikelihood(kind=kind, pixel_std=STD, normalised=False)(rgb, log_masks)
    constant = 3 * SIZE**2 * 0.5 * math.log(2 * math.pi)
    assert without.log_normaliser == pytest.approx(constant)
    assert with_constant.log_normaliser == 0
    assert_relative(without.log_prob(x) - constant, with_constant.log_prob(x), 1e-12)


LIKELIHOODS = [
    ImageLikelihood(kind=kind, mixture=mixture, normalised=normalised, pixel_std=STD, first_pixel_std=first)
    for kind, mixture, first in [
        ("gaussian", "channel", None),
        *(("mog", mixture, first) for mixture in ("channel", "pixel") for first in (None, 0.1, 0.9)),
    ]
    for normalised in (True, False)
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_no_image_has_a_lower_nll_than_the_floor(likelihood: ImageLikelihood, parts: tuple[torch.Tensor, ...]) -> None:
    rgb, log_masks, x = parts
    exact = x[:, None].expand_as(rgb)
    one = (torch.eye(K, dtype=torch.float64) + 1e-300).log()[
        :, None, :, None, None, None
    ]  # all in a slot, [K, 1, K, ..]
    floor = likelihood(rgb, log_masks).nll_floor
    assert floor == pytest.approx(3 * SIZE**2 * likelihood.nll_floor)
    for colours in (rgb, exact):
        for masks in (log_masks, *one.expand(K, B, K, 1, SIZE, SIZE)):
            assert (-likelihood(colours, masks).log_prob(x) >= floor - 1e-9).all()
    for error in (0.0, 0.003, 0.05, 0.3):
        painted = [-likelihood(exact + error**0.5, masks).log_prob(x) for masks in one.expand(K, B, K, 1, SIZE, SIZE)]
        nats = likelihood.nats(error)
        torch.testing.assert_close(torch.stack(painted).amin(0), torch.full((B,), 3 * SIZE**2 * nats).double())
        assert likelihood.squared_error(nats) == pytest.approx(error)
    assert likelihood.squared_error(likelihood.nll_floor - 0.1) < 0


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_autocast_leaves_densities_in_float32(likelihood: ImageLikelihood, parts: tuple[torch.Tensor, ...]) -> None:
    """Only the colours and masks are rounded, as the networks return them; not sigma, nor sums over pixels."""
    rgb, log_masks, x = (part.bfloat16() for part in parts)
    exact = likelihood(rgb.double(), log_masks.double())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = likelihood(rgb, log_masks)
        assert_relative(rounded.log_prob(x.float()).double(), exact.log_prob(x.double()), 1e-5)
        assert_relative(rounded.mean.double(), exact.mean, 1e-6)
    assert rounded.nll_floor == pytest.approx(exact.nll_floor, rel=1e-5)


@pytest.mark.parametrize("scale", [sri_scale, genesis_posterior_scale, genesis_prior_scale])
def test_scales_of_rounded_outputs_are_in_float32(scale: Callable[[torch.Tensor], torch.Tensor]) -> None:
    raw = torch.linspace(-12, 8, 50).bfloat16()
    dist = diagonal_normal(raw, scale(raw))
    exact = diagonal_normal(raw.double(), scale(raw.double()))
    assert_relative(dist.stddev.double(), exact.stddev, 1e-5)
    assert_relative(dist.log_prob(torch.zeros(50)).double(), exact.log_prob(torch.zeros(50).double()), 1e-5)


@pytest.mark.parametrize("mixture", ["channel", "pixel"])
@pytest.mark.parametrize("std", [0.7, 0.01])
def test_mixture_is_stable_in_float32(std: float, mixture: str) -> None:
    """Far from every component, with masks down to 1e-30: still finite, and equal to float64."""
    rgb = torch.zeros(1, K, 3, SIZE, SIZE, dtype=torch.float64)
    log_masks = torch.tensor([0.0, -20.0, -50.0, -70.0], dtype=torch.float64).log_softmax(0)
    log_masks = log_masks.view(1, K, 1, 1, 1).expand(1, K, 1, SIZE, SIZE)
    x = torch.ones(1, 3, SIZE, SIZE, dtype=torch.float64)
    exact = MixtureImage(rgb, log_masks, std, mixture=mixture).log_prob(x)
    single_rgb = rgb.float().requires_grad_(True)
    single = MixtureImage(single_rgb, log_masks.float(), std, mixture=mixture).log_prob(x.float())
    assert_relative(single, exact, 1e-5)
    single.sum().backward()
    assert torch.isfinite(single_rgb.grad).all()


@pytest.mark.parametrize("kind", ["mog", "gaussian"])
@pytest.mark.parametrize("mixture", ["channel", "pixel"])
def test_samples_have_the_moments(kind: str, mixture: str) -> None:
    rgb = torch.rand(2, 3, 3, 2, 2)
    log_masks = torch.randn(2, 3, 1, 2, 2).log_softmax(1)
    likelihood = ImageLikelihood(kind=kind, pixel_std=0.2, mixture=mixture)(rgb, log_masks)
    samples = likelihood.sample((20_000,))
    assert samples.shape == (20_000, 2, 3, 2, 2)
    error = 5 / math.sqrt(20_000)
    torch.testing.assert_close(samples.mean(0), likelihood.mean, atol=error * likelihood.stddev.max().item(), rtol=0)
    torch.testing.assert_close(samples.var(0), likelihood.variance, atol=error, rtol=0.05)


def test_pixel_mixture_draws_one_component_per_pixel() -> None:
    rgb = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])[None]
    log_masks = torch.full((1, 2, 1, 4, 4), math.log(0.5))
    draw = MixtureImage(rgb, log_masks, 1e-4, mixture="pixel").sample()
    assert (draw.round() == draw.round()[:, :1]).all()
    assert 0 < draw.mean() < 1


def test_expand_and_shapes(parts: tuple[torch.Tensor, ...]) -> None:
    rgb, log_masks, x = parts
    for kind in ("mog", "gaussian"):
        likelihood = ImageLikelihood(kind=kind, pixel_std=STD, mixture="pixel")(rgb, log_masks)
        assert likelihood.batch_shape == (B,)
        assert likelihood.event_shape == (3, SIZE, SIZE)
        expanded = likelihood.expand((7, B))
        assert expanded.batch_shape == (7, B)
        assert_relative(expanded.log_prob(x)[3], likelihood.log_prob(x), 1e-12)


def test_wrong_arguments_are_refused(parts: tuple[torch.Tensor, ...]) -> None:
    rgb, log_masks, _ = parts
    with pytest.raises(ValueError, match="scale"):
        MixtureImage(rgb, log_masks, -1.0, validate_args=True)
    with pytest.raises(ValueError, match="log_masks"):
        MixtureImage(rgb, -log_masks, 1.0, validate_args=True)


def test_scales_invert() -> None:
    for std in (0.05, 0.3, 1.0, 2.0):
        assert sri_scale(torch.tensor(sri_raw(std))).item() == pytest.approx(std, rel=3e-3)
        assert genesis_posterior_scale(torch.tensor(genesis_posterior_raw(std))).item() == pytest.approx(std, rel=1e-4)


def test_recorded_scales() -> None:
    golden = Golden("elementary")
    raw = golden["in/raw"]
    assert_relative(sri_scale(raw), golden["out/std_sri"])
    assert_relative(genesis_posterior_scale(raw), golden["out/std_genesis"])
    assert_relative(genesis_posterior_scale(raw).square(), golden["out/var_genesis"])
    assert_relative(genesis_prior_scale(raw), golden["out/std_genesis_prior"])
    assert_relative(golden.config("temperature") * sri_scale(raw), golden["out/std_sri_tempered"])


def test_sri_scale_is_a_clamped_softplus_with_its_gradient() -> None:
    raw = torch.tensor([-1e30, -200.0, -3.0, 0.0, 19.0, 21.0, 79.0, 81.0, 1e30], dtype=torch.float64).requires_grad_()
    plain = (torch.nn.functional.softplus(raw.clamp(max=80)) + 1e-5).sqrt()
    ours = sri_scale(raw)
    assert torch.equal(ours, plain)
    assert torch.equal(*(torch.autograd.grad(scale.sum(), raw)[0] for scale in (ours, plain)))
    assert sri_scale(torch.tensor(torch.nan)).isnan()


def test_recorded_likelihoods() -> None:
    golden = Golden("elementary")
    x, rgb = golden["in/image"], golden["in/rgb"].transpose(0, 1)
    log_masks = golden["in/mask_logits"].log_softmax(0)
    assert_relative(log_masks, golden["out/log_masks_softmax"])
    std = golden.config("pixel_std")
    nll = {
        key: -ImageLikelihood(kind=kind, pixel_std=std, normalised=normalised)(rgb, log_masks.transpose(0, 1)).log_prob(
            x
        )
        for key, kind, normalised in (
            ("nll_mog_unnormalised", "mog", False),
            ("nll_mog_normalised", "mog", True),
            ("nll_genesis", "mog", True),
            ("nll_emorl_gmm", "mog", False),
            ("nll_emorl_gaussian", "gaussian", False),
        )
    }
    for key, value in nll.items():
        assert_relative(value, golden[f"out/{key}"])
