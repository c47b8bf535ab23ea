"""EMORL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_sri.config.run import RunConfig
from pyro_sri.config.shared import (
    LARGE_SIZES,
    GoalFields,
    LikelihoodFields,
    RefinementFields,
    check_posterior_scale,
    decoder_sizes,
)
from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.models.emorl import EMORLModel, HierarchicalPriorKind
from pyro_sri.nn import Initialisation, PixelFeaturesKind, SlotDecoderKind, initialise
from pyro_sri.objectives import EMORL_ELBO
from pyro_sri.programs import join


@dataclass(frozen=True, kw_only=True)
class EMORLConfig(GoalFields, RefinementFields, LikelihoodFields, RunConfig):
    """EfficientMORL (Emami et al. 2021): bottom-up hierarchical inference, then a few steps of refinement."""

    system: ClassVar[str] = "emorl"
    tiny_fields: ClassVar[Mapping[str, Any]] = {"num_slots": 3, "slot_size": 8, "num_layers": 2}

    num_slots: int = 7
    """K, the number of slots, including the background."""
    slot_size: int = 64
    """D, the size of a slot."""
    num_layers: int = 3
    """L, the number of layers of bottom-up inference."""
    prior: HierarchicalPriorKind = "rpp"
    """Hierarchical prior: reversed++ (rpp), reversed (rev) or bottom-up (bu)."""
    dual_gru: bool = True
    """Separate GRU cells for means and scales, as published."""
    features: PixelFeaturesKind = "convolutions"
    """What slots attend to: the published convolutions, or picture (each pixel's colour and position, and a smaller
    network), which separates simple images sooner."""
    decoder: SlotDecoderKind = "iodine"
    """One of the published decoders (iodine, big, small), or genesis_v2, which costs much less. big and genesis_v2 need
    image sizes that are multiples of 16."""
    init: Initialisation = "official"
    """Initial weights: as in the published code (official), Xavier with gain 1 (xavier), or PyTorch's defaults."""
    posterior_scale_init: float = 0.0
    """Initial standard deviation of the first layer's slot posteriors; later layers start narrower. 0 keeps the
    networks' default (about 0.9)."""

    pixel_std: float = 0.1
    """sigma, the pixel standard deviation."""
    normalised: bool = False
    """Whether densities include the constant 0.5 ln(2 pi) per value. GECO's target depends on it."""

    geco: bool = True
    """Weigh the reconstruction with a GECO controller, as published."""
    geco_target: float = -2.206
    """Target for the NLL, in nats per pixel and channel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_likelihood()
        self.require(["num_slots", "slot_size", "num_layers"], lambda value: value > 0, "positive")
        check_posterior_scale(self)
        self.check_refinement()
        self.check_goal()
        what = "a multiple of 16" if self.image_sizes == LARGE_SIZES else "from 32 to 128"
        self.require(["image_size"], lambda value: value in self.image_sizes, what)

    @property
    def idle_parameters(self) -> bool:
        """Those of the refinement, in steps that do not refine."""
        return not self.refines_always or super().idle_parameters

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the decoder takes."""
        return decoder_sizes(self.decoder)

    def build(self) -> tuple[EMORLModel, EMORLGuide, EMORL_ELBO]:
        """A new model, its guide, and the objective."""
        model = EMORLModel(
            image_size=self.image_size,
            num_slots=self.num_slots,
            slot_size=self.slot_size,
            num_layers=self.num_layers,
            prior=self.prior,
            likelihood=self.image_likelihood(),
            decoder=self.decoder,
        )
        guide = EMORLGuide(model, dual_gru=self.dual_gru, features=self.features, refinement_steps=0)
        for module in (model, guide):
            initialise(module, self.init)
        if self.posterior_scale_init:
            guide.start_scales_at(self.posterior_scale_init)
        elbo = EMORL_ELBO(geco=self.new_emorl_geco() if self.geco else None, curriculum=self.curriculum())
        join(guide, elbo)
        return model, guide, elbo
