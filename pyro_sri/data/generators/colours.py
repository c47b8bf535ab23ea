"""Colours."""

import numpy as np
from numpy.typing import NDArray


def rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours from hue, saturation and value, all in [0, 1]; a new last axis holds red, green and blue in [0, 1]."""
    sector = (hue[..., None] * 6 + np.array([5, 3, 1])) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(sector, 4 - sector), 0, 1))
