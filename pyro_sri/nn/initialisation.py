"""Initial weights."""

from operator import attrgetter
from typing import Literal

from torch import nn

from pyro_sri.system.choices import check_choice

Initialisation = Literal["official", "xavier", "pytorch"]

OFFICIAL_GAIN = 0.02


def initialise(module: nn.Module, init: Initialisation) -> None:
    """Draws weights of linear and (transposed) convolution layers anew, in place.

    Recurrent cells, normalisation layers, the stick-breaking parameters and initial slots keep PyTorch's or their own
    start in any case.

    Args:
        module: A model or guide, or several in one.
        init: "official": as the published code of SRI and EMORL, which starts some networks with Xavier normal weights
            of gain 0.02 and zero biases, and leaves all others, such as those of GENESIS-v2, to PyTorch. A model or
            guide names its small-starting networks in `starts_small`. "xavier": Xavier normal (Glorot & Bengio 2010)
            with gain 1 everywhere and PyTorch's biases, as the paper reads; "pytorch": PyTorch's defaults, nothing is
            drawn.

    Raises:
        ValueError: On another kind.
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
