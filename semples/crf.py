"""Dense CRF (Krähenbühl and Koltun 2011): labels or probabilities that follow the edges of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels, unary_from_softmax

if TYPE_CHECKING:
    from semples.config import CrfConfig


def smooth_labels(labels: np.ndarray, image: np.ndarray, count: int, settings: CrfConfig) -> np.ndarray:
    """Labels int (h, w) in 0..count-1 and image uint8 (h, w, 3) -> labels of the same form."""
    if settings.iterations == 0 or count == 1:
        return labels
    return _infer(unary_from_labels(labels, count, settings.gt_prob, zero_unsure=False), image, settings)


def smooth_probabilities(probabilities: np.ndarray, image: np.ndarray, settings: CrfConfig) -> np.ndarray:
    """Probabilities float32 (C, h, w) and image uint8 (h, w, 3) -> labels int64 (h, w) in 0..C-1."""
    if settings.iterations == 0:
        return probabilities.argmax(0)
    return _infer(unary_from_softmax(probabilities, clip=1e-5), image, settings)


def _infer(unary: np.ndarray, image: np.ndarray, settings: CrfConfig) -> np.ndarray:
    h, w = image.shape[:2]
    crf = DenseCRF2D(w, h, len(unary))
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.array(image, order="C"),  # a copy: pydensecrf takes no array that may only be read
        compat=settings.bilateral_compat,
    )
    return np.argmax(crf.inference(settings.iterations), axis=0).reshape(h, w)
