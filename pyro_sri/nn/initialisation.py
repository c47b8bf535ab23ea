"""Initial weights."""

from operator import attrgetter
from typing import Literal

from torch import nn

from pyro_sri.system.choices import check_choice

Initialisation = Literal["official", "xavier", "pytorch"]

OFFICIAL_GAIN = 0.02


def initialise(module: nn.Module, init: Initialisation) -> None:
    """Initialises the weights of linear and (transposed) convolution layers in place.

    Recurrent cells, normalisation layers, the stick-breaking parameters and initial slots always keep the initial
    values of PyTorch or their own.

    Args:
        module: A model or guide, or a module that contains several.
        init: "official": as in the published code of SRI and EMORL. Some networks get Xavier normal weights with gain
            0.02 and zero biases. All others, such as those of GENESIS-v2, keep PyTorch's defaults. A model or guide
            lists its networks with small weights in `starts_small`. "xavier": Xavier normal (Glorot & Bengio 2010)
            with gain 1 everywhere and PyTorch's biases, as described in the paper. "pytorch": PyTorch's defaults,
            without new draws.

    Raises:
        ValueError: If the kind is unknown.
    """
    check_choice(init, Initialisation, "initialisation")
    if init == "xavier":
        _draw(module, gain=1.0, zero_biases=False)
    if init == "official":
        for program in module.modules():
            for name in getattr(program, "starts_small", ()):
                network = attrgetter(name)(program)
                if network is not None:  # left out by the configuration
                    _draw(network, gain=OFFICIAL_GAIN, zero_biases=True)


def _draw(network: nn.Module, *, gain: float, zero_biases: bool) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_normal_(layer.weight, gain)
            if zero_biases and layer.bias is not None:
                nn.init.zeros_(layer.bias)
