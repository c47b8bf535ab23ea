"""How well objects are counted: accuracy and confusion matrix over images."""

import numpy as np
import numpy.typing as npt


def count_accuracy(true_counts: npt.ArrayLike, predicted_counts: npt.ArrayLike) -> float:
    """Share of images whose number of objects is predicted exactly (Eslami et al. 2016).

    Args:
        true_counts: whole numbers >= 0, [n].
        predicted_counts: whole numbers >= 0, [n].

    Returns:
        A number in [0,1].

    Raises:
        ValueError: no images, different shapes, or values that are not counts.
    """
    true_counts, predicted_counts = _check(true_counts, predicted_counts)
    return float((true_counts == predicted_counts).mean())


def count_confusion(true_counts: npt.ArrayLike, predicted_counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How often each true number of objects is predicted as each number.

    Args:
        true_counts: whole numbers >= 0, [n].
        predicted_counts: whole numbers >= 0, [n].

    Returns:
        int64 [m + 1, m + 1], m the largest of all counts: entry [i, j] is the number of images with i objects in which
        j were predicted. The diagonal's share is `count_accuracy`.

    Raises:
        ValueError: as in `count_accuracy`.
    """
    true_counts, predicted_counts = _check(true_counts, predicted_counts)
    size = 1 + max(true_counts.max(), predicted_counts.max())
    return np.bincount(true_counts * size + predicted_counts, minlength=size**2).reshape(size, size)


def _check(
    true_counts: npt.ArrayLike, predicted_counts: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    true_counts, predicted_counts = np.asarray(true_counts), np.asarray(predicted_counts)
    if true_counts.ndim != 1 or true_counts.shape != predicted_counts.shape or not len(true_counts):
        raise ValueError(
            "true and predicted counts must have the same shape [images], with images, "
            f"got {list(true_counts.shape)} and {list(predicted_counts.shape)}"
        )
    for counts in (true_counts, predicted_counts):
        if not (counts >= 0).all() or (counts != np.floor(counts)).any():
            raise ValueError("counts must be whole numbers from 0")
    return true_counts.astype(np.int64), predicted_counts.astype(np.int64)
