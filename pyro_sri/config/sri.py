"""SRI, with any segregation, and the ablations of its paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pyro.nn import PyroModule

from pyro_sri.config.run import Cycle, RunConfig
from pyro_sri.config.shared import (
    LARGE_SIZES,
    SMALL_SIZES,
    GECOFields,
    GoalFields,
    LikelihoodFields,
    RefinementFields,
    SegregationFields,
    decoder_sizes,
)
from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.emorl import EMORLGuide
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.matching import Matching, MatchOn
from pyro_sri.models.emorl import EMORLModel
from pyro_sri.models.genesis_v2 import IndependentSlotModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import IMAGE_SIZES, Initialisation, PixelFeaturesKind, SlotDecoderKind, initialise
from pyro_sri.objectives import EMORL_ELBO, SRI_ELBO
from pyro_sri.programs import join
from pyro_sri.system.errors import UserError

SegregationKind = Literal["genesis_v2", "emorl", "slot_attention"]


@dataclass(frozen=True, kw_only=True)
class SRIConfig(GECOFields, GoalFields, SegregationFields, RefinementFields, LikelihoodFields, RunConfig):
    """SRI (Emami et al. 2023): segregate, relate, imagine."""

    system: ClassVar[str] = "sri"
    tiny_fields: ClassVar[Mapping[str, Any]] = {
        "num_slots": 3,
        "slot_size": 8,
        "scene_size": 8,
        **dict.fromkeys(("segregation_steps", "prior_from"), 0),
        "prior_batch_size": 2,
    }

    num_slots: int = 9
    """K, the number of slots, including the background."""
    slot_size: int = 64
    """D, the size of a slot: a multiple of 8 up to 64. Also the width of the networks."""
    scene_size: int = 128
    """S, the size of the scene variable; 0 leaves it out (table 3a)."""
    segregation: SegregationKind = "genesis_v2"
    """How images are segregated: GENESIS-v2, EMORL (SRI-EMORL), or a Slot Attention encoder trained by L_SRI
    (SRI-SA*)."""
    segregation_layers: int = 3
    """Layers of EMORL's bottom-up inference."""
    segregation_features: PixelFeaturesKind = "convolutions"
    """What EMORL's slots attend to: the published convolutions, or picture (each pixel's colour and position, and a
    smaller network)."""
    segregation_decoder: SlotDecoderKind = "big"
    """EMORL's decoder. big and genesis_v2 need image sizes that are multiples of 16."""
    segregation_objective: Literal["own", "bound"] = "own"
    """What trains EMORL as segregation: its own objective, with refinement and GECO (own), or a bound from one sample
    (bound)."""
    decoder: Literal["segregation", "genesis_v2"] = "segregation"
    """The scene model's decoder if EMORL is the segregation: of the same kind as EMORL's (segregation), or as
    GENESIS-v2's (genesis_v2). With any other segregation, it is GENESIS-v2's."""
    refinement_steps: int = 2
    """I, EMORL's refinement steps at the start of training. Evaluation does not refine."""
    later_refinement_steps: int = 2
    """Refinement steps from step --refinement-drop on."""
    end_to_end: bool = False
    """One VAE instead of two: the segregation has no objective of its own and is trained by L_SRI. SRI-SA* is always
    trained this way."""
    align: bool = True
    """Order the slots as the prior imagines them. If off, SRI uses the segregation's posterior in its own order (table
    3b)."""
    kl_cross: bool = True
    """Train with KL_cross (table 3c leaves it out)."""
    attention_layers: int = 3
    """L, the number of relational attention blocks in the scene encoder."""
    scene_width: int = 0
    """Width of the relational attention blocks; 0 uses the slot size, as published."""
    lstm_units: int = 0
    """Units of the LSTMs over slots; 0 uses four per slot dimension, as published."""
    matching: Matching = "greedy"
    """How imagined slots are matched to segregated ones."""
    match_on: MatchOn = "means"
    """Whether matching compares means or samples of slots."""
    share_decoder: bool = False
    """One decoder for the scene model and the segregation, instead of two."""
    init: Initialisation = "official"
    """Initial weights: as in the published code (official), as in the paper (xavier), or PyTorch's defaults."""

    segregation_steps: int = 0
    """Number of steps at the start that train only the segregation, at half the cost."""
    prior_from: int = 0
    """From this step on, train only the prior and the scene encoder, on the slots of images that are encoded once. This
    costs a fraction of a full step and has its own cosine decay. 0 turns it off."""
    prior_warmup_steps: int = 0
    """Steps from --prior-from on over which the learning rate rises linearly from 0 again. Without them, its jump back
    to the full rate can make the scene variable collapse (docs/results.md)."""
    prior_batch_size: int = 64
    """Images per step from --prior-from on, over all processes. A smaller training set is used as a whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_likelihood()
        self.check_geco()
        self.check_segregation()
        self.check_refinement()
        positive = ["num_slots", "slot_size", "segregation_layers", "prior_batch_size"]
        self.require(positive, lambda value: value > 0, "positive")
        not_negative = [
            "scene_size",
            "scene_width",
            "lstm_units",
            "attention_layers",
            "segregation_steps",
            "prior_from",
            "prior_warmup_steps",
        ]
        self.require(not_negative, lambda value: value >= 0, "0 or more")
        if self.prior_from:
            self.check_shared("prior_batch_size")
        if self.segregation != "genesis_v2":
            reason = "left out, because only GENESIS-v2's segregation has it"
            self.require(["coordinates"], lambda value: not value, reason)
        if self.segregation == "slot_attention":
            reason = "left out, because Slot Attention has no posterior"
            self.require(["posterior_scale_init"], lambda value: not value, reason)
        if self.segregation == "emorl" and self.segregation_decoder != self._scene_decoder:
            reason = "left out, because the two decoders are of different kinds"
            self.require(["share_decoder"], lambda value: not value, reason)
        if self._trains_segregation:
            alone = ["segregation_steps", "share_decoder"]
            reason = "left out, because this segregation has no objective of its own"
            self.require(alone, lambda value: not value, reason)
        if self.capture and self.matching == "hungarian":
            raise UserError(
                "--matching hungarian runs on the CPU and cannot be recorded by --capture: leave one of them out"
            )
        self.require(["slot_size"], lambda value: value % 8 == 0 and value <= 64, "a multiple of 8 up to 64")
        wanted = {IMAGE_SIZES: "one of 32, 64, 96, 128", LARGE_SIZES: "a multiple of 16", SMALL_SIZES: "from 32 to 128"}
        self.require(["image_size"], lambda value: value in self.image_sizes, wanted[self.image_sizes])

    @classmethod
    def completed(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Older runs of SRI on EMORL trained without refinement, and with GENESIS-v2's decoder."""
        if fields.get("segregation") != "emorl" or "segregation_objective" in fields:
            return fields
        return {"segregation_objective": "bound", "decoder": "genesis_v2"} | dict(fields)

    @property
    def _refines(self) -> bool:
        """Whether EMORL's own objective trains the segregation."""
        return self.segregation == "emorl" and self.segregation_objective == "own" and not self.end_to_end

    @property
    def _trains_segregation(self) -> bool:
        """Whether L_SRI trains the segregation."""
        return self.end_to_end or self.segregation == "slot_attention"

    def untrained(self, step: int) -> str | None:
        """Says that the scene model is untrained, as long as the segregation trains alone."""
        if step > self.segregation_steps or not self.segregation_steps or self.start_from is not None:
            return None
        return (
            f"the scene model is untrained: all {step} steps train only the segregation "
            f"(--segregation-steps {self.segregation_steps})"
        )

    def cycle(self, step: int) -> Cycle:
        """The phase in which the prior trains alone has a cycle of its own."""
        start = self.encoded_from
        if start is None or step < start:
            return super().cycle(step)
        return Cycle(start, self.prior_warmup_steps, self.steps - start if self.decay_steps else 0)

    @property
    def idle_parameters(self) -> bool:
        """True if the segregation or the prior trains alone in some steps, or if some do not run EMORL's refinement."""
        alone = bool(self.segregation_steps or self.prior_from)
        unrefined = self.segregation == "emorl" and not (self._refines and self.refines_always)
        return alone or unrefined or super().idle_parameters

    @property
    def encoded_from(self) -> int | None:
        """The step from which the prior trains alone, on encoded slots; never while the segregation trains alone."""
        return max(self.prior_from, self.segregation_steps) if self.prior_from else None

    def images_per_step(self, step: int) -> int:
        """The number of images, which differs while the prior trains alone."""
        return self.batch_size if self.encoded_from is None or step < self.encoded_from else self.prior_batch_size

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the UNet or EMORL's decoder takes."""
        if self.segregation != "emorl":
            return IMAGE_SIZES
        return decoder_sizes(self._scene_decoder)

    @property
    def _scene_decoder(self) -> SlotDecoderKind:
        as_emorl = self.segregation == "emorl" and self.decoder == "segregation"
        return self.segregation_decoder if as_emorl else "genesis_v2"

    def build(self) -> tuple[SceneModel, SRIGuide, SRI_ELBO]:
        """A new scene model, its SRI guide, and the objective."""
        likelihood = self.image_likelihood()
        shape: dict[str, Any] = {
            "image_size": self.image_size,
            "num_slots": self.num_slots,
            "slot_size": self.slot_size,
        }
        model = SceneModel(
            **shape,
            scene_size=self.scene_size,
            likelihood=likelihood,
            lstm_units=self.lstm_units or None,
            decoder=self._scene_decoder,
        )
        segregation = self._new_segregation(shape, likelihood)
        guide = SRIGuide(
            model,
            segregation,
            num_layers=self.attention_layers,
            scene_width=self.scene_width or None,
            matching="identity" if self.segregation == "slot_attention" else self.matching,
            match_on=self.match_on,
            align=self.align,
            end_to_end=self._trains_segregation,
        )
        for module in (model, guide):
            initialise(module, self.init)
        if self.segregation == "genesis_v2":
            self.start_colours(guide.segregation.guide)
        if self.share_decoder and guide.segregation.model is not None:
            guide.segregation.model.decoder = model.decoder
        if self.posterior_scale_init:
            guide.start_scales_at(self.posterior_scale_init)
        elbo = SRI_ELBO(
            geco=self.new_geco(),
            segregation_geco=None if self._trains_segregation or self._refines else self.new_geco(),
            segregation=self._own_objective() if self._refines else None,
            segregation_steps=self.segregation_steps,
            prior_from=self.prior_from or None,
            cross=self.kl_cross,
            mask_kl=self.mask_kl,
        )
        join(guide, elbo)
        return model, guide, elbo

    def _new_segregation(self, shape: dict[str, Any], likelihood: ImageLikelihood) -> SegregationPair:
        if self.segregation == "emorl":
            kind: dict[str, Any] = {"num_layers": self.segregation_layers, "decoder": self.segregation_decoder}
            emorl = EMORLModel(**shape, likelihood=likelihood, **kind)
            return self._pair(emorl, EMORLGuide(emorl, features=self.segregation_features, refinement_steps=0))
        if self.segregation == "slot_attention":
            return self._pair(None, SlotAttentionGuide(**shape, learnt_slots=True))
        guide = GenesisV2Guide(**shape, colours=self.instance_colours(), coordinates=self.coordinates)
        return self._pair(IndependentSlotModel(**shape, likelihood=likelihood), guide)

    def _pair(self, model: PyroModule | None, guide: PyroModule) -> SegregationPair:
        pair = SegregationPair(None if self._trains_segregation else model, guide)
        if not self._refines:
            pair.make_objective = None
        return pair

    def _own_objective(self) -> EMORL_ELBO:
        """EMORL's own objective, with EMORL's GECO, whatever GECO the scene model has."""
        return EMORL_ELBO(geco=self.new_emorl_geco() if self.uses_geco else None, curriculum=self.curriculum())
