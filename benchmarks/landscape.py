"""Landscapes: sweeps of which so many configurations are measured that other searches can be tried on them.

A landscape is a sweep file, landscapes/NAME.yaml, and beside it in landscapes/NAME/ what `record_landscape.py` measured
of its space. What is kept of a configuration are the pixel counts of every image by class, not mIoUs, so that whoever
asks draws the images that choose and those that tell how good the choice was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from semples.metrics import miou_of_areas

FOLDER = Path(__file__).parent / "landscapes"
SCORES = np.linspace(0.2, 0.8, 8)  # background scores at which heatmaps are counted
PRESENT = 3  # classes of an image, at most
POOLS = ("holdout", "test")


@dataclass(frozen=True)
class Landscape:
    """What was measured of a sweep. rows: the configurations: parameters, CPU seconds of each stage, mIoU of the CAM
    milestones on all images of the holdout pool, the seed of the run, which of the masks' settings it is (late), and
    whether it has a network.

    Counts are of pixels by class, background first: predicted as it, and those of them that are right. truth (N, K+1)
    and pool (N,) are of all images, holdout and test (`POOLS`) in order; masks (rows, holdout, K+1, 2); networks by row
    (N, K+1, 2); heatmaps by row, at SCORES, (8, holdout, K+1, 2)."""

    name: str
    rows: list[dict[str, Any]]
    pool: np.ndarray
    truth: np.ndarray
    masks: np.ndarray
    heatmaps: Mapping[int, np.ndarray]
    networks: Mapping[int, np.ndarray]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Images of each pool."""
        return {name: int((self.pool == i).sum()) for i, name in enumerate(POOLS)}

    def of_masks(self, images: np.ndarray) -> np.ndarray:
        """mIoU (%) of the pseudo masks of every row (rows,) over these images of the holdout."""
        return _miou(self.masks[:, images], self.truth[images])

    def at_scores(self, row: int, images: np.ndarray) -> np.ndarray:
        """mIoU (%) of the heatmaps of a row at SCORES (16,) over these images of the holdout."""
        return _miou(self.heatmaps[row][:, images], self.truth[images])

    def of_network(self, row: int, images: np.ndarray) -> float:
        """mIoU (%) of the network of a row over these images."""
        return float(_miou(self.networks[row][images], self.truth[images]))


def _miou(counts: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of images, counts (..., N, K+1, 2) and true pixels (N, K+1) -> mIoU (%) over all of them."""
    predicted, both = np.moveaxis(counts.sum(-3, dtype=np.int64), -1, 0)
    return miou_of_areas(np.stack([np.broadcast_to(truth.sum(0), both.shape), predicted, both], -2))


def read(name: str) -> Landscape:
    """A landscape as far as it was recorded."""
    folder = FOLDER / name
    with np.load(folder / "images.npz") as images:
        pool, truth, labels = images["pools"], images["truth"].astype(np.int64), images["labels"]
    labels = labels[pool != POOLS.index("test")]
    rows: list[dict[str, Any]] = []
    masks, heatmaps, networks = [], {}, {}
    for file in sorted(folder.glob("*-*.npz")) + sorted(folder.glob("[0-9]*.npz")):
        with np.load(file) as stored:
            own = json.loads(stored["rows"].tobytes())
            of_heatmaps, of_networks = iter(stored["heatmaps"]), iter(stored["networks"])
            for number, row in enumerate(own, len(rows)):
                if row["late"] == 0:
                    heatmaps[number] = _dense(next(of_heatmaps), labels)
                if row["network"]:
                    networks[number] = next(of_networks)
            masks.append(_dense(stored["masks"], labels))
            rows += own
    return Landscape(name, rows, pool, truth, np.concatenate(masks), heatmaps, networks)


def _dense(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(..., N, 1 + PRESENT, 2) of the present classes -> (..., N, K+1, 2)."""
    result = np.zeros((*counts.shape[:-2], labels.shape[1] + 1, 2), np.uint16)
    for i, own in enumerate(labels):
        kept = [0, *(1 + np.flatnonzero(own))]
        result[..., i, kept, :] = counts[..., i, : len(kept), :]
    return result
