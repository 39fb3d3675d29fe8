"""What single images say of an mIoU, and what it tells of the best of several trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from launches import sweep_of

from semples import by_image
from semples.errors import UserError
from semples.metrics import areas, bootstrap, confusion, miou, resampled, standard_error
from semples.output import write_run
from semples.pipeline.run import Result
from tune.expected import COMPARED, Expected, expected, expected_of_best
from tune.places import trial_folder

RNG = np.random.default_rng(0)


def images_of(shares: Sequence[float], spread: float, images: int = 64, seed: int = 0) -> np.ndarray:
    """Areas (T, images, 3, 2) of trials of which the given share of pixels is right; some images are hard for all, and
    each is easier for one trial than for another."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(0, 0.05, images)
    found = []
    for share in shares:
        right = np.clip(share + hard + draw.normal(0, spread, images), 0.02, 0.98)
        found.append([areas(np.array([[r, 400 - r], [400 - r, r]])) for r in (400 * right).astype(int)])
    return np.array(found)


def of_all(of_trial: np.ndarray) -> float:
    return float(resampled(of_trial, np.ones((1, len(of_trial)), int))[0])


def test_what_is_written_is_read_and_what_was_not_is_nothing(tmp_path: Path) -> None:
    assert by_image.read(tmp_path) == {}
    given = images_of([0.5, 0.7], 0.1)
    by_image.write(tmp_path, {"holdout/pseudo_miou": [*given[0]], "pseudo_miou": given[1], "seg_miou": []})
    found = by_image.read(tmp_path)
    assert {*found} == {"holdout/pseudo_miou", "pseudo_miou"}, "of no image nothing is kept"
    assert (found["holdout/pseudo_miou"] == given[0]).all() and found["pseudo_miou"].dtype == np.int64
    first = (tmp_path / by_image.FILE).read_bytes()
    by_image.write(tmp_path, {"holdout/pseudo_miou": [*given[0]], "pseudo_miou": given[1]})
    assert (tmp_path / by_image.FILE).read_bytes() == first, "the same bytes whenever it is written"


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"x" * 100])
def test_a_damaged_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / by_image.FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"by_image\.npz: damaged"):
        by_image.read(tmp_path)


def test_a_sample_of_images_has_the_miou_of_just_these() -> None:
    counts = np.array([confusion(*RNG.integers(0, 4, (2, 9, 7)).astype(np.uint8), 3) for _ in range(5)])
    samples = np.array([[1, 1, 1, 1, 1], [2, 0, 3, 0, 0], [0, 0, 0, 0, 1]])
    wanted = [miou(counts.sum(0)), miou(2 * counts[0] + 3 * counts[2]), miou(counts[4])]
    assert resampled(areas(counts), samples) == pytest.approx(wanted)
    several = resampled(np.stack([areas(counts), areas(counts[::-1])]), samples)
    assert several[0] == pytest.approx(wanted) and several[1, 2] == pytest.approx(miou(counts[0]))
    assert (bootstrap(7).sum(1) == 7).all() and (bootstrap(7) == bootstrap(7)).all()


def test_a_run_keeps_what_single_images_say(small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semples.output._draw_gallery", lambda result, path: None)
    write_run(small_run, tmp_path / "run")
    found = by_image.read(tmp_path / "run")
    assert {*found} == {f"{prefix}{name}" for prefix in ("", "holdout/") for name in ("pseudo_miou", "seg_miou")}
    for name, of_images in found.items():
        assert of_all(of_images) == pytest.approx(small_run.metrics[name])
        assert small_run.metrics[f"{name}_se"] == pytest.approx(standard_error(of_images))
    data = small_run.data
    assert len(found["holdout/seg_miou"]) == len(data.holdout) and len(found["seg_miou"]) == len(data.test)


def test_the_luck_of_the_best_is_taken_out() -> None:
    """Twenty trials that are equally good: the best of them by 64 images is above what it has on others, and what is
    expected of it is not."""
    observed, told, errors, any_one, covered = [], [], [], [], 0
    true = of_all(images_of([0.6], 0.15, 4000, seed=99)[0])
    for seed in range(60):
        trials = images_of([0.6] * 20, 0.15, seed=seed)
        best = max(trials, key=of_all)
        ordered = np.stack(sorted(trials, key=of_all, reverse=True))
        value, error = expected_of_best(ordered)
        observed.append(of_all(best))
        told.append(value)
        any_one.append(of_all(trials[0]))
        errors.append(error)
        covered += abs(value - true) < 1.645 * error
    assert np.mean(observed) - true > 3 and abs(np.mean(told) - true) < 0.8
    assert np.mean(errors) == pytest.approx(np.std(any_one), rel=0.3) and covered / 60 > 0.8


def test_where_one_is_clearly_the_best_there_is_nothing_to_take_out() -> None:
    clear = images_of([0.8, 0.5, 0.4], 0.1)
    value, error = expected_of_best(clear)
    assert value == pytest.approx(of_all(clear[0]), abs=0.1) and error == pytest.approx(standard_error([*clear[0]]))
    alone, _ = expected_of_best(clear[:1])
    assert alone == pytest.approx(of_all(clear[0]), abs=0.01)


def test_two_images_are_enough() -> None:
    assert np.isfinite(expected_of_best(images_of([0.6, 0.5], 0.1, images=2))).all()


def kept(folder: Path, numbers: Sequence[int], metric: str, of_trials: np.ndarray) -> list[Any]:
    for number, of in zip(numbers, of_trials, strict=True):
        (place := trial_folder(folder, number)).mkdir(parents=True)
        by_image.write(place, {metric: of})
    return [SimpleNamespace(number=number) for number in numbers]


@pytest.mark.parametrize(("selection", "metric"), [("holdout", "holdout/pseudo_miou"), ("oracle", "pseudo_miou")])
def test_the_best_trial_of_a_sweep_is_told_by_what_chose(tmp_path: Path, selection: str, metric: str) -> None:
    of_trials = images_of([0.7, 0.69, 0.5], 0.1)
    leading = kept(tmp_path, (7, 2, 9), metric, of_trials)
    sweep = sweep_of(selection=selection)
    assert expected(sweep, tmp_path, leading) == Expected(7, *expected_of_best(of_trials))
    other = sweep_of(selection="oracle" if selection == "holdout" else "holdout")
    assert expected(other, tmp_path, leading) is None
    assert expected(sweep.changed(objective=("pseudo_miou", "seconds")), tmp_path, leading) is None
    assert expected(sweep, tmp_path, []) is None
    # of one nothing is known: whether it was lucky is not either
    (trial_folder(tmp_path, 9) / by_image.FILE).unlink()
    assert expected(sweep, tmp_path, leading) is None and expected(sweep, tmp_path, leading[:2]) is not None
    (trial_folder(tmp_path, 2) / by_image.FILE).write_bytes(b"PK")
    assert expected(sweep, tmp_path, leading[:2]) is None


def test_only_the_best_are_compared(tmp_path: Path) -> None:
    of_trials = images_of([0.6] * (COMPARED + 1), 0.1)
    leading = kept(tmp_path, range(COMPARED + 1), "holdout/pseudo_miou", of_trials)
    assert expected(sweep_of(), tmp_path, leading) == Expected(0, *expected_of_best(of_trials[:-1]))


def test_under_proxy_nothing_is_known(tmp_path: Path) -> None:
    leading = kept(tmp_path, (0,), "holdout/pseudo_miou", images_of([0.6], 0.1))
    assert expected(sweep_of(selection="proxy"), tmp_path, leading) is None
