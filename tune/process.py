"""The Gaussian process that a search learns from: smooth in the parameters, with the luck that trials share.

A stage that was computed once is what it is: whoever reuses its result shares its luck, of seeds and of images. So two
trials covary by how near their parameters are, and by every stage whose result they have in common:

    k(x, x') = a M(x, x') + sum over stages s of v_s [x and x' have the same result of s]

with the Matern 5/2 kernel M and a length for every parameter. The last of these sums is what nothing shares: noise.
What somebody believes of points, b(x) with a column for every belief, is expected of them with a weight of 1, give or
take 1: trials that say otherwise change it, so a wrong belief is not held for long. The scales are learned by maximum
a posteriori, so that few observations are believed only as far as they go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize

# log-normal priors (mean of the logarithm, deviation): of observations with deviation 1, keys in [0, 1]
AMPLITUDE = (0.0, 0.7)
LENGTH = (float(np.log(0.7)), 0.7)
LUCK = (float(np.log(0.03)), 1.2)
JITTER, ROUNDING = 1e-6, 1e-4  # of variances, so that rounding makes none of them negative
STEPS = 60  # of the search for the most probable scales, at most


@dataclass(frozen=True)
class Points:
    """x: features (n, d). results: by stage, which points have the same result, (n, stages), numbers. beliefs: what
    they are expected to be worth more than others, in deviations, (n, beliefs)."""

    x: np.ndarray
    results: np.ndarray
    beliefs: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: np.ndarray | slice) -> Points:
        """Some of them."""
        return Points(self.x[which], self.results[which], self.beliefs[which])


def learn(points: Points, y: np.ndarray, theta: np.ndarray | None) -> np.ndarray:
    """Observations y (n,) of mean 0 and deviation 1 -> the most probable logarithms of amplitude, lengths and lucks,
    looked for from `theta` on."""
    squares = (points.x[:, None, :] - points.x[None, :, :]) ** 2
    same = (points.results[:, None, :] == points.results[None, :, :]).astype(float)
    d = squares.shape[2]
    believed, y = points.beliefs @ points.beliefs.T, y - points.beliefs.sum(1)
    middle, width = np.array([AMPLITUDE, *[LENGTH] * d, *[LUCK] * same.shape[2]]).T

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        amplitude, lengths, lucks = np.exp(theta[0]), np.exp(theta[1 : d + 1]), np.exp(theta[d + 1 :])
        scaled = squares / lengths**2
        a = np.sqrt(5 * scaled.sum(2))
        decay = amplitude * np.exp(-a)
        smooth = decay * (1 + a + a * a / 3)
        try:
            root = cholesky(smooth + same @ lucks + believed + JITTER * np.eye(len(y)), lower=True)
        except np.linalg.LinAlgError:
            return 1e25, np.zeros_like(theta)
        inverse = cho_solve((root, True), np.eye(len(y)))
        alpha = inverse @ y
        off = (theta - middle) / width
        value = 0.5 * y @ alpha + np.log(np.diag(root)).sum() + 0.5 * off @ off
        weight = 0.5 * (inverse - np.outer(alpha, alpha))
        gradient = np.concatenate(
            [
                [np.sum(weight * smooth)],
                np.einsum("ij,ijk->k", weight * decay * (1 + a) * (5 / 3), scaled),
                np.einsum("ij,ijk->k", weight, same) * lucks,
            ]
        )
        return float(value), gradient + off / width

    bounds = [*zip(middle - 4 * width, middle + 4 * width, strict=True)]
    start = middle if theta is None else theta
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    return np.asarray(found.x)


class Process:
    """Of observations y (n,), given its scales. What it says of points is without noise."""

    def __init__(self, points: Points, y: np.ndarray, theta: np.ndarray):
        self._points, self._theta = points, theta
        self._root = cholesky(
            self._covariance(points, points) + (np.exp(theta[-1]) + JITTER) * np.eye(len(y)), lower=True
        )
        self._alpha = cho_solve((self._root, True), y - points.beliefs.sum(1))

    def _covariance(self, one: Points, other: Points) -> np.ndarray:
        """Without the noise."""
        d = one.x.shape[1]
        u, v = (of.x / np.exp(self._theta[1 : d + 1]) for of in (one, other))
        squares = (u * u).sum(1)[:, None] + (v * v).sum(1)[None] - 2 * u @ v.T
        a = np.sqrt(5 * np.maximum(squares, 0))
        found = np.exp(self._theta[0]) * np.exp(-a) * (1 + a + a * a / 3) + one.beliefs @ other.beliefs.T
        for stage, luck in enumerate(np.exp(self._theta[d + 1 : -1])):
            found += luck * (one.results[:, stage, None] == other.results[None, :, stage])
        return np.asarray(found)

    def draw(self, points: Points, count: int, rng: np.random.Generator) -> np.ndarray:
        """What points may be worth together, (count, m)."""
        cross = self._covariance(self._points, points)
        left = self._covariance(points, points) - cross.T @ cho_solve((self._root, True), cross)
        root = cholesky(left + ROUNDING * np.eye(len(points)), lower=True)
        return np.asarray(self._mean(points, cross) + rng.standard_normal((count, len(points))) @ root.T)

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (m,) of what points are worth."""
        cross = self._covariance(self._points, points)
        total = np.exp(self._theta[0]) + np.exp(self._theta[points.x.shape[1] + 1 : -1]).sum()
        total = total + (points.beliefs**2).sum(1)
        explained = (cross * cho_solve((self._root, True), cross)).sum(0)
        return self._mean(points, cross), np.sqrt(np.maximum(total - explained, 1e-12))

    def _mean(self, points: Points, cross: np.ndarray) -> np.ndarray:
        """cross: their covariance with what was observed."""
        return np.asarray(cross.T @ self._alpha + points.beliefs.sum(1))
