"""Small models and guides."""

from typing import Any

from pyro.nn import PyroModule

from pyro_sri.guides.genesis import GenesisGuide
from pyro_sri.guides.genesis_v2 import GenesisV2Guide, GenesisV2SlotGuide
from pyro_sri.guides.recurrent import RecurrentGuide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.genesis import GenesisModel
from pyro_sri.models.genesis_v2 import AutoregressiveSlotModel, IndependentSlotModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import InstanceColours

SHAPE = {"image_size": 32, "num_slots": 3}


def build_sri(**fields: Any) -> tuple[SceneModel, SRIGuide]:
    """A small scene model and SRI guide."""
    shape = {"image_size": 32, "num_slots": 3, "slot_size": 8} | {
        name: fields.pop(name) for name in ("image_size", "num_slots", "slot_size", "likelihood") if name in fields
    }
    model = SceneModel(**shape, scene_size=fields.pop("scene_size", 12))
    likelihood = shape.pop("likelihood", None)
    model_shape = shape | ({} if likelihood is None else {"likelihood": likelihood})
    colours = InstanceColours(gate=0.5, kernel=fields.pop("kernel", "gaussian"), start=fields.pop("start", "position"))
    segregation = SegregationPair(IndependentSlotModel(**model_shape), GenesisV2Guide(**shape, colours=colours))
    return model, SRIGuide(model, segregation, **{"num_layers": 2} | fields)


def build_pair(system: str) -> tuple[PyroModule, PyroModule]:
    """A small model and its guide."""
    if system == "genesis_v2":
        shape = SHAPE | {"slot_size": 16}
        return AutoregressiveSlotModel(**shape), GenesisV2SlotGuide(**shape, colours=InstanceColours(gate=0.5))
    if system == "genesis":
        model = GenesisModel(**SHAPE, mask_slot_size=6, component_slot_size=5, decoder_channels=8)
        return model, GenesisGuide(model, encoder_channels=8)
    scene_model = build_sri(slot_size=16)[0]
    return scene_model, RecurrentGuide(scene_model, image_size=32, features=16, hidden=16)
