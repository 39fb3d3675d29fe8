"""What every data set looks like to the method: three splits of images with image labels and, maybe, masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from semples.image_sets import ImageSet

T = TypeVar("T")
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

    def subset(self, indices: Sequence[int]) -> Split:
        """The images of these indices, in their order."""
        own, annotated = tuple(indices), {*self.annotated}
        return Split(
            tuple(self.names[i] for i in own),
            self.labels[list(own)],
            partial(_of, self.image, own),
            partial(_of, self.mask, own),
            tuple(position for position, i in enumerate(own) if i in annotated),
        )


def _of(get: Callable[[int], T], indices: Sequence[int], i: int) -> T:
    return get(indices[i])


@dataclass(frozen=True)
class Dataset:
    """`train` teaches the method (labels only), `holdout` chooses (its masks), `test` is never used to choose.

    classes: K names, the background not among them.
    fingerprint: hex digest of the content, so that results of other data are never taken for results of this.
    doubts: what `semples data check` would have put right, though some runs can do without.
    treated: the set that a stage which treats one is given, as `images`.
    """

    classes: tuple[str, ...]
    train: Split
    holdout: Split
    test: Split
    fingerprint: str
    doubts: tuple[str, ...] = ()
    treated: ImageSet = "holdout"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def treating(self, images: ImageSet) -> Dataset:
        """The same data for a stage that treats this set."""
        return replace(self, treated=images)

    @property
    def images(self) -> Split:
        """The images that are treated."""
        if self.treated == "holdout":
            return self.holdout
        annotated = {*self.train.annotated}
        return self.train.subset(
            [i for i in range(len(self.train)) if (i in annotated) == (self.treated == "measured")]
        )

    @property
    def prefix(self) -> str:
        """What stands before the names of figures measured on the images that are treated."""
        return "holdout/" if self.treated == "holdout" else ""
