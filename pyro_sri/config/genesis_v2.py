"""GENESIS-v2 on its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_sri.config.run import RunConfig
from pyro_sri.config.shared import GECOFields, GoalFields, LikelihoodFields, SegregationFields
from pyro_sri.guides.genesis_v2 import GenesisV2SlotGuide
from pyro_sri.models.genesis_v2 import AutoregressiveSlotModel
from pyro_sri.nn import IMAGE_SIZES, Initialisation, initialise
from pyro_sri.objectives import SlotELBO
from pyro_sri.programs import join


@dataclass(frozen=True, kw_only=True)
class GenesisV2Config(GECOFields, GoalFields, SegregationFields, LikelihoodFields, RunConfig):
    """GENESIS-v2 (Engelcke et al. 2021): instance colouring, autoregressive slots."""

    system: ClassVar[str] = "genesis_v2"
    tiny_fields: ClassVar[Mapping[str, Any]] = {"num_slots": 3, "slot_size": 8}

    num_slots: int = 9
    """K, the number of slots, including the background."""
    slot_size: int = 64
    """D, the size of a slot: a multiple of 8 up to 64. Also the width of the networks."""
    lstm_units: int = 0
    """Units of the slot prior's LSTM; 0 uses four per slot dimension, as published."""
    init: Initialisation = "pytorch"
    """Initial weights: as in the published code (official, which are PyTorch's defaults), as in SRI's paper (xavier),
    or PyTorch's defaults (pytorch)."""

    analytic: bool = False
    """Compute KLs in closed form instead of by Monte Carlo."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_likelihood()
        self.check_geco()
        self.check_segregation()
        self.require(["num_slots", "slot_size"], lambda value: value > 0, "positive")
        self.require(["lstm_units"], lambda value: value >= 0, "0 or more")
        self.require(["slot_size"], lambda value: value % 8 == 0 and value <= 64, "a multiple of 8 up to 64")
        self.require(["image_size"], lambda value: value in IMAGE_SIZES, "one of 32, 64, 96, 128")

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the UNet takes."""
        return IMAGE_SIZES

    def build(self) -> tuple[AutoregressiveSlotModel, GenesisV2SlotGuide, SlotELBO]:
        """A new model, its guide, and the objective."""
        shape: dict[str, Any] = {
            "image_size": self.image_size,
            "num_slots": self.num_slots,
            "slot_size": self.slot_size,
        }
        model = AutoregressiveSlotModel(**shape, likelihood=self.image_likelihood(), lstm_units=self.lstm_units or None)
        guide = GenesisV2SlotGuide(**shape, colours=self.instance_colours(), coordinates=self.coordinates)
        for module in (model, guide):
            initialise(module, self.init)
        self.start_colours(guide)
        if self.posterior_scale_init:
            guide.start_scales_at(self.posterior_scale_init)
        elbo = SlotELBO(geco=self.new_geco(), mask_kl=self.mask_kl, analytic=self.analytic)
        join(guide, elbo)
        return model, guide, elbo
