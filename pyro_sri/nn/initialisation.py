"""Initial weights."""

from typing import Literal

from torch import nn

Initialisation = Literal["official", "xavier", "pytorch"]

OFFICIAL_GAIN = 0.02


def initialise(module: nn.Module, init: Initialisation) -> None:
    """Draws the weights of linear and (transposed) convolution layers anew, in place.

    Biases, normalisation layers, LSTMs and the stick-breaking parameters keep PyTorch's or their own start.

    Args:
        module: Any module.
        init: "official": Xavier normal with gain 0.02, as the published SRI code has it; "xavier": Xavier normal
            (Glorot & Bengio 2010) with gain 1, as the paper reads; "pytorch": PyTorch's defaults, nothing is drawn.
    """
    if init == "pytorch":
        return
    gain = OFFICIAL_GAIN if init == "official" else 1.0
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_normal_(layer.weight, gain)
