"""f. masks: heatmaps against a constant background score, then a dense CRF: the pseudo masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from semples import by_image
from semples.crf import smooth_labels
from semples.data import png_archive
from semples.data.dataset import IGNORE, Dataset, Split
from semples.image_sets import judging
from semples.metrics import areas, confusion, iou, miou, standard_error
from semples.proxy import agreement
from semples.spread import each
from semples.stages.heatmaps import read_heatmaps
from semples.stages.prompts import load_prompts

if TYPE_CHECKING:
    from semples.config import Config, MasksConfig
    from semples.log import Log

PROGRESS_EVERY = 32


def label_pixels(heatmaps: np.ndarray, background: float) -> np.ndarray:
    """int64 (h, w): 0 where no heatmap, uint8 (P, h, w), exceeds 255 * background, else 1 + the best's position."""
    return np.where(heatmaps.max(0) > 255 * background, 1 + heatmaps.argmax(0), 0)


def make_mask(heatmaps: np.ndarray, present: np.ndarray, image: np.ndarray, settings: MasksConfig) -> np.ndarray:
    """Pseudo mask uint8 (h, w) of heatmaps uint8 (P, h, w) of the classes `present`, int (P,) in 0..K-1.

    Without a band the background score is `background`. With one, the masks at its two ends are made and smoothed, and
    where they differ the mask is 255.
    """

    def at(background: float) -> np.ndarray:
        labels = label_pixels(heatmaps, background)
        return np.array([0, *(1 + present)], np.uint8)[smooth_labels(labels, image, len(present) + 1, settings.crf)]

    if settings.band == 0:
        return at(settings.background)
    narrow, wide = (at(settings.background + sign * settings.band / 2) for sign in (1, -1))
    return np.where(narrow == wide, wide, np.uint8(IGNORE))


def _pseudo_mask(split: Split, heatmaps: png_archive.Reader, settings: MasksConfig, i: int) -> np.ndarray:
    """The pseudo mask of an image of the split, uint8 (h, w)."""
    maps, present = read_heatmaps(heatmaps, split, i)
    return make_mask(maps, present, split.image(i), settings)


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes the pseudo masks of the images that are treated, uint8 with 0..K and 255, and what each says of the mIoU;
    `runtime.workers` processes share the work, or those of a cluster."""
    classes, split, prefix = data.num_classes, data.images, data.prefix
    counts, of_images = np.zeros((classes + 1, classes + 1), np.int64), list[np.ndarray]()
    make = partial(_pseudo_mask, split, png_archive.Reader(inputs["heatmaps"] / png_archive.FILE), config.masks)

    def masks() -> Iterator[tuple[str, Image.Image]]:
        for i, mask in enumerate(each(make, range(len(split)), len(split), config.runtime.workers)):
            ground_truth = split.mask(i)
            if ground_truth is not None:
                of_image = confusion(ground_truth, mask, classes)
                counts[:] += of_image
                of_images.append(areas(of_image))
            if (i + 1) % PROGRESS_EVERY == 0 or i + 1 == len(split):
                log(i + 1, len(split))
            yield split.names[i], png_archive.encode_mask(mask)

    png_archive.write(out / png_archive.FILE, masks())
    by_image.write(out, {f"{prefix}pseudo_miou": of_images})
    metrics = {f"{prefix}pseudo_miou": miou(counts), f"{prefix}pseudo_miou_se": standard_error(of_images)}
    if config.selection == "proxy" and data.treated == judging(config.selection):
        made = png_archive.Reader(out / png_archive.FILE)
        learned = load_prompts(inputs["prompts"])
        metrics["proxy/pseudo_miou"] = agreement(config, data, learned, lambda i: made.read(split.names[i]))
    per_class = zip(("background", *data.classes), iou(counts), strict=True)
    return metrics | {f"{prefix}pseudo_iou/{name}": float(value) for name, value in per_class}
