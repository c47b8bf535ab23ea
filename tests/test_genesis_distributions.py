"""What GENESIS adds to the distributions: a deferred point mass, and a pixel standard deviation for each slot."""

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence

from pyro_sri.distributions import Deferred, ImageLikelihood, MixtureImage


def test_deferred_computes_once_and_only_if_asked() -> None:
    calls = []
    source = torch.ones(2, 3, requires_grad=True)

    def compute() -> torch.Tensor:
        calls.append(1)
        return 2 * source

    def program() -> torch.Tensor:
        with pyro.plate("scenes", 2):
            return pyro.sample("double", Deferred(compute, (2,), (3,)))

    trace = poutine.trace(program).get_trace()
    assert len(calls) == 1
    trace.compute_log_prob()
    site = trace.nodes["double"]
    assert torch.equal(site["log_prob"], torch.zeros(2))
    site["value"].sum().backward()
    assert torch.equal(source.grad, torch.full((2, 3), 2.0))
    replayed = poutine.trace(poutine.replay(program, trace)).get_trace().nodes["double"]
    assert replayed["value"] is site["value"]
    assert torch.equal(kl_divergence(site["fn"], replayed["fn"]), torch.zeros(2))
    assert len(calls) == 1


def test_deferred_over_a_larger_batch() -> None:
    larger = Deferred(lambda: torch.arange(3.0), (), (3,)).expand((4, 2))
    assert larger.shape() == (4, 2, 3)
    assert torch.equal(larger(), torch.arange(3.0).expand(4, 2, 3))


@pytest.mark.parametrize("mixture", ["channel", "pixel"])
@pytest.mark.parametrize("normalised", [True, False])
def test_one_standard_deviation_for_each_slot(mixture: str, normalised: bool) -> None:
    rgb = torch.rand(2, 3, 3, 5, 5, dtype=torch.float64)
    log_masks = torch.randn(2, 3, 1, 5, 5, dtype=torch.float64).log_softmax(1)
    image = torch.rand(2, 3, 5, 5, dtype=torch.float64)

    def dist(scale: torch.Tensor | float) -> MixtureImage:
        return MixtureImage(rgb, log_masks, scale, mixture=mixture, normalised=normalised)

    one, same = dist(0.3), dist(torch.full((3, 1, 1, 1), 0.3))
    torch.testing.assert_close(same.log_prob(image), one.log_prob(image))
    torch.testing.assert_close(same.variance, one.variance)
    pyro.set_rng_seed(1)
    drawn = one.sample()
    pyro.set_rng_seed(1)
    torch.testing.assert_close(same.sample(), drawn)

    scales = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)[:, None, None, None]
    channels = torch.distributions.Normal(rgb, scales).log_prob(image[:, None])
    if mixture == "pixel":
        channels = channels.sum(2, keepdim=True)
    expected = (log_masks + channels).logsumexp(1).sum((1, 2, 3))
    torch.testing.assert_close(dist(scales).log_prob(image) - dist(scales).log_normaliser, expected)


def test_samples_with_two_standard_deviations() -> None:
    torch.manual_seed(0)
    rgb = torch.tensor([0.2, 0.8])[None, :, None, None, None].expand(1, 2, 3, 4, 4)
    log_masks = torch.tensor([0.3, 0.7]).log()[None, :, None, None, None].expand(1, 2, 1, 4, 4)
    dist = ImageLikelihood(pixel_std=0.1, first_pixel_std=0.4)(rgb, log_masks)
    drawn = dist.expand((1,)).sample((4000,))
    assert drawn.shape == (4000, 1, 3, 4, 4)
    torch.testing.assert_close(drawn.mean((0, 3, 4)), dist.mean.mean((2, 3)), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.var((0, 3, 4)), dist.variance.mean((2, 3)), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"first_pixel_std": 0.0}, "positive"), ({"kind": "gaussian", "first_pixel_std": 0.5}, "not two")],
)
def test_impossible_likelihoods(fields: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ImageLikelihood(**fields)
