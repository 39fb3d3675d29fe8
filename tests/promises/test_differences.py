"""What a step adds, and which configuration wins, is said by paired differences over seeds: each figure is that of the
run that it names, with the sign that it names."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from semples import ablation
from semples.ablation import DIFFERENCES, STEPS, ablate, differences, figures, table
from semples.config import Config, with_changes
from semples.errors import UserError
from semples.pipeline.run import Event
from semples.statistics import spread
from tune.verdict import DEFAULT, ERROR, Verdict, dunnett, judge, spent_at


def test_a_spread_is_the_interval_of_students_t() -> None:
    s = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert (s.mean, s.minimum, s.maximum) == (3.0, 1.0, 5.0)
    assert (s.low, s.high) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    wide = spread([1.0, 2.0, 3.0, 4.0, 5.0], 0.99)
    assert wide.high - wide.mean == pytest.approx(4.604095 * math.sqrt(2.5 / 5), rel=1e-5)
    assert spread([7.0]).low == -math.inf and spread([7.0]).high == math.inf and spread([7.0]).mean == 7.0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, str]]:
    """Made-up runs: every metric tells by its digits of which run it is: seed, true masks, without CRF, stage."""
    found: list[tuple[Config, str]] = []

    def run(config: Config, store: Any, report: Callable[[Event], None], until: str = "segment") -> Any:
        found.append((config, until))
        of = (
            1000 * config.seed
            + 100 * (config.segment.train_on == "ground_truth")
            + 10 * (not config.masks.crf.iterations)
        )
        report(Event("match", 1, 1))
        names = (
            "classify/cam_miou",
            "match/cam_miou",
            "refine/cam_miou",
            "heatmaps/cam_miou",
            "pseudo_miou",
            "seg_miou",
        )
        metrics = {name: float(of + i) for i, name in enumerate(names)}
        return SimpleNamespace(metrics=metrics, config=config, data=None, folders={})

    masked = SimpleNamespace(annotated=True)
    monkeypatch.setattr(ablation, "run", run)
    # of which run and which stage
    monkeypatch.setattr(ablation, "generator_of", lambda result, stage: result.metrics[f"{stage}/cam_miou"])
    monkeypatch.setattr(ablation, "reported_cam_miou", lambda generator, *_: generator)
    monkeypatch.setattr(ablation, "load_data", lambda *_: SimpleNamespace(train=masked, test=masked))
    return found


def test_every_step_is_measured_in_the_run_that_it_names(ran: list[tuple[Config, str]]) -> None:
    heard: list[int] = []
    base = with_changes(Config(), {"segment.train_on": "ground_truth", "seed": 9}, "test")
    values = ablate(base, range(2), None, lambda seed, event: heard.append(seed))  # type: ignore[arg-type]
    assert values == {
        "classify_cam": [0, 1000], "match_cam": [1, 1001], "refine_cam": [2, 1002], "heatmaps": [3, 1003],
        "masks_without_crf": [14, 1014], "masks": [4, 1004], "segment": [5, 1005], "segment_true_masks": [105, 1105],
    }  # fmt: skip
    assert heard == [0, 0, 0, 1, 1, 1]
    assert [(c.seed, c.masks.crf.iterations, c.segment.train_on, until) for c, until in ran[:3]] == [
        (0, 10, "pseudo", "segment"), (0, 0, "pseudo", "measured_masks"), (0, 10, "ground_truth", "segment"),
    ]  # fmt: skip


def test_an_ablation_needs_masks_to_measure_by(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for train, test in ((False, True), (True, False)):
        data = SimpleNamespace(train=SimpleNamespace(annotated=train), test=SimpleNamespace(annotated=test))
        monkeypatch.setattr(ablation, "load_data", lambda *_, data=data: data)
        with pytest.raises(UserError, match="an ablation needs true masks"):
            ablate(Config(), range(1), None, lambda *_: None)  # type: ignore[arg-type]
    assert not ran


VALUES: dict[str, list[float]] = {step: [10.0 * i, 10.0 * i + 3] for i, step in enumerate(STEPS)} | {
    "masks_without_crf": [30.0, 35.0]
}


def test_a_difference_is_what_the_later_step_adds_seed_by_seed() -> None:
    assert differences(VALUES) == {
        "match_minus_classify": [10.0, 10.0], "refine_minus_match": [10.0, 10.0],
        "masks_minus_masks_without_crf": [20.0, 18.0], "segment_minus_masks": [10.0, 10.0],
    }  # fmt: skip
    for name, (more, less) in DIFFERENCES.items():
        assert name == f"{more.removesuffix('_cam')}_minus_{less.removesuffix('_cam')}"


def test_the_table_and_the_figures_say_the_same() -> None:
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table(VALUES, "holdout").splitlines() if line}
    flat = figures(VALUES)
    assert next(iter(rows)) == "mIoU (%), 2 seeds, chosen by holdout" and flat["seeds"] == 2
    for step, label in STEPS.items():
        mean, lowest, highest = (flat[name] for name in (step, f"{step}_min", f"{step}_max"))
        assert [cell.strip() for cell in rows[label]] == [f"{mean:.1f}", f"{lowest:.1f} - {highest:.1f}"]
        assert (mean, lowest, highest) == (sum(VALUES[step]) / 2, min(VALUES[step]), max(VALUES[step]))
        assert f"{step}_low" not in flat
    name = "masks_minus_masks_without_crf"
    low, high = spread([20.0, 18.0]).low, spread([20.0, 18.0]).high
    assert [cell.strip() for cell in rows["masks - masks without crf"]] == ["+19.0", f"{low:+.1f} to {high:+.1f}"]
    assert (flat[name], flat[f"{name}_low"], flat[f"{name}_high"]) == (19.0, low, high)


def test_with_one_seed_there_is_no_interval() -> None:
    flat = figures({step: values[:1] for step, values in VALUES.items()})
    assert flat["segment_minus_masks"] == 10.0 and not [name for name in flat if name.endswith(("_low", "_high"))]


def pairs(*reported: float) -> list[tuple[float, float]]:
    return [(value, value) for value in reported]


def test_a_winner_is_above_the_default_seed_by_seed() -> None:
    verdict = judge("m", {DEFAULT: pairs(50, 60, 70), "trial 1": pairs(52, 62.1, 71.9), "trial 2": pairs(30, 40, 50)})
    assert verdict.winner == "trial 1" and verdict.over_default["trial 1"].mean == pytest.approx(2.0)
    assert verdict.over_default["trial 2"].mean == pytest.approx(-20.0)
    assert {name: s.mean for name, s in verdict.over_others.items()} == pytest.approx({DEFAULT: 2.0, "trial 2": 22.0})


def width(verdict: Verdict) -> float:
    own = verdict.over_default["trial 1"]
    assert own.high - own.mean == pytest.approx(own.mean - own.low)
    return own.high - own.mean


def test_an_interval_is_of_the_variance_that_seeds_do_not_share_and_of_all_finalists() -> None:
    """The largest of the differences is within it 97 times of 100, at the first look."""
    rest = [np.array([1.0, -1.0, 0.0]), np.array([-1.0, 0.0, 1.0]), np.array([0.0, 1.0, -1.0])]  # sums of 0
    values = {DEFAULT: rest[0] + 50, "trial 1": rest[1] + 52, "trial 2": rest[2] + 10}
    shared = np.array([0.0, 30.0, -20.0])
    verdict = judge("m", {name: pairs(*(of + shared)) for name, of in values.items()})
    deviation = math.sqrt(6 / 4)  # squares of `rest` over 2 x 2 degrees of freedom
    assert width(verdict) == pytest.approx(dunnett(2, 4, 0.03) * deviation * math.sqrt(2 / 3))
    again = judge("m", {name: pairs(*(of + shared)) for name, of in values.items()}, looks=2)
    assert width(again) == pytest.approx(dunnett(2, 4, 0.012) * deviation * math.sqrt(2 / 3))


def test_with_one_finalist_the_interval_is_that_of_paired_differences() -> None:
    verdict = judge("m", {DEFAULT: pairs(50, 60, 70), "trial 1": pairs(51.2, 62.2, 73.4)})
    assert width(verdict) == pytest.approx(student.ppf(0.97, 2) * np.std([1.2, 2.2, 3.4], ddof=1) / math.sqrt(3), 1e-4)


def test_looks_never_spend_more_than_the_error_that_is_allowed() -> None:
    assert spent_at(1) == pytest.approx(0.03) and spent_at(2) == pytest.approx(0.012)
    assert 0.0499 < sum(map(spent_at, range(1, 50))) <= ERROR


def test_a_single_seed_says_nothing() -> None:
    verdict = judge("m", {DEFAULT: pairs(50), "trial 1": pairs(90)})
    assert verdict.winner == "" and verdict.over_default["trial 1"].low == -math.inf


def test_an_interval_that_reaches_the_default_makes_no_winner() -> None:
    assert judge("m", {DEFAULT: pairs(50, 60), "trial 1": pairs(50, 64)}).winner == ""
    behind = judge("m", {DEFAULT: [(1.0, 60.0), (1.0, 61.0)], "trial 1": [(2.0, 50.0), (2.0, 51.0)]})
    assert behind.leader == "trial 1" and behind.winner == "" and "what is reported says -10.0" in behind.sentence


def test_a_sentence_says_whether_more_seeds_would_help() -> None:
    said = {
        name: judge("m", {DEFAULT: pairs(50, 60, 70), "trial 1": [(99.0, value) for value in reported]}).sentence
        for name, reported in {"wins": (52, 62.1, 72), "unsure": (50, 64, 71), "behind": (40, 50.1, 60)}.items()
    }
    assert said["wins"].startswith("trial 1 wins: +2.0 points over the default, +1.9 to +2.2")
    assert said["unsure"].endswith("which includes 0; take more --seeds to know")
    assert "leads by what chooses, and what is reported says -10.0" in said["behind"]
    first = judge("m", {DEFAULT: pairs(50, 60), "trial 1": pairs(1, 2)}).sentence
    assert first == "no winner: over these seeds no finalist is better than the default configuration"
