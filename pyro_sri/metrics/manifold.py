"""Fidelity and diversity as separate measures: precision and recall, density and coverage.

All four ask whether points lie in balls. Each point of a set has a ball that reaches to its k-th nearest other point in
the set. The surface belongs to the ball. The balls together approximate the region of the set.

Distances are computed a few rows at a time, so memory grows with the number of images, not with its square.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]

# Rows of distances in memory at once: 82 MB for 10,000 images.
ROWS = 1024
# Squared distances that differ by less than this share of the largest squared norm count as equal. They come from
# matrix products, whose rounding (about 1e-15 of that norm) must not push a point out of a ball on whose surface it is.
ROUNDING = 1e-12


class PrecisionRecall(NamedTuple):
    """Improved precision and recall."""

    precision: float
    """Share of the generated images that look like a real one, in [0,1]: fidelity."""
    recall: float
    """Share of the real images that look like a generated one, in [0,1]: diversity."""


class DensityCoverage(NamedTuple):
    """Density and coverage."""

    density: float
    """Number of balls of real images that a generated image lies in, divided by k: fidelity. It may exceed 1."""
    coverage: float
    """Share of the real images with a generated one in their ball, in [0,1]: diversity."""


def precision_recall(real: npt.ArrayLike, generated: npt.ArrayLike, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

        precision = share of the generated points that lie in the ball of some real point
        recall    = share of the real points that lie in the ball of some generated point

    Both are 1 for equal sets.

    Args:
        real: features of real images, [n,F].
        generated: features of generated images, [m,F].
        neighbours: k, which neighbour a ball reaches to.

    Raises:
        ValueError: wrong or different shapes, values that are not finite, or no more than k images in a set.
    """
    real, generated = _check(real, generated, neighbours)
    precision = [inside.any(axis=1) for inside in _inside(generated, real, neighbours)]
    recall = [inside.any(axis=1) for inside in _inside(real, generated, neighbours)]
    return PrecisionRecall(float(np.concatenate(precision).mean()), float(np.concatenate(recall).mean()))


def density_coverage(real: npt.ArrayLike, generated: npt.ArrayLike, neighbours: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020). Unlike precision and recall, they change little with a single outlier.

        density  = mean over the generated points of the number of balls of real points around it, divided by k
        coverage = share of the real points whose ball contains some generated point

    For samples from the same distribution, density is 1 on average, and coverage is about 1 - 2^-k if both sets have
    the same size. For equal sets, density is 1 + 1/k, because each point also lies in its own ball, and coverage is 1.
    Images that occur more than k times among the real ones (for example empty scenes) increase the density: their balls
    have radius 0 and contain all copies.

    Args:
        real: features of real images, [n,F].
        generated: features of generated images, [m,F].
        neighbours: k, which neighbour a ball reaches to.

    Raises:
        ValueError: as in `precision_recall`.
    """
    real, generated = _check(real, generated, neighbours)
    held = 0
    covered = np.zeros(len(real), dtype=np.bool_)
    for inside in _inside(generated, real, neighbours):
        held += int(inside.sum())
        covered |= inside.any(axis=0)
    return DensityCoverage(held / (neighbours * len(generated)), float(covered.mean()))


def _inside(points: Features, centres: Features, neighbours: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Whether points [m,F] lie in the balls of centres [n,F]: bool [rows,n], up to ROWS points at a time."""
    middle = centres.mean(axis=0)  # rounding grows with the norms
    points, centres = points - middle, centres - middle
    slack = ROUNDING * max(np.square(points).sum(axis=1).max(), np.square(centres).sum(axis=1).max())
    reach = _squared_radii(centres, neighbours) + slack
    for start in range(0, len(points), ROWS):
        yield _squared_distances(points[start : start + ROWS], centres) <= reach


def _squared_radii(centres: Features, neighbours: int) -> Features:
    """Squared distance of each point [n,F] to its k-th nearest other one, [n]."""
    radii = np.empty(len(centres))
    for start in range(0, len(centres), ROWS):
        distances = _squared_distances(centres[start : start + ROWS], centres)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf  # no point is its own neighbour
        radii[start : start + ROWS] = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1]
    return radii


def _squared_distances(first: Features, second: Features) -> Features:
    """[a,F], [b,F] -> [a,b]."""
    distances = first @ second.T
    distances *= -2
    distances += np.square(first).sum(axis=1)[:, None]
    distances += np.square(second).sum(axis=1)
    return distances


def _check(real: npt.ArrayLike, generated: npt.ArrayLike, neighbours: int) -> tuple[Features, Features]:
    real, generated = np.asarray(real), np.asarray(generated)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            "features must have the shapes [real, features] and [generated, features], "
            f"got {list(real.shape)} and {list(generated.shape)}"
        )
    if not 1 <= neighbours < min(len(real), len(generated)):
        raise ValueError(
            f"neighbours must be at least 1 and fewer than the images of each set, got {neighbours} "
            f"for {len(real)} real and {len(generated)} generated ones"
        )
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise ValueError("features must be finite, got NaN or infinity")
    return real.astype(np.float64), generated.astype(np.float64)
