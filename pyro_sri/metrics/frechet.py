"""Fréchet distance between the Gaussians fitted to two sets of features.

Its name depends on the features: it is the FID only with features of the Inception network (Heusel et al. 2017).
"""

from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import linalg

Features = npt.NDArray[np.float64]


class FeatureMoments:
    """Count, mean and covariance of features that arrive in batches. The features themselves are not kept.

    Batches are joined pairwise (Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance). With n, m
    and S the count, the mean and the scatter sum (x - m)(x - m)^T of two sets, those of their union are

        n = n1 + n2,   m = m1 + (n2 / n) d,   S = S1 + S2 + (n1 n2 / n) d d^T,   d = m2 - m1

    so that no two large numbers are subtracted.

    Args:
        size: F, the number of features.

    Attributes:
        count: n, the number of features seen.
        mean: float64 [F].
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))

    def update(self, features: npt.ArrayLike) -> Self:
        """Adds a batch of features [n, F], n >= 0, and returns itself.

        Raises:
            ValueError: Another shape, or values that are not finite.
        """
        batch = _check(features, self.mean.size)
        if len(batch):
            mean = batch.mean(0)
            centred = batch - mean
            self._join(len(batch), mean, centred.T @ centred)
        return self

    def merge(self, other: "FeatureMoments") -> Self:
        """Adds everything that another one has seen, and returns itself.

        Raises:
            ValueError: Another number of features.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"moments of {self.mean.size} features cannot be merged with those of {other.mean.size}")
        if other.count:
            self._join(other.count, other.mean, other._scatter)
        return self

    def _join(self, count: int, mean: Features, scatter: Features) -> None:
        total = self.count + count
        difference = mean - self.mean
        self._scatter = self._scatter + scatter + np.outer(difference, difference) * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    @property
    def covariance(self) -> Features:
        """The unbiased covariance, float64 [F, F]: the scatter over n - 1.

        Raises:
            ValueError: Fewer than two features were seen.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs features of at least 2 images, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(first: npt.ArrayLike | FeatureMoments, second: npt.ArrayLike | FeatureMoments) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features (Dowson & Landau 1982).

    With means m and covariances C:

        ||m1 - m2||^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)

    C1 C2 is not symmetric, and it is singular if there are fewer images than features. Its square root would then need
    a multiple of the identity added, and rounding would make it complex. The trace alone needs neither. With
    C = A A^T, the eigenvalues of C1 C2 are the squared singular values of A1^T A2, so tr (C1 C2)^(1/2) is the sum of
    these singular values.

    Args:
        first: Features [n, F] of one set, or their moments.
        second: The other set, likewise.

    Returns:
        The distance, at least 0, in squared units of the features. It is symmetric. It is biased upwards for small
        sets, so compare distances only for equal numbers of images.

    Raises:
        ValueError: Wrong or different shapes, values that are not finite, or fewer than 2 images in a set.
    """
    one, other = _moments(first), _moments(second)
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"both sets need the same features, got {one.mean.size} and {other.mean.size}")
    covariances = one.covariance, other.covariance
    spread = sum(float(np.trace(covariance)) for covariance in covariances)
    roots = [_root(covariance) for covariance in covariances]
    common = float(linalg.svdvals(roots[0].T @ roots[1]).sum())
    difference = one.mean - other.mean
    return max(float(difference @ difference) + spread - 2 * common, 0.0)


def _root(covariance: Features) -> Features:
    """A with A A^T = C, from C = V diag(w) V^T. The smallest w may be negative by rounding."""
    eigenvalues, vectors = linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(eigenvalues, 0))


def _moments(features: npt.ArrayLike | FeatureMoments) -> FeatureMoments:
    if isinstance(features, FeatureMoments):
        return features
    array = np.asarray(features)
    return FeatureMoments(array.shape[-1] if array.ndim else 0).update(array)


def _check(features: npt.ArrayLike, size: int) -> Features:
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[1] != size or not size:
        raise ValueError(f"features must have the shape [images, {size or 'features'}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("features must be finite, got NaN or infinity")
    return array.astype(np.float64)
