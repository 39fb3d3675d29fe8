"""The finalists over seeds: who may be called a winner."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from semples import by_image
from semples.metrics import areas, bootstrap, resampled, standard_error
from tune.confirm import _over_images, finalists
from tune.needs import trained_by
from tune.sweep_file import make_sweep
from tune.verdict import DEFAULT, dunnett, judge, read_verdict, write_record

METRIC = "pseudo_miou"


def pairs(draw: np.random.Generator, mean: float, seeds: int = 5, spread: float = 2.0) -> list[tuple[float, float]]:
    return [(float(value), float(value)) for value in draw.normal(mean, spread, seeds)]


@pytest.mark.parametrize("finalists", [1, 3])
def test_equal_configurations_have_no_winner_however_often_one_looks(finalists: int) -> None:
    """Among 400 comparisons of truly equal configurations, each after 5, 10, 15 and 20 seeds, at most one in twenty
    ever names a winner; one of a single look would name one as often as that look may."""
    draw, first, ever = np.random.default_rng(0), 0, 0
    for _ in range(400):
        values = {DEFAULT: pairs(draw, 60, 20)} | {f"trial {i}": pairs(draw, 60, 20) for i in range(finalists)}
        won = [
            judge(METRIC, {name: found[: 5 * look] for name, found in values.items()}, looks=look).winner
            for look in (1, 2, 3, 4)
        ]
        first, ever = first + bool(won[0]), ever + any(won)
    assert 0 < first <= 2 * 0.03 * 400 and first <= ever <= 400 / 20


def test_a_true_gain_is_seen() -> None:
    """Of 1.5 standard deviations of a difference between two runs, by 5 seeds and among 3 finalists: three times of
    four."""
    draw, gain = np.random.default_rng(1), 1.5 * math.sqrt(2) * 2.0
    seen = 0
    for _ in range(400):
        same = draw.normal(0, 5, 5)  # what a seed does to all of them alike
        means = {DEFAULT: 60.0, "trial 1": 60 + gain, "trial 2": 60.0, "trial 3": 60.0}
        values = {name: [(v, v) for v in same + draw.normal(mean, 2.0, 5)] for name, mean in means.items()}
        seen += judge(METRIC, values).winner == "trial 1"
    assert seen >= 0.72 * 400


@pytest.mark.parametrize(
    ("compared", "freedom", "limit"), [(1, 10, 1.81), (2, 10, 2.15), (5, 10, 2.56), (3, 20, 2.19), (4, 20, 2.30)]
)
def test_the_limits_are_dunnetts(compared: int, freedom: int, limit: float) -> None:
    """Table 1a of Dunnett (1955), one-sided, 5%."""
    assert dunnett(compared, freedom, 0.05) == pytest.approx(limit, abs=0.006)


def test_the_limits_are_those_of_scipy() -> None:
    draw = np.random.default_rng(2)
    samples = draw.normal([[0.0], [1.0], [0.3], [0.2]], 1, (4, 6))
    found = scipy.stats.dunnett(*samples[1:], control=samples[0], alternative="greater", random_state=3)
    best = int(found.statistic.argmax())
    assert dunnett(3, 20, float(found.pvalue[best])) == pytest.approx(found.statistic[best], abs=0.01)


def test_a_better_configuration_wins() -> None:
    draw = np.random.default_rng(0)
    seeds = draw.normal(0, 2, 5)  # what a seed does to all of them alike
    values = {
        name: [(mean + s + e, mean + s + e) for s, e in zip(seeds, draw.normal(0, 0.5, 5), strict=True)]
        for name, mean in ((DEFAULT, 60.0), ("trial 7", 63.0), ("trial 9", 62.0))
    }
    verdict = judge(METRIC, values)
    assert verdict.winner == verdict.leader == "trial 7" and verdict.sentence.startswith("trial 7 wins: +")
    assert set(verdict.over_others) == {DEFAULT, "trial 9"}
    assert verdict.over_default["trial 7"].low > 0


VALUES = {
    DEFAULT: [(60.0, 60.0), (61.0, 61.0), (62.0, 62.0)],
    "trial 1": [(70.0, 59.0), (70.0, 60.5), (70.0, 62.5)],
    "trial 2": [(65.0, 70.0), (65.0, 71.0), (65.0, 72.5)],
    "trial 3": [(64.0, 80.0), (64.0, 81.0), (64.0, 82.5)],
}


def test_what_chooses_makes_the_leader_and_what_is_reported_makes_the_winner() -> None:
    verdict = judge(METRIC, {name: VALUES[name] for name in (DEFAULT, "trial 1")})
    assert verdict.leader == "trial 1" and verdict.winner == ""
    assert "no winner: trial 1 leads" in verdict.sentence


def test_of_several_that_are_better_the_best_by_what_chooses_wins() -> None:
    verdict = judge(METRIC, VALUES)
    assert (verdict.leader, verdict.winner) == ("trial 1", "trial 2")
    assert verdict.sentence.startswith("trial 2 wins: +10.2") and "trial 1 leads by what chooses" in verdict.sentence


def test_where_less_is_better_the_least_leads_and_wins() -> None:
    values = {
        DEFAULT: [(9.0, 9.0), (8.0, 8.0)],
        "trial 1": [(5.0, 5.1), (4.0, 4.0)],
        "trial 2": [(5.5, 1.0), (5.5, 0.1)],
    }
    verdict = judge("label_cosine", values, "minimize")
    assert verdict.leader == verdict.winner == "trial 1"
    assert verdict.over_default["trial 1"].mean == pytest.approx(3.95) and verdict.over_others["trial 2"].mean < 0


def test_what_clip_says_is_not_sold_as_what_masks_say() -> None:
    said = judge("proxy/pseudo_miou", {DEFAULT: [(9.0, 9.0), (8.0, 8.0)], "trial 1": [(19.0, 19.0), (18.0, 18.0)]})
    assert said.winner == "trial 1" and said.sentence.endswith("by CLIP, which may be wrong: there were no masks")


def test_the_default_may_lead() -> None:
    verdict = judge(METRIC, {DEFAULT: [(60.0, 60.0), (61.0, 61.0)], "trial 1": [(50.0, 50.0), (51.0, 51.5)]})
    assert verdict.winner == "" and "no finalist is better" in verdict.sentence


def test_finalists_differ_in_more_than_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that trained the same are one finalist, the better of them, as long as there are others."""
    sweep = make_sweep(
        {
            "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 9,
            "space": {
                "match.lambda_b": {"float": [0.0, 9.0]}, "heatmaps.flip": {"choice": [True, False]},
                "masks.background": {"float": [0.1, 0.9]},
            },
        }
    )  # fmt: skip
    assert trained_by(sweep) == ("match.lambda_b",)
    keys = ("match.lambda_b", "heatmaps.flip", "masks.background")
    points = [
        (2.0, True, 0.1),
        (2.0, True, 0.2),
        (2.0, False, 0.3),
        (7.0, True, 0.1),
        (2.0, False, 0.4),
        (5.0, True, 1),
    ]
    trials = [SimpleNamespace(number=i, params=dict(zip(keys, of, strict=True))) for i, of in enumerate(points)]
    monkeypatch.setattr("tune.confirm.load_study", lambda *_: None)
    monkeypatch.setattr("tune.confirm.ranked", lambda *_: trials)
    monkeypatch.setattr("tune.confirm.read_run", lambda folder: (folder.name, {}))
    for top, expected in {1: [0], 2: [0, 3], 3: [0, 3, 5], 5: [0, 3, 5, 1, 2]}.items():
        found = finalists(sweep, Path("s"), top)
        assert [*found] == [DEFAULT, *(f"trial {number}" for number in expected)]
        assert [*found.values()][1:] == [f"{number:04d}" for number in expected]


def test_the_error_over_images_is_added_to_that_over_seeds() -> None:
    runs = {DEFAULT: [(50.0, 50.0), (52.0, 52.0)], "trial 1": [(53.0, 53.0), (56.0, 56.0)]}
    seeds, both = judge(METRIC, runs), judge(METRIC, runs, image_errors={"trial 1": 2.0})
    half, more = (of.over_default["trial 1"].high - of.over_default["trial 1"].mean for of in (seeds, both))
    limit = dunnett(1, 1, 0.03)
    assert half == pytest.approx(limit * 0.5) and more == pytest.approx(limit * math.hypot(0.5, 2.0))
    sure = {DEFAULT: [(50.0, 50.0)] * 3, "trial 1": [(53.0, 53.0)] * 3, "trial 2": [(51.0, 51.0)] * 3}
    assert judge(METRIC, sure).winner == "trial 1"
    assert judge(METRIC, sure, image_errors={"trial 1": 9.0, "trial 2": 0.1}).winner == "trial 2"


def test_the_error_over_images_is_that_of_the_difference(tmp_path: Path) -> None:
    """What makes an image hard for both is in it no more; means over the seeds of a configuration count."""
    draw = np.random.default_rng(0)
    hard, own = draw.normal(0, 0.2, 50), {name: draw.normal(0, 0.02, 50) for name in (DEFAULT, "trial 1")}
    places: dict[str, list[Path]] = {}
    of_images: dict[str, list[np.ndarray]] = {}
    for name, share in ((DEFAULT, 0.5), ("trial 1", 0.6), ("trial 2", 0.6)):
        for seed in (1, 2):
            right = (400 * np.clip(share + hard + own.get(name, 0.0) + 0.01 * seed, 0.02, 0.98)).astype(int)
            of = np.array([areas(np.array([[r, 400 - r], [400 - r, r]])) for r in right])
            place = tmp_path / name / str(seed)
            place.mkdir(parents=True)
            by_image.write(place, {"pseudo_miou": of} if (name, seed) != ("trial 2", 2) else {})
            places.setdefault(name, []).append(place)
            of_images.setdefault(name, []).append(of)
    found = _over_images(places, "pseudo_miou")
    assert {*found} == {"trial 1"}, "of trial 2 a run is lacking"
    samples = bootstrap(50)
    course = {name: np.mean([resampled(of, samples) for of in of_images[name]], 0) for name in (DEFAULT, "trial 1")}
    assert found["trial 1"] == pytest.approx((course["trial 1"] - course[DEFAULT]).std(ddof=1))
    assert 0 < found["trial 1"] < standard_error([*of_images[DEFAULT][0]]) / 4
    assert _over_images(places, "seg_miou") == {}
    assert _over_images({"trial 1": places["trial 1"]}, "pseudo_miou") == {}


def test_a_verdict_is_read_as_it_was_written(tmp_path: Path) -> None:
    errors = {"trial 1": 1.5, "trial 2": 0.5}
    verdict = judge(METRIC, VALUES, looks=3, image_errors=errors)
    write_record(tmp_path, verdict, "maximize", "holdout", VALUES, errors)
    assert read_verdict(tmp_path) == verdict
