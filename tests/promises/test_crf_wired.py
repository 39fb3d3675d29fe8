"""The dense CRF gets every setting in its place, and what is known of the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from semples import crf
from semples.config import CrfConfig

SETTINGS = CrfConfig(
    iterations=7,
    gt_prob=0.8,
    gaussian_sxy=2,
    gaussian_compat=3,
    bilateral_sxy=31,
    bilateral_srgb=11,
    bilateral_compat=13,
)


class RecordingCrf:
    """In the place of the dense CRF: keeps what it is given, and answers with the labels that go in."""

    calls: dict[str, Any]

    def __init__(self, *size: int):
        RecordingCrf.calls = {"size": size}

    def setUnaryEnergy(self, unary: np.ndarray) -> None:  # noqa: N802
        self.calls["unary"] = unary

    def addPairwiseGaussian(self, sxy: float, compat: float) -> None:  # noqa: N802
        self.calls["gaussian"] = (sxy, compat)

    def addPairwiseBilateral(self, sxy: float, srgb: float, rgbim: np.ndarray, compat: float) -> None:  # noqa: N802
        self.calls["bilateral"] = (sxy, srgb, compat)
        self.calls["image"] = rgbim

    def inference(self, iterations: int) -> np.ndarray:
        self.calls["iterations"] = iterations
        return np.asarray(-self.calls["unary"])


@pytest.mark.parametrize("smooth", ["labels", "probabilities"])
def test_the_crf_gets_every_setting_under_its_name(monkeypatch: pytest.MonkeyPatch, smooth: str) -> None:
    monkeypatch.setattr(crf, "DenseCRF2D", RecordingCrf)
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    labels = np.arange(24).reshape(4, 6) % 3
    if smooth == "labels":
        result, sure = crf.smooth_labels(labels, image, 3, SETTINGS), 0.8
    else:
        sure = 0.6
        result = crf.smooth_probabilities((0.4 * np.eye(3)[:, labels] + 0.2).astype(np.float32), image, SETTINGS)
    calls = RecordingCrf.calls
    assert calls["size"] == (6, 4, 3) and calls["iterations"] == 7 and (calls["image"] == image).all()
    assert calls["gaussian"] == (2, 3) and calls["bilateral"] == (31, 11, 13)
    expected = np.where(np.eye(3)[:, labels.ravel()] == 1, sure, (1 - sure) / 2)
    assert np.exp(-calls["unary"]) == pytest.approx(expected, rel=1e-4)
    assert (result == labels).all()
