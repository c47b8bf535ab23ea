"""Attend, Infer, Repeat: a varying number of objects on black (Eslami et al. 2016)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import Bernoulli, MaskedDistribution
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_sri.distributions import HALF_LOG_2PI, StandardNormal, diagonal_normal, scale_like
from pyro_sri.models.image import batch_size
from pyro_sri.nn import WindowDecoder, in_single, place_windows
from pyro_sri.programs import Latents, Program, Record


class GreyImage(TorchDistribution):
    r"""Grey images with independent Gaussian pixels, shown as three equal channels.

    .. math:: p(x) = \mathcal{N}(\bar x;\ \mu,\ \sigma^2), \quad \bar x = \text{the mean of the three channels of } x

    A density over the grey images: each pixel counts once, not three times.

    Args:
        mean_image: mu [.., H, W].
        scale: The pixel standard deviation sigma.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "mean_image": constraints.independent(constraints.real, 2),
        "scale": constraints.positive,
    }
    support = constraints.independent(constraints.real, 3)
    has_rsample = False
    log_normaliser = 0.0

    def __init__(self, mean_image: Tensor, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        self.mean_image = in_single(mean_image)
        self.scale = scale_like(self.mean_image, scale)
        super().__init__(mean_image.shape[:-2], torch.Size([3, *mean_image.shape[-2:]]), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """mu in all three channels, [.., 3, H, W]."""
        return as_rgb(self.mean_image)

    @property
    def variance(self) -> Tensor:
        """sigma^2 everywhere, [.., 3, H, W]."""
        return self.scale.square().expand(self.shape())

    @property
    def nll_floor(self) -> float:
        """The lowest possible -log p(x | z): HW ln(sigma sqrt(2 pi)) nats, for a perfect reconstruction."""
        return math.prod(self.mean_image.shape[-2:]) * (HALF_LOG_2PI + float(self.scale.log()))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GreyImage":
        """The same distribution over a larger batch."""
        return GreyImage(
            self.mean_image.expand(*batch_shape, *self.mean_image.shape[-2:]), self.scale, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Images [.., 3, H, W] -> nats per image [..]."""
        if self._validate_args:
            self._validate_sample(value)
        residual = (as_grey(value) - self.mean_image) / self.scale
        constant = math.prod(self.mean_image.shape[-2:]) * (HALF_LOG_2PI + self.scale.log())
        return -0.5 * residual.square().sum((-2, -1)) - constant

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Images sample_shape + [.., 3, H, W]; not clipped to [0, 1]."""
        with torch.no_grad():
            return as_rgb(torch.normal(self.mean_image.expand(*sample_shape, *self.mean_image.shape), self.scale))


def as_grey(images: Tensor) -> Tensor:
    """The mean of the channels: [.., 3, H, W] -> [.., H, W]."""
    return images.mean(-3)


def as_rgb(images: Tensor) -> Tensor:
    """Three equal channels: [.., H, W] -> [.., 3, H, W]."""
    return images.unsqueeze(-3).expand(*images.shape[:-2], 3, *images.shape[-2:])


def normal_if(present: Tensor, loc: Tensor, scale: Tensor) -> MaskedDistribution:
    """Normal(loc, diag(scale^2)) over [D], scored only in scenes where something is present [B]."""
    shape = (len(present), -1)
    return diagonal_normal(loc.expand(shape), scale.expand(shape)).mask(present.bool())


class AIRModel(Program):
    r"""Objects one after another, until there are no more. Each has a place and a code, and is drawn into a window.

    .. math::
        z^{pres}_t &\sim \mathrm{Bernoulli}(p_t\, z^{pres}_{t-1}), \quad z^{pres}_{-1} = 1, \quad t = 0 .. T-1 \\
        z^{where}_t &\sim \mathcal{N}(\mu, \mathrm{diag}(\sigma^2)) \quad\text{(scale, x, y)} \\
        z^{what}_t &\sim \mathcal{N}(0, I) \\
        y_t &= \mathrm{place}(\mathrm{sigmoid}(\mathrm{MLP}(z^{what}_t)),\ z^{where}_t) \\
        \bar x &\sim \mathcal{N}\big(\textstyle\sum_t z^{pres}_t y_t,\ \sigma_x^2\big)

    (equation 1. Presence is monotone, so its T bits are the number of objects n in unary. p_t may be geometric.)
    z_where and z_what are scored only where their object is present. The image x is grey; see `GreyImage`.

    Sites, in the plate `scenes`: `z_pres_t` [], `z_where_t` [3], `z_what_t` [code_size] for t = 0 .. T-1,
    `image` [3, H, W]; deterministic `slot_rgb` [T, 3, H, W], the placed windows of the objects that are present, which
    add up to `reconstruction` [3, H, W]; `slot_masks` [T, 1, H, W], how opaque each object is on black, which is its
    brightness, or less where the sum exceeds white. They do not cover the background, so they add up to at most 1.

    Args:
        image_size: Image side H = W.
        num_slots: T, the largest number of objects.
        window_size: Side of the windows in pixels.
        code_size: Size of z_what.
        decoder_sizes: Widths of the decoder's hidden layers.
        decoder_bias: Added before the decoder's sigmoid. With negative values, windows start dark.
        presence_prior: p_t of the steps, strictly between 0 and 1. The last value is used for all further steps.
        scale_prior: Mean and standard deviation of an object's scale. At scale s, its window is 1/s of the image.
        position_prior: Mean and standard deviation of x and y.
        pixel_std: sigma_x.
        name: Root of the parameters' names in Pyro's store.

    Raises:
        ValueError: On probabilities or standard deviations out of range.
    """

    where_loc: Tensor
    where_scale: Tensor

    record = Record(
        (
            Latents("z_pres_{k}", "kl_pres", "presence"),
            Latents("z_where_{k}", "kl_where", code=False, dimensions=("scale", "x", "y")),
            Latents("z_what_{k}", "kl_what", code=False, label="what"),
        )
    )

    def __init__(
        self,
        *,
        image_size: int,
        num_slots: int = 3,
        window_size: int = 28,
        code_size: int = 50,
        decoder_sizes: Sequence[int] = (200,),
        decoder_bias: float = -2.0,
        presence_prior: Sequence[float] = (0.5,),
        scale_prior: tuple[float, float] = (3.0, 0.2),
        position_prior: tuple[float, float] = (0.0, 1.0),
        pixel_std: float = 0.3,
        name: str = "air_model",
    ) -> None:
        super().__init__(name, num_slots, image_size)
        if not presence_prior or not all(0 < p < 1 for p in presence_prior):
            raise ValueError(
                f"presence probabilities {tuple(presence_prior)} must not be empty, and must lie between 0 and 1"
            )
        if not min(scale_prior[1], position_prior[1], pixel_std) > 0:
            raise ValueError("the standard deviations of scale, position and pixels must be positive")
        self.presence_prior = tuple(presence_prior)
        self.pixel_std = pixel_std
        self.decoder = WindowDecoder(code_size, decoder_sizes, window_size, decoder_bias)
        (scale_mean, scale_std), (position_mean, position_std) = scale_prior, position_prior
        where = {"where_loc": [scale_mean, position_mean, position_mean]}
        where["where_scale"] = [scale_std, position_std, position_std]
        for buffer, values in where.items():
            self.register_buffer(buffer, torch.tensor(values), persistent=False)
        self.what_prior = StandardNormal(code_size)

    def presence_dist(self, step: int, before: Tensor) -> Bernoulli:
        """p(z_pres_t | z_pres_{t-1}), [B]. There can only be an object if there was one at the step before."""
        return Bernoulli(before * self.presence_prior[min(step, len(self.presence_prior) - 1)])

    def where_dist(self, present: Tensor, temperature: float = 1.0) -> MaskedDistribution:
        """p(z_where), [B, 3], scored where present [B]."""
        return normal_if(present, self.where_loc, temperature * self.where_scale)

    def what_dist(self, present: Tensor, temperature: float = 1.0) -> MaskedDistribution:
        """p(z_what), [B, code_size], scored where present [B]."""
        return normal_if(present, self.what_prior.loc, temperature * self.what_prior.scale)

    def forward(
        self,
        images: Tensor | None = None,
        num_scenes: int | None = None,
        *,
        num_slots: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """The generative story.

        Args:
            images: Observed images [B, 3, H, W] in [0, 1]; None to sample them.
            num_scenes: Number of scenes to sample when there are no images.
            num_slots: The largest number of objects, T if None; any number works.
            temperature: Factor on the standard deviations of z_where and z_what.

        Returns:
            Images [B, 3, H, W].
        """
        num_scenes = batch_size(images, num_scenes)
        with pyro.plate("scenes", num_scenes):
            presence = self.where_loc.new_ones(num_scenes)
            objects = []
            for t in range(self.num_slots if num_slots is None else num_slots):
                presence = pyro.sample(f"z_pres_{t}", self.presence_dist(t, presence))  # [B]
                where = pyro.sample(f"z_where_{t}", self.where_dist(presence, temperature))  # [B, 3]
                what = pyro.sample(f"z_what_{t}", self.what_dist(presence, temperature))  # [B, code_size]
                objects.append(presence[:, None, None] * place_windows(self.decoder(what), where, self.image_size))
            drawn = torch.stack(objects, 1)  # [B, T, H, W]
            canvas = drawn.sum(1)
            opacity = drawn / canvas.clamp(min=1)[:, None]
            pyro.deterministic("slot_rgb", as_rgb(drawn), event_dim=4)
            pyro.deterministic("slot_masks", opacity[:, :, None], event_dim=4)
            pyro.deterministic("reconstruction", as_rgb(canvas), event_dim=3)
            return pyro.sample("image", GreyImage(canvas, self.pixel_std), obs=images)
