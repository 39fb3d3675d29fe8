"""Image labels against true masks: both say which classes are in an image, so they must say the same.

Real data sets have a few images where they do not (an object too small for a mask, one that nobody labelled). Where it
is many, or most images of one class, labels or masks count the classes in another way, and every figure is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from semples.data.classes import listed
from semples.data.dataset import IGNORE, Dataset, Split
from semples.data.labels import classes_in
from semples.data.listing import FEW

HIDDEN = 0.25  # the same where a class is labelled that has no pixel: in COCO's masks others may cover a small object
ENOUGH = 5  # images of a class from which its own share is looked at
LOOKED_AT = 64  # masks of each part that are compared before a run


@dataclass(frozen=True)
class Seen:
    """What an image's labels and its mask say: bool (K,) each. ignored: whether the mask has pixels of 255."""

    name: str
    labels: np.ndarray
    pixels: np.ndarray
    ignored: bool


def look(name: str, labels: np.ndarray, mask: np.ndarray) -> Seen:
    """Labels bool (K,) and true mask uint8 (h, w) of an image."""
    return Seen(name, labels, classes_in(mask, len(labels)), bool((mask == IGNORE).any()))


def compare(classes: Sequence[str], parts: Mapping[str, Sequence[Seen]]) -> tuple[list[str], list[str]]:
    """Problems and remarks, one sentence each, with counts, an example and the likely remedy.

    parts: by part of the data (train, holdout, test) its images that have a mask.
    """
    for part, found in parts.items():
        if found and not any(s.pixels.any() for s in found):
            return [f"not one of the {len(found)} {part} masks has a pixel of any class; {_values(found)}"], []
    seen = [s for found in parts.values() for s in found]
    labels = np.array([s.labels for s in seen]).reshape(len(seen), len(classes))
    pixels = np.array([s.pixels for s in seen]).reshape(labels.shape)
    wrong = np.flatnonzero((labels != pixels).any(1)).tolist()
    if not wrong:
        return [], []
    first = next((seen[i] for i in wrong if labels[i].any()), seen[wrong[0]])
    shown = _words(classes, first.pixels) or "no class"
    text = (
        f"image labels and masks disagree in {len(wrong)} of {len(seen)} images: '{first.name}' is labelled "
        f"{_words(classes, first.labels) or 'with no class'}, its mask shows {shown}"
    )
    if empty := int(_empty(labels, pixels).sum()):
        text += f" ({empty} labelled images have a mask without a pixel of any class)"
    if _too_many(labels, pixels):
        return [f"{text}; {_remedy(classes, labels, pixels, seen)}"], []
    if odd := _odd_class(classes, labels, pixels):
        return [f"{text}{odd}; {_remedy(classes, labels, pixels, seen)}"], []
    return [], [text]


def compare_before_run(data: Dataset) -> tuple[list[str], list[str]]:
    """The same for a bounded number of the masks that a run measures on."""
    parts = {"train": data.train, "holdout": data.holdout, "test": data.test}
    return compare(data.classes, {part: _sample(split) for part, split in parts.items()})


def _sample(split: Split) -> list[Seen]:
    step = max(1, -(-len(split.annotated) // LOOKED_AT))
    found = []
    for i in split.annotated[::step]:
        mask = split.mask(i)
        if mask is not None:
            found.append(look(split.names[i], split.labels[i], mask))
    return found


def _words(classes: Sequence[str], which: np.ndarray) -> str:
    return listed(classes[k] for k in np.flatnonzero(which).tolist())


def _empty(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Images with labels whose mask has no pixel of any class, bool (N,)."""
    return np.asarray(labels.any(1) & ~pixels.any(1))


def _too_many(labels: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether more images disagree than real data sets have."""
    extra, missing = (pixels & ~labels).any(1), (labels & ~pixels).any(1)
    return bool((extra | missing).all()) or any(
        count > max(1, share * len(labels))
        for count, share in ((extra.sum(), FEW), (_empty(labels, pixels).sum(), FEW), (missing.sum(), HIDDEN))
    )


def _odd_class(classes: Sequence[str], labels: np.ndarray, pixels: np.ndarray) -> str:
    """A class of which most images disagree, with its counts, '' where there is none."""
    for k, name in enumerate(classes):
        labelled, shown = int(labels[:, k].sum()), int(pixels[:, k].sum())
        both = int((labels[:, k] & pixels[:, k]).sum())
        if labelled >= ENOUGH and both < FEW * labelled:
            return f", and of {labelled} images labelled '{name}' {labelled - both} have no pixel of it"
        if shown >= ENOUGH and both < shown / 2:
            return f", and of {shown} images with pixels of '{name}' {shown - both} have no such label"
    return ""


def _remedy(classes: Sequence[str], labels: np.ndarray, pixels: np.ndarray, seen: Sequence[Seen]) -> str:
    """The order of the classes in which labels and masks agree, if there is one."""
    apart = (labels.T[None, :, :] != pixels.T[:, None, :]).sum(2)  # mask value, label
    apart = apart * len(classes) - np.eye(len(classes), dtype=int)  # of equally good ones the order as it is
    values, order = linear_sum_assignment(apart)
    if (order != values).any() and (labels[:, order] != pixels).any(1).mean() <= FEW:
        moved = [f"{v + 1} is '{classes[k]}'" for v, k in zip(values, order, strict=True) if v != k]
        more = f" and {len(moved) - 8} more" if len(moved) > 8 else ""
        return (
            f"they agree where in the masks {', '.join(moved[:8])}{more}: give the classes (data.classes, classes.txt, "
            "the columns of a table) in that order, or number the masks anew"
        )
    if not pixels[labels.any(1)].any(1).any():
        return _values(seen)
    return "compare the order of the classes with the values 1..K in the masks, and the labels with both"


def _values(seen: Sequence[Seen]) -> str:
    if all(s.ignored for s in seen if s.labels.any()):
        return "they have 255, which counts for nothing: save the pixels of classes as 1..K"
    return "masks need the values 1..K for the classes, 0 for the background and 255 for what does not count"
