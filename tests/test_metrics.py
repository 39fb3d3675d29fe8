from __future__ import annotations

import numpy as np
import pytest

from semples.metrics import THRESHOLDS, confusion, iou, miou, sweep_thresholds


def test_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 2, 2, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 1], [0, 2, 0, 2]], np.uint8)
    # background: 2 of {3 true + 1 more predicted}; class 1: 2 of 3; class 2: 1 of 2; class 3 occurs nowhere
    values = iou(confusion(truth, predicted, 3))
    assert values[:3] == pytest.approx([50, 200 / 3, 50])
    assert np.isnan(values[3])
    assert miou(confusion(truth, predicted, 3)) == pytest.approx((50 + 200 / 3 + 50) / 3)


def test_ignored_predictions_count_as_background() -> None:
    counts = confusion(np.array([[1, 0]], np.uint8), np.array([[255, 255]], np.uint8), 1)
    assert counts.tolist() == [[1, 0], [1, 0]]


def test_all_thresholds_in_one_pass_equal_one_pass_each() -> None:
    rng = np.random.default_rng(0)
    triples = []
    for present in ([0], [1, 3], [0, 2, 3]):
        truth = rng.choice([0, *(1 + np.array(present)), 255], (9, 7)).astype(np.uint8)
        triples.append((truth, rng.integers(0, 256, (len(present), 9, 7)).astype(np.uint8), np.array(present)))
    sweep = sweep_thresholds(triples, 4)
    for i, threshold in enumerate(THRESHOLDS):
        slow = np.zeros((5, 5), np.int64)
        for truth, maps, present in triples:
            above = maps.max(0) > round(255 * threshold)
            slow += confusion(truth, np.where(above, 1 + present[maps.argmax(0)], 0).astype(np.uint8), 4)
        assert (sweep.counts[i] == slow).all()
    assert sweep.best == int(np.argmax([miou(c) for c in sweep.counts]))
