"""Image likelihoods as distributions, and the maps from raw network outputs to standard deviations.

The published systems use three such maps. Each is named after the place where it is used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pyro.distributions import Delta, Independent, Normal
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_sri.nn import in_single

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

SOFTPLUS_CEILING = 80.0  # above it exp overflows in float32, and no variance needs to be larger than 80
VARIANCE_FLOOR = 1e-5
GENESIS_POSTERIOR_SHIFT, GENESIS_POSTERIOR_FLOOR = 0.5, 1e-8
GENESIS_PRIOR_SHIFT, GENESIS_PRIOR_FLOOR = 4.0, 1e-4


def sri_scale(raw: Tensor) -> Tensor:
    """Standard deviation sqrt(ln(1 + exp(min(raw, 80))) + 1e-5): the softplus is the variance (SRI, EMORL)."""
    raw = F.hardtanh(in_single(raw), -torch.inf, SOFTPLUS_CEILING)  # a clamp whose gradient is one kernel, not three
    return (F.softplus(raw) + VARIANCE_FLOOR).sqrt()


def genesis_posterior_scale(raw: Tensor) -> Tensor:
    """Standard deviation softplus(raw + 0.5) + 1e-8 of the posteriors of GENESIS and GENESIS-v2."""
    return F.softplus(in_single(raw) + GENESIS_POSTERIOR_SHIFT) + GENESIS_POSTERIOR_FLOOR


def genesis_prior_scale(raw: Tensor) -> Tensor:
    """Standard deviation sigmoid(raw + 4) + 1e-4 of the learned priors of GENESIS and GENESIS-v2."""
    return torch.sigmoid(in_single(raw) + GENESIS_PRIOR_SHIFT) + GENESIS_PRIOR_FLOOR


def sri_raw(scale: float) -> float:
    """The raw output that `sri_scale` maps to a standard deviation (up to the floor)."""
    return math.log(math.expm1(scale**2))


def genesis_posterior_raw(scale: float) -> float:
    """The raw output that `genesis_posterior_scale` maps to a standard deviation (up to the floor)."""
    return math.log(math.expm1(scale)) - GENESIS_POSTERIOR_SHIFT


def diagonal_normal(loc: Tensor, scale: Tensor, event_dim: int = 1) -> Independent:
    """Normal(loc, diag(scale^2)) over the last `event_dim` dimensions, at least in float32."""
    return Normal(in_single(loc), in_single(scale)).to_event(event_dim)


def moments(posterior: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a distribution; 0 for a point."""
    if isinstance(posterior, Delta):
        return posterior.v, torch.zeros_like(posterior.v)
    return posterior.mean, posterior.stddev


class StandardNormal(nn.Module):
    """The prior N(0, T^2 I) over vectors, without parameters. It moves between devices like any module.

    Attributes:
        size: D.
        loc: Zeros [D].
        scale: Ones [D].

    Args:
        size: D.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)

    def forward(self, num_scenes: int, *shape: int, temperature: float = 1.0) -> Independent:
        """A distribution over vectors [B, D], or over sets of vectors [B, .., D] of the given shape."""
        whole = (num_scenes, *shape, -1)
        return diagonal_normal(self.loc.expand(whole), temperature * self.scale.expand(whole), len(shape) + 1)


class Deferred(Delta):
    """A point mass at the result of a function, which is computed at the first draw, but not if the value is given.

    If guide and model both compute a value from the same latents, it is drawn as this site in both. Whichever runs
    first computes it, and replay passes it to the other. It always scores 0, and gradients pass through it.

    Args:
        compute: Returns the value, batch_shape + event_shape.
        batch_shape: Shape of the batch.
        event_shape: Shape of one value.
    """

    def __init__(
        self, compute: Callable[[], Tensor], batch_shape: tuple[int, ...], event_shape: tuple[int, ...]
    ) -> None:
        self.compute = compute
        TorchDistribution.__init__(self, torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @cached_property
    def v(self) -> Tensor:
        """The value."""
        return self.compute()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Deferred":
        """The same value over a larger batch, still not computed."""
        shape, event_shape = torch.Size(batch_shape), self.event_shape
        return Deferred(lambda: self.v.expand(shape + event_shape), shape, event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zeros, of batch_shape."""
        return value.new_zeros(self.batch_shape)


def reconstruct(rgb: Tensor, log_masks: Tensor) -> Tensor:
    """The mask-weighted mean sum_k m_k rgb_k: [.., K, 3, H, W] and [.., K, 1, H, W] -> [.., 3, H, W]."""
    return (log_masks.exp() * rgb).sum(-4)


def scale_like(values: Tensor, scale: Tensor | float) -> Tensor:
    """A standard deviation as a tensor of the same type and on the same device as some values."""
    return scale.to(values) if isinstance(scale, Tensor) else values.new_full((), scale)


class _SlotImageDistribution(TorchDistribution):
    """Base of the two likelihoods: slots' colours and masks, one standard deviation, images as events."""

    arg_constraints: ClassVar[dict[str, Any]] = {
        "rgb": constraints.independent(constraints.real, 4),
        "log_masks": constraints.independent(constraints.less_than(1e-4), 4),
        "scale": constraints.positive,
    }
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        rgb: Tensor,
        log_masks: Tensor,
        scale: Tensor | float,
        *,
        normalised: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.rgb, self.log_masks = in_single(rgb), in_single(log_masks)
        self.scale = scale_like(self.rgb, scale)
        self.normalised = normalised
        batch_shape, event_shape = rgb.shape[:-4], rgb.shape[-3:]
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """sum_k m_k rgb_k, [.., 3, H, W]."""
        return reconstruct(self.rgb, self.log_masks)

    @property
    def log_normaliser(self) -> float:
        """Nats per image that an unnormalised density leaves out: 3HW * 0.5 ln(2 pi), or 0."""
        return 0.0 if self.normalised else math.prod(self.event_shape) * HALF_LOG_2PI

    @property
    def nll_floor(self) -> float:
        """The lowest possible -log p(x | z): 3HW ln(sigma sqrt(2 pi)) nats, for a perfect reconstruction."""
        return -float(self._log_density_constant().max()) * math.prod(self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_SlotImageDistribution":
        """The same distribution over a larger batch."""
        return type(self)(
            self.rgb.expand(*batch_shape, *self.rgb.shape[-4:]),
            self.log_masks.expand(*batch_shape, *self.log_masks.shape[-4:]),
            self.scale,
            normalised=self.normalised,
            validate_args=False,
        )

    def _log_density_constant(self) -> Tensor:
        return -self.scale.log() - (HALF_LOG_2PI if self.normalised else 0.0)


class GaussianImage(_SlotImageDistribution):
    r"""Gaussian image likelihood (Emami et al. 2023, equation 3).

    .. math:: p(x \mid z) = \mathcal{N}\big(x;\ \textstyle\sum_k m_k \mu_k,\ \sigma^2\big)

    Args:
        rgb: Slot colours mu [.., K, 3, H, W].
        log_masks: Log mask probabilities [.., K, 1, H, W], normalised over K.
        scale: The pixel standard deviation sigma.
        normalised: False drops 0.5 ln(2 pi) per value, as EMORL's published objective does.
    """

    @property
    def variance(self) -> Tensor:
        """sigma^2 everywhere, [.., 3, H, W]."""
        return self.scale.square().expand(self.shape())

    def log_prob(self, value: Tensor) -> Tensor:
        """Images [.., 3, H, W] -> nats per image [..]."""
        if self._validate_args:
            self._validate_sample(value)
        residual = (value - self.mean) / self.scale
        constant = self._log_density_constant() * math.prod(self.event_shape)
        return constant - 0.5 * residual.square().sum((-3, -2, -1))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Images sample_shape + [.., 3, H, W]; not clipped to [0, 1]."""
        with torch.no_grad():
            return torch.normal(self.mean.expand(self.shape(sample_shape)), self.scale)


class MixtureImage(_SlotImageDistribution):
    r"""Mixture-of-Gaussians image likelihood (Emami et al. 2023, equation 4).

    .. math:: p(x \mid z) = \prod_i \sum_k m_{ik}\, \mathcal{N}(x_i;\ \mu_{ik},\ \sigma^2)

    With `mixture="channel"`, i runs over pixels and colour channels, as in every published implementation and number.
    With `mixture="pixel"`, it runs over pixels, as in the equation: a pixel's three channels share one component.

    Args:
        rgb: Slot colours mu [.., K, 3, H, W].
        log_masks: Log mask probabilities [.., K, 1, H, W], normalised over K.
        scale: The pixel standard deviation sigma, or one for each slot [K, 1, 1, 1] (GENESIS).
        mixture: "channel" or "pixel".
        normalised: False drops 0.5 ln(2 pi) per value.
    """

    def __init__(
        self,
        rgb: Tensor,
        log_masks: Tensor,
        scale: Tensor | float,
        *,
        mixture: Literal["channel", "pixel"] = "channel",
        normalised: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.mixture = mixture
        super().__init__(rgb, log_masks, scale, normalised=normalised, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MixtureImage":
        """The same distribution over a larger batch."""
        expanded = super().expand(batch_shape)
        assert isinstance(expanded, MixtureImage)
        expanded.mixture = self.mixture
        return expanded

    @property
    def variance(self) -> Tensor:
        """sigma^2 plus the spread of the slots' colours, [.., 3, H, W]."""
        spread = (self.rgb - self.mean.unsqueeze(-4)).square()
        return (self.log_masks.exp() * (self.scale.square() + spread)).sum(-4)

    def log_prob(self, value: Tensor) -> Tensor:
        """Images [.., 3, H, W] -> nats per image [..]."""
        if self._validate_args:
            self._validate_sample(value)
        log_density = -0.5 * ((value.unsqueeze(-4) - self.rgb) / self.scale).square()  # [.., K, 3, H, W]
        constant = self._log_density_constant()
        if constant.dim():  # one for each slot: it belongs inside the mixture
            log_density = log_density + constant
            constant = constant.new_zeros(())
        if self.mixture == "pixel":
            log_density = log_density.sum(-3, keepdim=True)  # [.., K, 1, H, W]
        log_prob = (self.log_masks + log_density).logsumexp(-4).sum((-3, -2, -1))
        return constant * math.prod(self.event_shape) + log_prob

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Images sample_shape + [.., 3, H, W]; not clipped to [0, 1]."""
        with torch.no_grad():
            channels = 3 if self.mixture == "channel" else 1
            logits = self.log_masks.expand(*self.log_masks.shape[:-3], channels, *self.log_masks.shape[-2:])
            logits = logits.movedim(-4, -1)  # [.., channels, H, W, K]
            slots = torch.distributions.Categorical(logits=logits, validate_args=False).sample(sample_shape)
            slots = slots.expand(self.shape(sample_shape)).unsqueeze(-4)  # [.., 1, 3, H, W]

            def of_the_slots(values: Tensor) -> Tensor:
                return values.expand(*sample_shape, *self.rgb.shape).gather(-4, slots).squeeze(-4)

            return torch.normal(of_the_slots(self.rgb), of_the_slots(self.scale))


@dataclass(frozen=True, kw_only=True)
class ImageLikelihood:
    """The p(x | z) of a model.

    Attributes:
        kind: "mog" (MixtureImage) or "gaussian" (GaussianImage).
        pixel_std: sigma, positive.
        first_pixel_std: sigma of the first slot ("mog" only), the same if None.
        normalised: Whether densities include the constant 0.5 ln(2 pi) per value.
        mixture: "channel" or "pixel" ("mog" only); see `MixtureImage`.

    Raises:
        ValueError: If the kind or mixture is unknown, a sigma is not positive and finite, or a Gaussian has two.
    """

    kind: Literal["mog", "gaussian"] = "mog"
    pixel_std: float = 0.7
    first_pixel_std: float | None = None
    normalised: bool = True
    mixture: Literal["channel", "pixel"] = "channel"

    def __post_init__(self) -> None:
        if self.kind not in ("mog", "gaussian") or self.mixture not in ("channel", "pixel"):
            raise ValueError(f"unknown image likelihood '{self.kind}' with a mixture per '{self.mixture}'")
        for std in (self.pixel_std, self.first_pixel_std):
            if std is not None and not 0 < std < math.inf:
                raise ValueError(f"the pixel standard deviation is {std}: it must be positive and finite")
        if self.kind == "gaussian" and self.first_pixel_std is not None:
            raise ValueError("a Gaussian image likelihood has one pixel standard deviation, not two")

    @property
    def pixel_stds(self) -> tuple[float, ...]:
        """Every sigma that a slot may have."""
        return tuple({self.pixel_std, self.first_pixel_std or self.pixel_std})

    @property
    def nll_floor(self) -> float:
        """The lowest possible -log p(x | z), in nats per pixel and channel: ln(sigma sqrt(2 pi)), or ln(sigma)."""
        return self.nats(0.0)

    def nats(self, squared_error: float) -> float:
        """NLL in nats per pixel and channel of an image with this mean squared error, painted by the best slot.

        This is ln(sigma) + squared_error / (2 sigma^2), and 0.5 ln(2 pi) if normalised. If the first slot has its own
        sigma, it is the smaller of the two values.
        """
        nats = min(math.log(std) + squared_error / (2 * std**2) for std in self.pixel_stds)
        return nats + (HALF_LOG_2PI if self.normalised else 0.0)

    def squared_error(self, nats: float) -> float:
        """The mean squared error for such an NLL: the inverse of `nats`. Negative below the floor."""
        nats = nats - (HALF_LOG_2PI if self.normalised else 0.0)
        return max((nats - math.log(std)) * 2 * std**2 for std in self.pixel_stds)

    def __call__(self, rgb: Tensor, log_masks: Tensor) -> GaussianImage | MixtureImage:
        """The distribution of images given slot colours [.., K, 3, H, W] and log masks [.., K, 1, H, W]."""
        if self.kind == "gaussian":
            return GaussianImage(rgb, log_masks, self.pixel_std, normalised=self.normalised)
        scale: Tensor | float = self.pixel_std
        if self.first_pixel_std is not None:
            scale = in_single(rgb).new_full((rgb.shape[-4], 1, 1, 1), self.pixel_std)
            scale[0].fill_(self.first_pixel_std)  # an assignment would copy the number from the host
        return MixtureImage(rgb, log_masks, scale, normalised=self.normalised, mixture=self.mixture)
