"""AIR and DAIR."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pyro_sri.config.run import RunConfig
from pyro_sri.config.shared import SMALL_SIZES
from pyro_sri.guides.air import AIRGuide
from pyro_sri.models.air import AIRModel
from pyro_sri.objectives import AIR_ELBO, EnumeratedAIR_ELBO, PresenceAnnealing, TermsELBO
from pyro_sri.programs import join


@dataclass(frozen=True, kw_only=True)
class AIRConfig(RunConfig):
    """Attend, Infer, Repeat (Eslami et al. 2016), and its differential variant: objects one after another."""

    system: ClassVar[str] = "air"
    tiny_fields: ClassVar[Mapping[str, Any]] = {"window_size": 8, "code_size": 8, "hidden_size": 8, "layer_size": 8}

    num_slots: int = 3
    """T, the largest number of objects in a scene."""
    window_size: int = 24
    """Side of an object's window in pixels."""
    code_size: int = 50
    """Size of z_what, the code of an object's appearance."""
    hidden_size: int = 256
    """Units of the guide's LSTM, and of the layer before it."""
    layer_size: int = 200
    """Units of the layers that read and draw windows."""
    differential: bool = False
    """DAIR: each step sees only the part of the image that is not yet explained, instead of the whole image."""

    presence_prior: float = 0.5
    """Prior probability of another object, at every step."""
    scale_mean: float = 2.0
    """Prior mean of an object's scale. Its window is this many times smaller than the image."""
    scale_std: float = 0.1
    """Prior standard deviation of the scale."""
    position_std: float = 0.5
    """Prior standard deviation of x and y, in units of half the image side."""
    pixel_std: float = 0.3
    """sigma, the pixel standard deviation of the grey image."""
    decoder_bias: float = -2.0
    """Bias before the decoder's sigmoid. A negative value makes windows start dark."""

    estimator: Literal["enumerated", "score"] = "enumerated"
    """Gradient for the number of objects: summed out in closed form (enumerated), or the score function with baselines,
    as published (score)."""
    annealing_steps: int = 2_000
    """Steps over which the weight of KL_pres falls to 1; 0 keeps it at 1."""
    annealing_weight: float = 100.0
    """Initial weight of KL_pres. A large value makes objects costly until they are drawn well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ["num_slots", "window_size", "code_size", "hidden_size", "layer_size"]
        spreads = ["scale_mean", "scale_std", "position_std", "pixel_std", "annealing_weight"]
        self.require([*sizes, *spreads], lambda value: value > 0, "positive")
        self.require(["presence_prior"], lambda value: 0 < value < 1, "between 0 and 1")
        self.require(["annealing_steps"], lambda value: value >= 0, "0 or more")
        self.require(["image_size"], lambda value: value in self.image_sizes, "from 32 to 128")

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that make sense; its networks take any."""
        return SMALL_SIZES

    def build(self) -> tuple[AIRModel, AIRGuide, TermsELBO]:
        """A new model, its guide, and the objective."""
        model = AIRModel(
            image_size=self.image_size,
            num_slots=self.num_slots,
            window_size=self.window_size,
            code_size=self.code_size,
            decoder_sizes=(self.layer_size,),
            decoder_bias=self.decoder_bias,
            presence_prior=(self.presence_prior,),
            scale_prior=(self.scale_mean, self.scale_std),
            position_prior=(0.0, self.position_std),
            pixel_std=self.pixel_std,
        )
        guide = AIRGuide(
            model,
            hidden_size=self.hidden_size,
            embed_sizes=(self.hidden_size,),
            encoder_sizes=(self.layer_size,),
            differential=self.differential,
            baseline_sizes=(self.layer_size,),
            baseline_scale=1.0 if self.estimator == "score" else None,
        )
        annealing = None
        if self.annealing_steps:
            annealing = PresenceAnnealing(self.annealing_steps, weight=self.annealing_weight)
        elbo = (AIR_ELBO if self.estimator == "score" else EnumeratedAIR_ELBO)(annealing=annealing)
        join(guide, elbo)
        return model, guide, elbo
