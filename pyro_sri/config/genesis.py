"""GENESIS."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pyro_sri.config.run import RunConfig
from pyro_sri.config.shared import GECOFields, GoalFields, LikelihoodFields
from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis import GenesisGuide
from pyro_sri.models.genesis import GenesisModel
from pyro_sri.nn import GENESIS_IMAGE_SIZES
from pyro_sri.objectives import SlotELBO
from pyro_sri.programs import join


@dataclass(frozen=True, kw_only=True)
class GenesisConfig(GECOFields, GoalFields, LikelihoodFields, RunConfig):
    """GENESIS (Engelcke et al. 2020): sequential attention, followed by a component for each mask."""

    system: ClassVar[str] = "genesis"
    tiny_fields: ClassVar[Mapping[str, Any]] = {
        "num_slots": 3,
        "mask_slot_size": 8,
        "component_slot_size": 8,
        "mask_channels": 8,
        "channels": 8,
        "decoder_channels": 8,
        "component_layers": 2,
    }

    num_slots: int = 9
    """K, the number of slots, including the background."""
    mask_slot_size: int = 64
    """L, the size of the mask latents, which determine where things are."""
    component_slot_size: int = 16
    """C, the size of the component latents, which determine what things look like."""
    mask_channels: int = 32
    """Channels of the mask networks: the first layers of the encoder and the last ones of the decoder; the others have
    twice as many."""
    channels: int = 32
    """Channels of the component networks."""
    decoder_channels: int = 0
    """Channels of the component decoder; 0: as --channels."""
    component_layers: int = 4
    """Number of convolutions in the component decoder."""
    first_pixel_std: float = 0.7
    """sigma of the first slot, which is meant for the background; --pixel-std applies to the others."""
    scene_size: int = 0
    """S, the size of a scene variable above the mask latents (Emami et al. 2023, table 4). 0 leaves it out, as
    published."""
    analytic: bool = False
    """Compute KLs in closed form instead of by Monte Carlo. Not possible with a scene variable, whose posterior depends
    on the slots."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_likelihood()
        sizes = ["num_slots", "mask_slot_size", "component_slot_size", "mask_channels", "channels", "component_layers"]
        self.require([*sizes, "first_pixel_std"], lambda value: value > 0, "positive")
        self.require(["image_size"], lambda value: value in GENESIS_IMAGE_SIZES, "32 or 64")
        self.require(["scene_size", "decoder_channels"], lambda value: value >= 0, "0 or more")
        if self.scene_size:
            self.require(["analytic"], lambda value: not value, "left out if there is a scene variable")
        self.require(["likelihood"], lambda value: value == "mog", "mog, the only one that GENESIS has")
        self.check_geco()

    def image_likelihood(self) -> ImageLikelihood:
        """The likelihood, with a sigma of its own for the first slot."""
        return replace(super().image_likelihood(), first_pixel_std=self.first_pixel_std)

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the mask encoder takes."""
        return GENESIS_IMAGE_SIZES

    def build(self) -> tuple[GenesisModel, GenesisGuide, SlotELBO]:
        """A new model, its guide, and the objective."""
        model = GenesisModel(
            image_size=self.image_size,
            num_slots=self.num_slots,
            mask_slot_size=self.mask_slot_size,
            component_slot_size=self.component_slot_size,
            mask_channels=self.mask_channels,
            decoder_channels=self.decoder_channels or self.channels,
            decoder_layers=self.component_layers,
            likelihood=self.image_likelihood(),
            scene_size=self.scene_size,
        )
        guide = GenesisGuide(model, encoder_channels=self.channels)
        elbo = SlotELBO(geco=self.new_geco(), analytic=self.analytic)
        join(guide, elbo)
        return model, guide, elbo
