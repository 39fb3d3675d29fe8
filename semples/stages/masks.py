"""f. masks: heatmaps against a constant background score, then a dense CRF: the pseudo masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels

from semples.config import Config, CrfConfig
from semples.data import archive
from semples.data.dataset import Dataset
from semples.log import Log
from semples.metrics import confusion, iou, miou
from semples.stages.heatmaps import FILES, read_heatmaps

PROGRESS_EVERY = 32


def label_pixels(heatmaps: np.ndarray, background: float) -> np.ndarray:
    """int64 (h, w): 0 where no heatmap, uint8 (P, h, w), exceeds 255 * background, else 1 + the best's position."""
    return np.where(heatmaps.max(0) > 255 * background, 1 + heatmaps.argmax(0), 0)


def smooth(labels: np.ndarray, image: np.ndarray, count: int, settings: CrfConfig) -> np.ndarray:
    """Dense CRF: labels int (h, w) in 0..count-1 and image uint8 (h, w, 3) -> labels of the same form."""
    if settings.iterations == 0 or count == 1:
        return labels
    h, w = labels.shape
    crf = DenseCRF2D(w, h, count)
    crf.setUnaryEnergy(unary_from_labels(labels, count, settings.gt_prob, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.array(image),
        compat=settings.bilateral_compat,
    )
    return np.argmax(crf.inference(settings.iterations), axis=0).reshape(h, w)


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes the pseudo masks of training set and holdout, uint8 with 0..K."""
    settings, classes = config.masks, data.num_classes
    counts = {name: np.zeros((classes + 1, classes + 1), np.int64) for name in FILES}
    done, total = 0, len(data.train) + len(data.holdout)
    for name, file in FILES.items():
        split = getattr(data, name)

        def masks() -> Iterator[tuple[str, np.ndarray]]:
            nonlocal done
            for i, heatmaps, present in read_heatmaps(inputs["heatmaps"], split, file):  # noqa: B023
                labels = label_pixels(heatmaps, settings.background)
                labels = smooth(labels, split.image(i), len(present) + 1, settings.crf)  # noqa: B023
                mask = np.array([0, *(1 + present)], np.uint8)[labels]
                truth = split.mask(i)  # noqa: B023
                if truth is not None:
                    counts[name] += confusion(truth, mask, classes)  # noqa: B023
                done += 1
                if done % PROGRESS_EVERY == 0 or done == total:
                    log(done, total)
                yield split.names[i], mask  # noqa: B023

        archive.write(out / file, masks())
    metrics = {"pseudo_miou": miou(counts["train"]), "holdout/pseudo_miou": miou(counts["holdout"])}
    per_class = iou(counts["train"])
    return metrics | {
        f"pseudo_iou/{c}": float(v) for c, v in zip(("background", *data.classes), per_class, strict=True)
    }
