"""Places windows in images, and reads them from images, by scale and shift (Jaderberg et al. 2015).

A place z_where = (s, x, y) maps pixels of the image to points of the window: the pixel at (X, Y) shows the window at
(s X + x, s Y + y). Coordinates run from -1 to 1 between the outer borders of the outer pixels, X to the right and
Y downwards. So a window at scale s covers 1/s of the image's side and is centred at (-x/s, -y/s). Values are
interpolated bilinearly, and are zero outside the window.

Scale and shift act separately on rows and columns, and so does the interpolation. A picture is transformed by a matrix
for its rows and a matrix for its columns.
"""

import torch
from torch import Tensor


def inverse_where(where: Tensor) -> Tensor:
    """The inverse (1/s, -x/s, -y/s) of places (s, x, y), [.., 3], s not 0. It reads a window from an image."""
    scale, shift = where[..., :1], where[..., 1:]
    return torch.cat([torch.ones_like(scale), -shift], -1) / scale


def affine_matrix(where: Tensor) -> Tensor:
    """Places [.., 3] as matrices [[s, 0, x], [0, s, y]], [.., 2, 3]."""
    scale, x, y = where.unbind(-1)
    zero = torch.zeros_like(scale)
    return torch.stack([scale, zero, x, zero, scale, y], -1).unflatten(-1, (2, 3))


def transform(pictures: Tensor, where: Tensor, size: int) -> Tensor:
    """Transforms pictures by places (s, x, y): the pixel at (X, Y) is the picture's value at (s X + x, s Y + y).

    Args:
        pictures: Square grey pictures [.., n, n].
        where: [.., 3]. Leading dimensions broadcast with those of the pictures.
        size: Side of the result in pixels.

    Returns:
        [.., size, size], differentiable with respect to pictures and places.
    """
    scale, x, y = where.unbind(-1)
    rows = _interpolation(scale, y, size, pictures.shape[-2])
    columns = _interpolation(scale, x, size, pictures.shape[-1])
    return rows @ pictures @ columns.mT


def place_windows(windows: Tensor, where: Tensor, image_size: int) -> Tensor:
    """Windows [.., w, w] at z_where [.., 3] in otherwise black images [.., image_size, image_size]."""
    return transform(windows, where, image_size)


def read_windows(images: Tensor, where: Tensor, window_size: int) -> Tensor:
    """The parts of images [.., n, n] in the windows at z_where [.., 3]: [.., window_size, window_size]."""
    return transform(images, inverse_where(where), window_size)


def _interpolation(scale: Tensor, shift: Tensor, size: int, source_size: int) -> Tensor:
    """Interpolation weights [.., size, source_size] along one axis."""
    centres = (2 * torch.arange(size, dtype=scale.dtype, device=scale.device) + 1) / size - 1
    points = scale[..., None] * centres + shift[..., None]  # [.., size], in -1..1 of the source
    pixels = ((points + 1) * source_size - 1) / 2
    sources = torch.arange(source_size, dtype=scale.dtype, device=scale.device)
    return (1 - (pixels[..., None] - sources).abs()).clamp(min=0)
