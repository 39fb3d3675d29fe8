"""Properties of masks and their metrics that hold for any pixels, on arrays that are drawn small."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semples.config import MasksConfig
from semples.data.dataset import IGNORE
from semples.metrics import THRESHOLDS, confusion, iou, miou, precision, recall, sweep_thresholds
from semples.stages.masks import label_pixels, make_mask

K = 4
few = settings(max_examples=30, deadline=None, derandomize=True)
WITHOUT_CRF: dict[str, Any] = {"crf": {"iterations": 0}}


def masks(shape: tuple[int, int] = (5, 6), values: tuple[int, ...] = (*range(K + 1), IGNORE)) -> st.SearchStrategy[Any]:
    return arrays(np.uint8, shape, elements=st.sampled_from(values))


@st.composite
def heatmaps(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (h, w), heatmaps (P, h, w) and the present classes (P,) of one image; scores near each other, with ties."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    present = np.array(sorted(draw(st.sets(st.integers(0, K - 1), min_size=1))))
    scores = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 254, 255]))
    maps = draw(arrays(np.uint8, (len(present), *shape), elements=scores))
    return draw(masks(shape)), maps, present


@few
@given(st.lists(heatmaps(), min_size=1, max_size=3))
def test_every_threshold_of_a_sweep_is_what_the_masks_at_it_measure(
    images: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Those that the stage makes with THRESHOLDS[i] as its background score."""
    sweep = sweep_thresholds(images, K)
    assert sweep.counts.shape == (len(THRESHOLDS), K + 1, K + 1)
    for i, threshold in enumerate(THRESHOLDS):
        chosen = MasksConfig.model_validate({"background": float(threshold), **WITHOUT_CRF})
        made = [
            make_mask(maps, present, np.zeros((*maps.shape[1:], 3), np.uint8), chosen) for _, maps, present in images
        ]
        counts = sum(confusion(truth, mask, K) for (truth, _, _), mask in zip(images, made, strict=True))
        assert (sweep.counts[i] == counts).all()
    scores = np.nan_to_num(sweep.miou, nan=-1)
    assert scores[sweep.best] == scores.max() or not scores.max() >= 0


@few
@given(masks(), masks(), st.permutations(range(K + 1)))
def test_metrics_do_not_depend_on_the_numbers_of_the_classes(
    truth: np.ndarray, made: np.ndarray, order: list[int]
) -> None:
    made = np.where(made == IGNORE, 0, made).astype(np.uint8)
    renamed = np.arange(256, dtype=np.uint8)
    renamed[: K + 1] = order
    before, after = confusion(truth, made, K), confusion(renamed[truth], renamed[made], K)
    for metric in (iou, precision, recall):
        assert np.array_equal(metric(after)[order], metric(before), equal_nan=True)
    assert np.isclose(miou(before), miou(after), equal_nan=True)


@few
@given(masks(), masks(), masks())
def test_pixels_of_255_in_the_truth_do_not_count(truth: np.ndarray, made: np.ndarray, other: np.ndarray) -> None:
    changed = np.where(truth == IGNORE, other, made)
    assert (confusion(truth, made, K) == confusion(truth, changed, K)).all()
    assert confusion(truth, made, K).sum() == (truth != IGNORE).sum()


@few
@given(masks(), masks())
def test_255_in_a_mask_counts_as_background(truth: np.ndarray, made: np.ndarray) -> None:
    assert (confusion(truth, made, K) == confusion(truth, np.where(made == IGNORE, 0, made), K)).all()


@few
@given(masks(), masks())
def test_metrics_are_the_shares_that_their_names_say(truth: np.ndarray, made: np.ndarray) -> None:
    made = np.where(made == IGNORE, 0, made)
    counts = confusion(truth, made, K)
    figures: dict[str, list[float]] = {"iou": [], "precision": [], "recall": []}
    for k in range(K + 1):
        true, said = (truth == k), (made == k) & (truth != IGNORE)
        hit = (true & said).sum()
        for name, of in (("iou", (true | said).sum()), ("precision", said.sum()), ("recall", true.sum())):
            figures[name].append(100 * hit / of if of else np.nan)
    assert np.allclose(iou(counts), figures["iou"], equal_nan=True)
    assert np.allclose(precision(counts), figures["precision"], equal_nan=True)
    assert np.allclose(recall(counts), figures["recall"], equal_nan=True)
    occurring = [x for x in figures["iou"] if not np.isnan(x)]  # absent classes are left out, not 0 and not 100
    assert np.isclose(miou(counts), np.mean(occurring) if occurring else np.nan, equal_nan=True)


@few
@given(masks(values=(0, 1, 2, 3)))
def test_the_truth_itself_is_100_and_another_number_is_less(truth: np.ndarray) -> None:
    assert miou(confusion(truth, truth, K)) == 100
    wrong = truth.copy()
    wrong[0, 0] = K
    assert miou(confusion(truth, wrong, K)) < 100


shares = st.one_of(st.floats(0, 1), st.sampled_from([0.5, 126.5, 127.5, 253.5, 254.5]).map(lambda t: t / 255))


@few
@given(heatmaps(), shares, shares)
def test_a_higher_background_score_only_takes_objects_away(
    image: tuple[np.ndarray, np.ndarray, np.ndarray], one: float, other: float
) -> None:
    _, maps, _ = image
    low, high = (label_pixels(maps, x) for x in sorted((one, other)))
    assert ((high == low) | (high == 0)).all()
    assert {*np.unique(low).tolist()} <= {*range(len(maps) + 1)}


@few
@given(heatmaps(), shares)
def test_a_pixel_is_its_strongest_class_or_background(
    image: tuple[np.ndarray, np.ndarray, np.ndarray], background: float
) -> None:
    _, maps, present = image
    chosen = MasksConfig.model_validate({"background": background, **WITHOUT_CRF})
    mask = make_mask(maps, present, np.zeros((*maps.shape[1:], 3), np.uint8), chosen)
    assert mask.dtype == np.uint8
    for y, x in np.ndindex(mask.shape):
        scores = maps[:, y, x].tolist()
        best = present[scores.index(max(scores))] + 1
        assert mask[y, x] == (best if max(scores) > 255 * background else 0)


@few
@given(heatmaps(), st.floats(0.1, 0.9), st.floats(0.01, 0.2))
def test_a_band_ignores_where_the_masks_at_its_ends_differ_and_nothing_else(
    image: tuple[np.ndarray, np.ndarray, np.ndarray], background: float, band: float
) -> None:
    _, maps, present = image
    colours = np.zeros((*maps.shape[1:], 3), np.uint8)

    def made(**values: float) -> np.ndarray:
        return make_mask(maps, present, colours, MasksConfig.model_validate({**values, **WITHOUT_CRF}))

    banded = made(background=background, band=band)
    low, high = made(background=background - band / 2), made(background=background + band / 2)
    assert (banded == np.where(low == high, low, IGNORE)).all()
    middle = made(background=background)
    assert ((banded == middle) | (banded == IGNORE)).all()
