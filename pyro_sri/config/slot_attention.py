"""The Slot Attention auto-encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro_sri.config.run import RunConfig
from pyro_sri.config.shared import decoder_sizes
from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.models.slot_attention import SlotAttentionModel
from pyro_sri.nn import PositionDecoderKind
from pyro_sri.objectives import SlotAttentionLoss
from pyro_sri.programs import join


@dataclass(frozen=True, kw_only=True)
class SlotAttentionConfig(RunConfig):
    """Slot Attention auto-encoder (Locatello et al. 2020): a deterministic baseline."""

    system: ClassVar[str] = "slot_attention"
    tiny_fields: ClassVar[Mapping[str, Any]] = {"num_slots": 3, "slot_size": 8}

    num_slots: int = 7
    """K, the number of slots, including the background."""
    slot_size: int = 64
    """D, the size of a slot."""
    num_iterations: int = 3
    """Number of rounds of attention."""
    decoder: PositionDecoderKind = "iodine"
    """Which published decoder to use; big needs image sizes that are multiples of 16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(["num_slots", "slot_size", "num_iterations"], lambda value: value > 0, "positive")
        what = "a multiple of 16" if self.decoder == "big" else "from 32 to 128"
        self.require(["image_size"], lambda value: value in self.image_sizes, what)

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The image sizes that the decoder takes."""
        return decoder_sizes(self.decoder)

    def build(self) -> tuple[SlotAttentionModel, SlotAttentionGuide, SlotAttentionLoss]:
        """A new model, its guide, and the objective."""
        shape: dict[str, Any] = {
            "image_size": self.image_size,
            "num_slots": self.num_slots,
            "slot_size": self.slot_size,
        }
        model = SlotAttentionModel(**shape, decoder=self.decoder)
        guide, elbo = SlotAttentionGuide(**shape, num_iterations=self.num_iterations), SlotAttentionLoss()
        join(guide, elbo)
        return model, guide, elbo
