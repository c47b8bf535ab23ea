"""A fixed feature extractor without weights: how much of each wavelet an image contains, and where.

These are scattering coefficients (Bruna & Mallat 2013, Invariant scattering convolution networks). With wavelets
psi_(j,o) of scales j = 0..J-1 and orientations o, an image x has

    order 0    mean of x                                            where which colour is
    order 1    mean of |x * psi_(j,o)|                              how strong edges and textures are
    order 2    mean of ||x * psi_(j,o)| * psi_(j',o')|, j' > j      how those are arranged at coarser scales

The wavelets are products of a Gaussian g and a Morlet wavelet h(t) = g(t) (exp(i xi t) - c), where c makes the sum of h
zero. For 0 and 90 degrees, it is h along one axis and g along the other, and for 45 and 135 degrees it is h h and
h conj(h). A coarser scale uses the same filters on the image smoothed by g and halved. Images are mirrored at their
borders.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_sri.features.extraction import to_8_bits

# Images of any size are resized to this one.
IMAGE_SIZE = 64
SCALES = 4  # J: at the coarsest scale, waves are 21 pixels long
ORIENTATIONS = 4
# Standard deviation of g in pixels, and xi in radians per pixel, with the usual values for Morlet scattering.
WIDTH = 0.8
FREQUENCY = 0.75 * math.pi
RADIUS = 4  # of the filters, in pixels: five standard deviations

# Means are taken over the cells of a grid, so that layout matters. Higher orders have a coarser grid, to limit the
# number of features.
CELLS = {0: 4, 1: 2, 2: 1}  # order: cells per side

# Brightness, red against blue, green against both (Ohta et al. 1980), each to be divided by its norm.
OPPONENT_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))

# Images at a time: few enough for their data to stay in a processor's cache.
CHUNK = 16


class ScatteringFeatures:
    """Scattering coefficients of the colours (orders 0 and 1) and of brightness (order 2).

    Images are clipped, rounded to 8 bits and resized to 64 x 64 pixels (bilinear, antialiased). Orders 1 and 2 are
    amplitudes (a wave of amplitude a gives about a). The features are their square roots, which emphasise faint detail,
    such as that of blurred images, more than the amplitudes would. Order 0 comes first. Then, from the finest scale on,
    come order 1 of each scale and the orders 2 that start from it.

    Attributes:
        name: `scattering-64-336-v1`.
        size: 336 = 3 colours * 4^2 cells + 3 * 4 scales * 4 orientations * 2^2 + 6 pairs of scales * 4^2 orientations.
    """

    name = "scattering-64-336-v1"
    size = (
        len(OPPONENT_COLOURS) * CELLS[0] ** 2
        + len(OPPONENT_COLOURS) * SCALES * ORIENTATIONS * CELLS[1] ** 2
        + math.comb(SCALES, 2) * ORIENTATIONS**2 * CELLS[2] ** 2
    )

    def __init__(self) -> None:
        sizes = [IMAGE_SIZE >> scale for scale in range(SCALES)]
        self._filters = {size: _filter_matrix(size) for size in sizes}
        self._colours = F.normalize(torch.tensor(OPPONENT_COLOURS), dim=1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> float32 [B, 336], on the images' device.

        Raises:
            ValueError: Images of another shape, or not finite.
        """
        parts = [self._features(to_8_bits(part)) for part in images.split(CHUNK)]
        return torch.cat(parts)

    def _features(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> [B, 336]."""
        images = images.float() / 255
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            images = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        maps = torch.einsum("oc,bchw->bohw", self._colours.to(images), images)  # [B, 3, n, n]
        features = [_cell_means(maps, order=0)]
        for scale in range(SCALES):
            amplitudes = self._amplitudes(maps)  # [B, 3, 4, n, n]
            features.append(_cell_means(amplitudes, order=1).sqrt())
            arranged = amplitudes[:, 0]  # [B, 4, n, n]
            for _ in range(scale + 1, SCALES):
                arranged = self._halved(arranged)
                features.append(_cell_means(self._amplitudes(arranged), order=2).sqrt())
            if scale < SCALES - 1:
                maps = self._halved(maps)
        return torch.cat(features, dim=1)

    def _amplitudes(self, maps: Tensor) -> Tensor:
        """Amplitude of the wavelets of each orientation at one scale, [..., n, n] -> [..., 4, n, n]."""
        filters = self._filters[maps.shape[-1]].to(maps)  # [3, n, n]
        flat = filters.flatten(0, 1)
        products = flat @ (maps @ flat.T)  # [..., 3 n, 3 n]: filters along the columns times filters along the rows
        products = products.unflatten(-2, filters.shape[:2]).unflatten(-1, filters.shape[:2]).movedim(-2, -3)
        (_, gc, gs), (cg, cc, cs), (sg, sc, ss) = (row.unbind(-3) for row in products.unbind(-4))
        parts = ((gc, gs), (cg, sg), (cc - ss, cs + sc), (cc + ss, cs - sc))
        return torch.stack([2 * (real.square() + imaginary.square()).sqrt() for real, imaginary in parts], dim=-3)

    def _halved(self, maps: Tensor) -> Tensor:
        """Smoothed by g, every second pixel kept: [..., n, n] -> [..., n / 2, n / 2]."""
        smooth = self._filters[maps.shape[-1]][0, ::2].to(maps)
        return smooth @ (maps @ smooth.T)


def _filter_matrix(size: int) -> Tensor:
    """g and the real and imaginary part of h as matrices, [3, size, size]: row t weights the pixels around t."""
    offsets = torch.arange(-RADIUS, RADIUS + 1)
    gaussian = torch.exp(-offsets.double().square() / (2 * WIDTH**2))
    gaussian /= gaussian.sum()
    wave = torch.exp(1j * FREQUENCY * offsets)
    morlet = gaussian * (wave - (gaussian * wave).sum())
    taps = torch.stack([gaussian, morlet.real, morlet.imag])  # [3, 9]
    matrix = torch.zeros(3, size, size, dtype=torch.float64)
    for row in range(size):
        pixels = row + offsets
        pixels = torch.where(pixels < 0, -1 - pixels, pixels)
        pixels = torch.where(pixels >= size, 2 * size - 1 - pixels, pixels)  # mirrored, the border pixel twice
        matrix[:, row].index_add_(1, pixels, taps)
    return matrix.float()


def _cell_means(maps: Tensor, order: int) -> Tensor:
    """Means over the cells of a grid, [B, ..., n, n] -> [B, features]."""
    cells = CELLS[order]
    side = maps.shape[-1] // cells
    return maps.unflatten(-1, (cells, side)).unflatten(-3, (cells, side)).mean((-3, -1)).flatten(1)
