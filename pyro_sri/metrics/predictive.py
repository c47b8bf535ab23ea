"""Posterior predictive checks: do images drawn from the model resemble the observed ones in known statistics?"""

import numpy as np
import numpy.typing as npt

LUMA = np.array([0.299, 0.587, 0.114])  # how bright red, green and blue look (ITU-R BT.601)


def image_statistics(images: npt.ArrayLike) -> dict[str, npt.NDArray[np.float64]]:
    """Four statistics of each image.

    Args:
        images: [n, 3, H, W] in [0, 1], or beyond where pixel noise was added; H and W at least 2.

    Returns:
        Arrays [n]: `brightness`, the mean luma; `contrast`, the standard deviation of the luma over pixels;
        `saturation`, the mean over pixels of the largest channel minus the smallest; `roughness`, the mean absolute
        difference of the luma of neighbouring pixels.

    Raises:
        ValueError: For another shape.
    """
    images = np.asarray(images, dtype=np.float64)
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2:
        raise ValueError(f"images must have the shape [n, 3, height, width], at least 2 x 2, got {list(images.shape)}")
    luma = np.einsum("nchw,c->nhw", images, LUMA)
    steps = [np.abs(np.diff(luma, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    return {
        "brightness": luma.mean((1, 2)),
        "contrast": luma.std((1, 2)),
        "saturation": (images.max(1) - images.min(1)).mean((1, 2)),
        "roughness": (steps[0] + steps[1]) / 2,
    }


def predictive_p_values(observed: npt.ArrayLike, replicated: npt.ArrayLike) -> npt.NDArray[np.float64]:
    r"""Posterior predictive p-values :math:`P(T(x^{rep}) \ge T(x))` (Gelman, Meng & Stern 1996); ties count as half.

    Args:
        observed: T(x) of each image, [n], or [n, L] if T also depends on the latents.
        replicated: T of L images drawn for each image, [n, L].

    Returns:
        [n] in [0, 1]: near 0 or 1 if the model's images differ from the observed one.

    Raises:
        ValueError: If shapes do not match, or there are no draws.
    """
    observed, replicated = np.asarray(observed), np.asarray(replicated)
    observed = observed[:, None] if observed.ndim == 1 else observed
    if (
        replicated.ndim != 2
        or not replicated.shape[1]
        or observed.shape
        not in (
            (len(replicated), 1),
            replicated.shape,
        )
    ):
        raise ValueError(
            f"observed must be [n] or [n, draws] and replicated [n, draws], got {list(observed.shape)} "
            f"and {list(replicated.shape)}"
        )
    return ((replicated > observed) + 0.5 * (replicated == observed)).mean(1)
