"""Fields that several systems have."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.nn import ColourStart, InstanceColours, Kernel
from pyro_sri.objectives import GECO, EmorlGECO, GenesisGECO, MaskKL

# Image sizes of networks that take any, and of those that double a broadcast four times.
SMALL_SIZES = tuple(range(32, 129))
LARGE_SIZES = tuple(range(32, 129, 16))


@dataclass(frozen=True, kw_only=True)
class LikelihoodFields:
    """p(x | z) of slots."""

    likelihood: Literal["mog", "gaussian"] = "mog"
    """Image likelihood p(x | z): a mixture of Gaussians, or one Gaussian around the mask-weighted mean."""
    pixel_std: float = 0.7
    """sigma, the pixel standard deviation."""
    normalised: bool = True
    """Whether densities include the constant 0.5 ln(2 pi) per value. GECO's target depends on it."""
    mixture: Literal["channel", "pixel"] = "channel"
    """One mixture per pixel and channel (as in all published numbers) or one per pixel (as in the equation)."""

    def image_likelihood(self) -> ImageLikelihood:
        """The likelihood."""
        return ImageLikelihood(
            kind=self.likelihood, pixel_std=self.pixel_std, normalised=self.normalised, mixture=self.mixture
        )

    def check_likelihood(self: Any) -> None:
        """Raises UserError for values out of range."""
        self.require(["pixel_std"], lambda value: value >= 1e-6, "0.000001 or more")


@dataclass(frozen=True, kw_only=True)
class SegregationFields:
    """How GENESIS-v2 segregates an image into slots, as SRI's first stage and on its own."""

    kernel: Kernel = "gaussian"
    """Kernel of the instance colouring."""
    colour_start: ColourStart = "position"
    """What the instance colours start from: nothing (none), each pixel's position (position, as published), its colour
    and position (picture, where the first masks are compact pieces of one colour), or its contrast to the image's
    median colour (contrast)."""
    gate_init: float = 0.0
    """Initial value of the gate on the network's contribution to the instance colours. With 0 the first masks are
    circles."""
    colour_scale_init: float = 1.0
    """Factor on the initial weights of the instance colours. Smaller values make the first masks larger."""
    colour_weight: float = 0.9
    """Weight of a pixel's colour if instance colours start from picture or contrast."""
    position_weight: float = 0.08
    """Weight of a pixel's position if instance colours start from picture or contrast."""
    learn_masks: bool = True
    """Train the instance colours. If off, attention masks stay as they start."""
    coordinates: bool = False
    """Give the slot head each pixel's coordinates (CoordConv); the published networks do not."""
    posterior_scale_init: float = 0.0
    """Initial standard deviation of the slot posteriors; 0 keeps the networks' default (about 0.9)."""
    mask_kl: MaskKL = "none"
    """Add a KL from attention masks to decoded masks. Its gradient goes to both (attached), to the attention masks only
    (detached), or to the decoder only (decoder), which keeps the background in one slot."""

    def instance_colours(self) -> InstanceColours:
        """Start and kernel of the instance colours."""
        return InstanceColours(
            start=self.colour_start,
            gate=self.gate_init,
            colour_weight=self.colour_weight,
            position_weight=self.position_weight,
            kernel=self.kernel,
            learn=self.learn_masks,
        )

    def start_slots(self, guide: GenesisV2Guide, posteriors: GenesisV2Guide | SRIGuide) -> None:
        """Sets the starting values that the fields ask for, after the networks are initialised.

        Args:
            guide: What segregates.
            posteriors: What holds the slot posteriors' scales.
        """
        with torch.no_grad():
            guide.stick_breaking.colour_head.conv.weight.mul_(self.colour_scale_init)
        if self.posterior_scale_init:
            posteriors.start_scales_at(self.posterior_scale_init)

    def check_segregation(self: Any) -> None:
        """Raises UserError for values out of range."""
        self.require(["colour_scale_init"], lambda value: value > 0, "positive")
        self.require(["colour_weight", "position_weight"], lambda value: value >= 0, "0 or more")
        self.require(
            ["posterior_scale_init"], lambda value: value == 0 or 1e-3 <= value <= 10, "0, or from 0.001 to 10"
        )


@dataclass(frozen=True, kw_only=True)
class GECOFields:
    """The controller of the KL weight."""

    geco: Literal["genesis", "emorl", "none"] = "genesis"
    """Controller of the KL weight."""
    geco_target: float = 0.5655
    """Target for the NLL, in nats per pixel and channel."""
    geco_step: float = 1e-6
    """Step size of the controller, stated for 64x64 images."""
    geco_speedup: float = 10.0
    """Factor on the step size once the target is met."""
    beta_init: float = 1.0
    """Initial KL weight (GENESIS style)."""
    beta_min: float = 1e-10
    """Lower bound of the KL weight (GENESIS style)."""
    beta_max: float = 1e10
    """Upper bound of the KL weight (GENESIS style); 1 is the weight in the ELBO."""

    def new_geco(self, image_size: int) -> GECO | None:
        """A new controller."""
        shared: dict[str, Any] = {"target": self.geco_target, "image_size": image_size, "step_size": self.geco_step}
        if self.geco == "genesis":
            return GenesisGECO(
                **shared,
                speedup=self.geco_speedup,
                beta_init=self.beta_init,
                beta_min=self.beta_min,
                beta_max=self.beta_max,
            )
        return EmorlGECO(**shared, acceleration=self.geco_speedup) if self.geco == "emorl" else None

    def check_geco(self: Any) -> None:
        """Raises UserError for values out of range."""
        self.require(
            ["geco_step", "geco_speedup", "beta_init", "beta_min", "beta_max"], lambda value: value > 0, "positive"
        )
        self.require(["beta_max"], lambda value: value >= self.beta_min, "at least --beta-min")
