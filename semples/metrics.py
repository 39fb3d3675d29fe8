"""Segmentation metrics from counts of pixels. mIoU is in percent (0-100) everywhere in this project."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from semples.data.dataset import IGNORE

RESAMPLED = 400  # bootstrap samples of a standard error
THRESHOLDS = np.arange(1, 255) / 255  # background scores that 8-bit heatmaps can tell apart


def confusion(ground_truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """int64 (K+1, K+1): pixels by true (row) and predicted (column) class, 0 = background.

    ground_truth, prediction: uint8 of one shape, 0..K; pixels with 255 in the ground truth do not count, 255 in the
    prediction counts as background.
    """
    n = classes + 1
    valid = ground_truth != IGNORE
    predicted = np.where(prediction[valid] == IGNORE, 0, prediction[valid])
    return np.bincount(ground_truth[valid].astype(np.int64) * n + predicted, minlength=n * n).reshape(n, n)


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU a class in percent, background first; NaN for a class that is neither in the ground truth nor predicted.

    counts: (..., K+1, K+1) as from `confusion` -> (..., K+1).
    """
    return _iou(areas(counts))


def precision(counts: np.ndarray) -> np.ndarray:
    """Share of the pixels predicted as a class that are of it, in percent: (..., K+1); NaN where none is predicted."""
    return _ratio(counts, counts.sum(-2))


def recall(counts: np.ndarray) -> np.ndarray:
    """Share of the pixels of a class that are predicted as it, in percent: (..., K+1); NaN where there are none."""
    return _ratio(counts, counts.sum(-1))


def _ratio(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    return _share(np.diagonal(counts, axis1=-2, axis2=-1), of)


def _share(hit: np.ndarray, of: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return 100 * hit / np.where(of == 0, np.nan, of)


def miou(counts: np.ndarray) -> float:
    """Mean IoU in percent over background and classes that occur."""
    return float(_mean(iou(counts)))


def areas(counts: np.ndarray) -> np.ndarray:
    """Confusion (..., K+1, K+1) -> (..., 3, K+1): pixels of each class in the ground truth, in the prediction and in
    both. Enough for IoU, and small enough to be kept of every image."""
    return np.stack([counts.sum(-1), counts.sum(-2), np.diagonal(counts, axis1=-2, axis2=-1)], -2)


def _iou(areas: np.ndarray) -> np.ndarray:
    truth, predicted, both = np.moveaxis(areas, -2, 0)
    return _share(both, truth + predicted - both)


def miou_of_areas(areas: np.ndarray) -> np.ndarray:
    """(..., 3, K+1) -> mIoU (%) over the classes that occur, (...,)."""
    return _mean(_iou(areas))


def resampled(areas: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """mIoU (%) over samples of the images. areas (..., N, 3, K+1); samples (S, N), how often each is in it -> (...,
    S)."""
    flat = areas.reshape(*areas.shape[:-2], -1)
    return miou_of_areas((samples @ flat).reshape(*flat.shape[:-2], len(samples), 3, -1))


def bootstrap(images: int) -> np.ndarray:
    """The same samples of so many images whenever they are asked for (Efron, 1979): (S, images), how often each is in
    one."""
    return np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLED)


def standard_error(of_images: Sequence[np.ndarray]) -> float:
    """Standard error of the mIoU over images, in points: its standard deviation over bootstrap samples of them.
    of_images: areas (3, K+1) of each; NaN of a single one. What another seed of the training would do is not in it."""
    images = len(of_images)
    return float(resampled(np.stack(of_images), bootstrap(images)).std(ddof=1)) if images > 1 else math.nan


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, -1) / (~np.isnan(values)).sum(-1)


@dataclass(frozen=True)
class Sweep:
    """Confusion at every background score: counts int64 (T, K+1, K+1) for THRESHOLDS."""

    counts: np.ndarray

    @property
    def miou(self) -> np.ndarray:
        """mIoU in percent at every threshold, (T,)."""
        return _mean(iou(self.counts))

    @property
    def best(self) -> int:
        """Index of the threshold with the highest mIoU."""
        return int(self.miou.argmax())


def sweep_thresholds(pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: int) -> Sweep:
    """Count all background scores in one pass over the pixels.

    pairs: (ground truth uint8 (h, w), heatmaps uint8 (P, h, w) of the present classes, their indices int (P,) in
    0..K-1).
    A pixel is its best class where that class's heatmap exceeds the background score, else background; so per pixel
    only the best class and its 8-bit score matter, and a cumulative histogram over the score holds every threshold.
    """
    n = classes + 1
    histogram = np.zeros((256, n, n), np.int64)  # score of the best class, ground truth, best class
    for ground_truth, heatmaps, present in pairs:
        valid = ground_truth != IGNORE
        winner = 1 + np.asarray(present)[heatmaps.argmax(0)]
        index = (heatmaps.max(0)[valid].astype(np.int64) * n + ground_truth[valid]) * n + winner[valid]
        histogram += np.bincount(index, minlength=histogram.size).reshape(histogram.shape)
    above = histogram[::-1].cumsum(0)[::-1][2:]  # at threshold t/255: pixels whose score is at least t+1
    counts = above[: len(THRESHOLDS)].copy()
    counts[..., 0] += histogram.sum((0, 2)) - above[: len(THRESHOLDS)].sum(-1)
    return Sweep(counts)
