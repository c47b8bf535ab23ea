"""Networks in plain torch, without Pyro."""

from pyro_sri.nn.coordinates import PixelCoordinates, SpatialBroadcast, coordinate_grid
from pyro_sri.nn.decoder import SlotDecoder, SlotImages
from pyro_sri.nn.initialisation import Initialisation, initialise
from pyro_sri.nn.scene_encoder import RelationalAttention, SceneEncoder
from pyro_sri.nn.slot_head import SlotHead
from pyro_sri.nn.slot_lstm import SlotPrior, SlotScales
from pyro_sri.nn.stick_breaking import Clustering, ColourHead, Kernel, StickBreaking, straight_through_clamp
from pyro_sri.nn.unet import IMAGE_SIZES, ConvBlock, UNet

__all__ = [
    "IMAGE_SIZES",
    "Clustering",
    "ColourHead",
    "ConvBlock",
    "Initialisation",
    "Kernel",
    "PixelCoordinates",
    "RelationalAttention",
    "SceneEncoder",
    "SlotDecoder",
    "SlotHead",
    "SlotImages",
    "SlotPrior",
    "SlotScales",
    "SpatialBroadcast",
    "StickBreaking",
    "UNet",
    "coordinate_grid",
    "initialise",
    "straight_through_clamp",
]
