from __future__ import annotations

import numpy as np
import pytest

from semples.metrics import THRESHOLDS, areas, confusion, iou, miou, standard_error, sweep_thresholds


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


def test_areas_are_enough_for_iou() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([confusion(*rng.integers(0, 4, (2, 9, 7)).astype(np.uint8), 3) for _ in range(5)])
    truth, predicted, both = areas(counts.sum(0))
    assert (areas(counts).sum(0) == [truth, predicted, both]).all() and areas(counts).shape == (5, 3, 4)
    assert 100 * both / (truth + predicted - both) == pytest.approx(iou(counts.sum(0)))


def test_the_standard_error_is_how_much_a_figure_varies_with_the_images() -> None:
    """Of a figure over 40 images, drawn again and again; the bootstrap knows the first 40 only."""
    rng = np.random.default_rng(1)

    def draw() -> np.ndarray:
        share = rng.beta(6, 3)
        right = rng.binomial(500, [share, rng.beta(6, 3)])
        return np.diag(right) + np.diag(500 - right)[::-1]

    figures = [miou(sum((draw() for _ in range(40)), np.zeros((2, 2)))) for _ in range(400)]
    errors = [standard_error([areas(draw()) for _ in range(40)]) for _ in range(50)]
    assert np.mean(errors) == pytest.approx(np.std(figures), rel=0.15)


def test_images_that_are_alike_leave_no_error_and_one_alone_says_nothing() -> None:
    of = areas(np.array([[7, 3], [2, 9]]))
    assert standard_error([of] * 6) == pytest.approx(0) and np.isnan(standard_error([of]))
    assert standard_error([of, of, areas(np.array([[1, 9], [9, 1]]))]) > 5


def test_a_class_that_a_sample_lacks_does_not_count_in_it() -> None:
    """Without its only image a class occurs nowhere."""
    common, rare = np.diag([10, 10, 0]), np.diag([10, 0, 10])
    assert standard_error([areas(common)] * 20 + [areas(rare)]) == pytest.approx(0)
