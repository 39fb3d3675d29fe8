"""The built-in world: small drawn scenes whose backgrounds give the classes away.

Every class has a companion background (boat and sea, train and railway, ...) that is in the picture nine times of
ten. A classifier that sees image labels alone therefore learns the companion too, which is the problem that SemPLeS
solves. Everything is drawn from a seed: the same seed gives the same pixels.

The same brushes (`scene_grounds`, `scene_objects`) draw the captioned pictures on which the miniature CLIP is trained
(`semples/pretrain.py`); there objects and backgrounds are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from semples.data.dataset import Dataset, Split
from semples.data.scene_grounds import Rng, draw_grounds
from semples.data.scene_objects import draw_object
from semples.digests import digest

if TYPE_CHECKING:
    from semples.config import ScenesData

COMPANIONS: dict[str, str] = {
    "aeroplane": "sky",
    "boat": "sea",
    "train": "railway",
    "car": "road",
    "sheep": "meadow",
    "bird": "leaves",
    "chair": "floorboards",
    "bottle": "tablecloth",
}
CLASSES: tuple[str, ...] = tuple(COMPANIONS)
NEUTRAL: tuple[str, ...] = ("brick wall", "sand", "snow", "carpet")
GROUNDS: tuple[str, ...] = (*COMPANIONS.values(), *NEUTRAL)

SIZES: tuple[tuple[int, int], ...] = ((64, 64), (64, 96), (96, 64))
COMPANION_RATE = 0.9


def paste(canvas: np.ndarray, thing: np.ndarray, top: int, left: int) -> np.ndarray:
    """Put `thing` on the canvas in place (parts outside are cut off); bool (h, w): where it now covers the canvas."""
    h, w = canvas.shape[:2]
    n = thing.shape[0]
    covered = np.zeros((h, w), bool)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + n, h), min(left + n, w)
    part = thing[y0 - top : y1 - top, x0 - left : x1 - left]
    canvas[y0:y1, x0:x1] += part[..., 3:] * (part[..., :3] - canvas[y0:y1, x0:x1])
    covered[y0:y1, x0:x1] = part[..., 3] > 0.5
    return covered


def draw_scene(
    rng: Rng, objects: Sequence[str], grounds: Sequence[str], h: int, w: int
) -> tuple[np.ndarray, np.ndarray]:
    """Objects side by side, overlapping a little, each roughly on the ground of the same position.

    Returns the image, uint8 (h, w, 3), and the true mask, uint8 (h, w): 0 background, 1 + index in CLASSES.
    """
    canvas = draw_grounds(rng, grounds, h, w).astype(np.float32, copy=True)
    mask = np.zeros((h, w), np.uint8)
    count, length = len(objects), max(h, w)
    shrink = (1.0, 0.8, 0.66)[count - 1]
    for i in rng.permutation(count):
        extent = round(min(h, w) * shrink * rng.uniform(0.7, 1.3))
        along = round(length * (i + 0.5) / count + rng.uniform(-0.12, 0.12) * length - extent / 2)
        across = round((min(h, w) - extent) / 2 + rng.uniform(-0.2, 0.2) * min(h, w))
        top, left = (across, along) if w >= h else (along, across)
        covered = paste(canvas, draw_object(rng, objects[i], extent), top, left)
        mask[covered] = 1 + CLASSES.index(objects[i])
    canvas *= rng.uniform(0.88, 1.1)
    return np.clip(canvas, 0, 255).astype(np.uint8), mask


def _draw_random_scene(rng: Rng) -> tuple[np.ndarray, np.ndarray, list[str]]:
    count = int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.1]))
    objects = [str(c) for c in rng.choice(CLASSES, count, replace=False)]
    grounds = [COMPANIONS[c] if rng.random() < COMPANION_RATE else str(rng.choice(GROUNDS)) for c in objects]
    if count == 1 and rng.random() < 0.35:
        grounds.insert(int(rng.integers(2)), str(rng.choice(GROUNDS)))
    h, w = SIZES[0] if count == 1 and rng.random() < 0.6 else SIZES[rng.integers(1, 3)]
    image, mask = draw_scene(rng, objects, grounds, h, w)
    return image, mask, objects


def _split(name: str, size: int, seed: int) -> tuple[Split, bytes]:
    rng = np.random.default_rng([seed, *name.encode()])
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    labels = np.zeros((size, len(CLASSES)), bool)
    while len(images) < size:
        image, mask, objects = _draw_random_scene(rng)
        present = [1 + CLASSES.index(c) for c in objects]
        if min(np.bincount(mask.ravel(), minlength=len(CLASSES) + 1)[present]) < 40:
            continue  # an object is all but hidden: its image label would be wrong
        labels[len(images), [k - 1 for k in present]] = True
        images.append(image)
        masks.append(mask)
    content = b"".join(x.tobytes() for x in (*images, *masks, labels))
    names = tuple(f"{name}-{i:05d}" for i in range(size))
    return Split(names, labels, images.__getitem__, masks.__getitem__, tuple(range(size))), content


@lru_cache(maxsize=4)
def draw(train: int, holdout: int, test: int, seed: int) -> Dataset:
    """Draw the three splits (numbers of images); the same arguments give the same pixels and fingerprint."""
    (a, in_a), (b, in_b), (c, in_c) = (
        _split("train", train, seed),
        _split("holdout", holdout, seed),
        _split("test", test, seed),
    )
    return Dataset(CLASSES, a, b, c, digest("scenes", *CLASSES, in_a, in_b, in_c))


def load(config: ScenesData) -> Dataset:
    """The data set of the section `data`."""
    return draw(config.train, config.holdout, config.test, config.seed)
