"""Fields that several systems share."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.nn import ColourStart, InstanceColours, Kernel, SlotDecoderKind
from pyro_sri.objectives import GECO, EmorlGECO, GenesisGECO, MaskKL
from pyro_sri.system.errors import UserError

# Image sizes for networks that take any size, and for those that double a broadcast four times.
SMALL_SIZES = tuple(range(32, 129))
LARGE_SIZES = tuple(range(32, 129, 16))

GREY = 0.25  # the mean squared error of a grey image is at most this, for any target image


def decoder_sizes(decoder: SlotDecoderKind) -> tuple[int, ...]:
    """The image sizes that a decoder takes."""
    return LARGE_SIZES if decoder in ("big", "genesis_v2") else SMALL_SIZES


def check_posterior_scale(config: Any) -> None:
    """Raises UserError if `posterior_scale_init` is out of range."""
    config.require(["posterior_scale_init"], lambda value: value == 0 or 1e-3 <= value <= 10, "0, or from 0.001 to 10")


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
    and position (picture; the first masks are then compact pieces of one colour), or its contrast to the image's median
    colour (contrast)."""
    gate_init: float = 0.0
    """Initial value of the gate on the network's contribution to the instance colours. With 0, the first masks are
    circles."""
    colour_scale_init: float = 1.0
    """Factor on the initial weights of the instance colours. Smaller values make the first masks larger."""
    colour_weight: float = 0.9
    """Weight of a pixel's colour if instance colours start from picture or contrast."""
    position_weight: float = 0.08
    """Weight of a pixel's position if instance colours start from picture or contrast."""
    learn_masks: bool = True
    """Train the instance colours. If off, the attention masks are those that the initial colours give."""
    coordinates: bool = False
    """Give the slot head each pixel's coordinates (CoordConv). The published networks do not."""
    posterior_scale_init: float = 0.0
    """Initial standard deviation of the slot posteriors. 0 keeps the networks' default (about 0.9)."""
    mask_kl: MaskKL = "none"
    """Add a KL from attention masks to decoded masks. Its gradient goes to both (attached), to the attention masks only
    (detached), or to the decoded masks only (decoder), which keeps the background in one slot."""

    def instance_colours(self) -> InstanceColours:
        """How the instance colours start, and their kernel."""
        return InstanceColours(
            start=self.colour_start,
            gate=self.gate_init,
            colour_weight=self.colour_weight,
            position_weight=self.position_weight,
            kernel=self.kernel,
            learn=self.learn_masks,
        )

    def start_colours(self, guide: GenesisV2Guide) -> None:
        """Scales the weights of the instance colours, after the networks are initialised."""
        with torch.no_grad():
            guide.stick_breaking.colour_head.conv.weight.mul_(self.colour_scale_init)

    def check_segregation(self: Any) -> None:
        """Raises UserError for values out of range."""
        self.require(["colour_scale_init"], lambda value: value > 0, "positive")
        self.require(["colour_weight", "position_weight"], lambda value: value >= 0, "0 or more")
        check_posterior_scale(self)


@dataclass(frozen=True, kw_only=True)
class RefinementFields:
    """EMORL's refinement steps in the course of a run."""

    refinement_steps: int = 3
    """I, EMORL's refinement steps at the start of training. Evaluation does not refine."""
    later_refinement_steps: int = 3
    """Refinement steps from step --refinement-drop on."""
    refinement_drop: int = 0
    """Step from which --later-refinement-steps applies; 0 turns this off."""

    def curriculum(self) -> list[tuple[int, int]]:
        """Pairs of a step, and I from that step on."""
        later = [(self.refinement_drop, self.later_refinement_steps)] if self.refinement_drop else []
        return [(0, self.refinement_steps), *later]

    @property
    def refines_always(self) -> bool:
        """Whether every training step refines."""
        return all(steps for _, steps in self.curriculum())

    def check_refinement(self: Any) -> None:
        """Raises UserError for values out of range."""
        steps = ["refinement_steps", "later_refinement_steps", "refinement_drop"]
        self.require(steps, lambda value: value >= 0, "0 or more")


class UnreachableGoal(UserError):
    """GECO's goal can never be reached, or is always reached."""


@dataclass(frozen=True, kw_only=True)
class GoalFields:
    """GECO's target, and how GECO moves."""

    geco_target: float = 0.5655
    """Target for the NLL, in nats per pixel and channel."""
    geco_mse: float = 0.0
    """Target given as a mean squared error, which does not depend on the likelihood. It is used instead of
    --geco-target, unless it is 0 or only --geco-target is given."""
    geco_unreachable: bool = False
    """Accept a target that the likelihood cannot reach, as in EMORL's release on Tetrominoes."""
    geco_step: float = 1e-6
    """Step size of the controller, for 64x64 images."""
    geco_scaled: bool = True
    """Adapt the step size to the image size, with which the target grows. EMORL's release does not."""
    geco_warm_start: int = 0
    """Number of steps with the plain ELBO at the start, before the controller begins."""
    geco_speedup: float = 10.0
    """Factor on the step size while the target is met; 1 turns this off."""

    @property
    def uses_geco(self: Any) -> bool:
        """Whether a controller weights the terms."""
        return self.geco not in ("none", False)

    @property
    def goal(self: Any) -> float:
        """The goal for the NLL, in nats per pixel and channel."""
        return self.image_likelihood().nats(self.geco_mse) if self.geco_mse else self.geco_target

    @property
    def goal_floor(self: Any) -> float:
        """The lower bound of the NLL, in nats per pixel and channel."""
        return self.image_likelihood().nll_floor

    @property
    def goal_mse(self: Any) -> float:
        """The goal as a mean squared error; negative if no error reaches it."""
        return self.geco_mse or self.image_likelihood().squared_error(self.geco_target)

    def geco_shared(self: Any) -> dict[str, Any]:
        """Arguments of all controllers."""
        return {
            "target": self.goal,
            "image_size": self.image_size,
            "step_size": self.geco_step,
            "scaled": self.geco_scaled,
            "warm_start": self.geco_warm_start,
        }

    def new_emorl_geco(self: Any) -> EmorlGECO:
        """A new controller of EMORL's kind."""
        return EmorlGECO(**self.geco_shared(), acceleration=self.geco_speedup)

    def check_goal(self: Any) -> None:
        """Raises UserError for values out of range, and UnreachableGoal for a goal that is never or always met."""
        self.require(["geco_step", "geco_speedup"], lambda value: value > 0, "positive")
        self.require(["geco_mse", "geco_warm_start"], lambda value: value >= 0, "0 or more")
        if not self.uses_geco or self.geco_unreachable:
            return
        floor, given = self.goal_floor, f"--geco-target {self.geco_target:g}"
        first = self.image_likelihood().first_pixel_std
        means = f"--pixel-std {self.pixel_std:g}{'' if first is None else f', --first-pixel-std {first:g}'}"
        means += "" if self.normalised else ", --no-normalised"
        if self.goal_mse <= 0:
            raise UnreachableGoal(
                f"{given} can never be met: the NLL is above {floor:.4f} nats per pixel and channel with {means}; "
                "give the target as a mean squared error with --geco-mse"
            )
        if self.goal_mse >= GREY:
            raise UnreachableGoal(
                f"{f'--geco-mse {self.geco_mse:g}' if self.geco_mse else given} is met by a grey image: with "
                f"{means} it is a mean squared error of {self.goal_mse:.2g}; use a smaller --geco-mse"
            )


@dataclass(frozen=True, kw_only=True)
class GECOFields:
    """The controller of the KL weight."""

    geco: Literal["genesis", "emorl", "none"] = "genesis"
    """Controller of the KL weight."""
    beta_init: float = 1.0
    """Initial KL weight (GENESIS style)."""
    beta_min: float = 1e-10
    """Lower bound of the KL weight (GENESIS style)."""
    beta_max: float = 1e10
    """Upper bound of the KL weight (GENESIS style); 1 is the weight in the ELBO."""

    def new_geco(self: Any) -> GECO | None:
        """A new controller."""
        if self.geco == "genesis":
            return GenesisGECO(
                **self.geco_shared(),
                speedup=self.geco_speedup,
                beta_init=self.beta_init,
                beta_min=self.beta_min,
                beta_max=self.beta_max,
            )
        return self.new_emorl_geco() if self.geco == "emorl" else None

    def check_geco(self: Any) -> None:
        """Raises UserError for values out of range."""
        self.require(["beta_init", "beta_min", "beta_max"], lambda value: value > 0, "positive")
        self.require(["beta_max"], lambda value: value >= self.beta_min, "at least --beta-min")
        self.check_goal()
