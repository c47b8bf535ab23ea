"""The scene model with a recurrent guide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_sri.config.run import RunConfig
from pyro_sri.config.shared import GECOFields, GoalFields, LikelihoodFields
from pyro_sri.guides.recurrent import RecurrentGuide
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import IMAGE_SIZES, Initialisation, initialise
from pyro_sri.objectives import SlotELBO
from pyro_sri.programs import join


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(GECOFields, GoalFields, LikelihoodFields, RunConfig):
    """SRI's scene model with a guide that infers one slot after another, like AIR: a baseline."""

    system: ClassVar[str] = "recurrent"
    tiny_fields: ClassVar[Mapping[str, Any]] = {
        "num_slots": 3,
        "slot_size": 8,
        "scene_size": 8,
        "features": 8,
        "hidden": 8,
    }

    num_slots: int = 9
    """K, the number of slots, including the background."""
    slot_size: int = 64
    """D, the size of a slot: a multiple of 8."""
    scene_size: int = 128
    """S, the size of the scene variable."""
    features: int = 256
    """Number of image features that the guide's LSTM reads."""
    hidden: int = 256
    """Units of the guide's LSTM."""
    init: Initialisation = "official"
    """Initial weights: as in SRI's published code (official), as in its paper (xavier), or PyTorch's defaults."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_likelihood()
        self.check_geco()
        sizes = ["num_slots", "slot_size", "scene_size", "features", "hidden"]
        self.require(sizes, lambda value: value > 0, "positive")
        self.require(["slot_size"], lambda value: value % 8 == 0, "a multiple of 8")
        self.require(["image_size"], lambda value: value in IMAGE_SIZES, "one of 32, 64, 96, 128")

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that SRI takes, because this guide is compared with SRI's."""
        return IMAGE_SIZES

    def build(self) -> tuple[SceneModel, RecurrentGuide, SlotELBO]:
        """A new scene model, its guide, and the objective."""
        model = SceneModel(
            image_size=self.image_size,
            num_slots=self.num_slots,
            slot_size=self.slot_size,
            scene_size=self.scene_size,
            likelihood=self.image_likelihood(),
        )
        guide = RecurrentGuide(model, image_size=self.image_size, features=self.features, hidden=self.hidden)
        for module in (model, guide):
            initialise(module, self.init)
        elbo = SlotELBO(geco=self.new_geco(), analytic=True)
        join(guide, elbo)
        return model, guide, elbo
