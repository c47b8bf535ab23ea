"""Networks in plain torch, without Pyro."""

from pyro_sri.nn.air_networks import SCALE_FLOOR, WHERE_SIZE, Latents, State, StepLSTM, WindowDecoder, WindowEncoder
from pyro_sri.nn.coordinates import PixelCoordinates, SpatialBroadcast, coordinate_grid
from pyro_sri.nn.decoder import SlotDecoder, SlotImages
from pyro_sri.nn.emorl_networks import LayerPrior, RefinementNetwork
from pyro_sri.nn.gated_conv import GatedConv
from pyro_sri.nn.gaussian_lstm import GaussianLSTM
from pyro_sri.nn.genesis_networks import (
    GENESIS_IMAGE_SIZES,
    MASK_FEATURES,
    ComponentDecoder,
    ComponentEncoder,
    ComponentPrior,
    MaskDecoder,
    MaskEncoder,
)
from pyro_sri.nn.gru import DualGRU, JointGRU
from pyro_sri.nn.image_features import ImageFeatures
from pyro_sri.nn.initialisation import Initialisation, initialise
from pyro_sri.nn.picture_features import PictureFeatures, PixelFeaturesKind, pixel_features
from pyro_sri.nn.position_code import PositionCode
from pyro_sri.nn.position_decoder import PositionDecoder, PositionDecoderKind
from pyro_sri.nn.precision import in_single
from pyro_sri.nn.scene_encoder import RelationalAttention, SceneEncoder
from pyro_sri.nn.slot_attention import InitialSlots, PixelFeatures, ResidualMLP, SlotAttention
from pyro_sri.nn.slot_decoders import SlotDecoderKind, slot_decoder
from pyro_sri.nn.slot_head import SlotHead
from pyro_sri.nn.slot_lstm import SlotPrior, SlotScales
from pyro_sri.nn.spatial_transformer import affine_matrix, inverse_where, place_windows, read_windows, transform
from pyro_sri.nn.stick_breaking import (
    Clustering,
    ColourHead,
    ColourStart,
    InstanceColours,
    Kernel,
    StickBreaking,
    break_stick,
    stop_early,
    straight_through_clamp,
)
from pyro_sri.nn.unet import IMAGE_SIZES, ConvBlock, UNet

__all__ = [
    "GENESIS_IMAGE_SIZES",
    "IMAGE_SIZES",
    "MASK_FEATURES",
    "SCALE_FLOOR",
    "WHERE_SIZE",
    "Clustering",
    "ColourHead",
    "ColourStart",
    "ComponentDecoder",
    "ComponentEncoder",
    "ComponentPrior",
    "ConvBlock",
    "DualGRU",
    "GatedConv",
    "GaussianLSTM",
    "ImageFeatures",
    "InitialSlots",
    "Initialisation",
    "InstanceColours",
    "JointGRU",
    "Kernel",
    "Latents",
    "LayerPrior",
    "MaskDecoder",
    "MaskEncoder",
    "PictureFeatures",
    "PixelCoordinates",
    "PixelFeatures",
    "PixelFeaturesKind",
    "PositionCode",
    "PositionDecoder",
    "PositionDecoderKind",
    "RefinementNetwork",
    "RelationalAttention",
    "ResidualMLP",
    "SceneEncoder",
    "SlotAttention",
    "SlotDecoder",
    "SlotDecoderKind",
    "SlotHead",
    "SlotImages",
    "SlotPrior",
    "SlotScales",
    "SpatialBroadcast",
    "State",
    "StepLSTM",
    "StickBreaking",
    "UNet",
    "WindowDecoder",
    "WindowEncoder",
    "affine_matrix",
    "break_stick",
    "coordinate_grid",
    "in_single",
    "initialise",
    "inverse_where",
    "pixel_features",
    "place_windows",
    "read_windows",
    "slot_decoder",
    "stop_early",
    "straight_through_clamp",
    "transform",
]
