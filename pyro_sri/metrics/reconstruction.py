"""How well images are reconstructed: mean squared error, and nats as bits per dimension."""

import math

import numpy as np
import numpy.typing as npt

IMAGE_CHANNELS = 3


def mean_squared_error(images: npt.ArrayLike, reconstructions: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean over pixels and channels of the squared difference, for each image.

    Args:
        images: floats in [0,1], [n, ...]; the order of the other axes does not matter.
        reconstructions: floats, same shape. For a mixture of slots, use its mean, sum_k mask_k rgb_k.

    Returns:
        float64 [n], in [0,1] if the reconstructions are.

    Raises:
        ValueError: different shapes, or 8-bit images that were not divided by 255.
    """
    images, reconstructions = np.asarray(images), np.asarray(reconstructions)
    if images.ndim < 2 or images.shape != reconstructions.shape:
        raise ValueError(
            "images and reconstructions must have the same shape [images, ...], "
            f"got {list(images.shape)} and {list(reconstructions.shape)}"
        )
    if images.dtype.kind != "f" or reconstructions.dtype.kind != "f":
        raise ValueError(
            f"images must be floats in [0, 1], got {images.dtype} and {reconstructions.dtype}: divide 8-bit ones by 255"
        )
    difference = images.astype(np.float64) - reconstructions
    return np.square(difference).mean(axis=tuple(range(1, difference.ndim)))


def bits_per_dimension(nats: npt.ArrayLike, image_size: int) -> npt.NDArray[np.float64]:
    """Nats per image as bits per pixel and channel: nats / (3 H W ln 2), with H = W = `image_size`.

    Args:
        nats: negative log-likelihood or -ELBO of whole images, summed over pixels and channels; any shape.
        image_size: side of the square colour images, in pixels.

    Returns:
        float64 of the same shape. For densities on [0,1] images it may be negative.

    Raises:
        ValueError: an image size below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    return np.asarray(nats, dtype=np.float64) / (IMAGE_CHANNELS * image_size**2 * math.log(2))
