"""What every data set looks like to the method: three splits of images with image labels and, maybe, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

IGNORE = 255  # mask value of pixels that count neither for nor against anything


@dataclass(frozen=True)
class Split:
    """Images with image labels. `image(i)` is uint8 (h, w, 3), `mask(i)` uint8 (h, w) in 0..K and 255, or None."""

    names: tuple[str, ...]
    labels: np.ndarray  # bool (N, K)
    image: Callable[[int], np.ndarray]
    mask: Callable[[int], np.ndarray | None]
    annotated: tuple[int, ...]  # indices of the images that have a true mask

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Dataset:
    """`train` teaches the method (labels only), `holdout` chooses (its masks), `test` is never used to choose.

    classes: K names, the background not among them.
    fingerprint: hex digest of the content, so that results of other data are never taken for results of this.
    doubts: what `semples data check` would have put right, though some runs can do without.
    """

    classes: tuple[str, ...]
    train: Split
    holdout: Split
    test: Split
    fingerprint: str
    doubts: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)
