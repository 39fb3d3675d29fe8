"""The finalists over seeds: who may be called a winner."""

from __future__ import annotations

import numpy as np
import pytest

from tune.confirm import DEFAULT, judge

METRIC = "pseudo_miou"


def pairs(draw: np.random.Generator, mean: float, seeds: int = 5, spread: float = 2.0) -> list[tuple[float, float]]:
    return [(float(value), float(value)) for value in draw.normal(mean, spread, seeds)]


@pytest.mark.parametrize("finalists", [1, 3])
def test_equal_configurations_have_no_winner(finalists: int) -> None:
    """Among 400 comparisons of truly equal configurations at most one in twenty names a winner."""
    draw = np.random.default_rng(0)
    false = 0
    for _ in range(400):
        values = {DEFAULT: pairs(draw, 60)} | {f"trial {i}": pairs(draw, 60) for i in range(finalists)}
        false += bool(judge(METRIC, values).winner)
    assert false <= 400 / 20


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


def test_what_chooses_makes_the_leader_and_what_is_reported_makes_the_winner() -> None:
    values = {
        DEFAULT: [(60.0, 60.0), (61.0, 61.0), (62.0, 62.0)],
        "trial 1": [(70.0, 59.0), (70.0, 60.5), (70.0, 62.5)],
        "trial 2": [(65.0, 70.0), (65.0, 71.0), (65.0, 72.5)],
    }
    verdict = judge(METRIC, values)
    assert verdict.leader == "trial 1" and verdict.winner == ""
    assert "no winner: trial 1 leads" in verdict.sentence


def test_where_less_is_better_the_least_leads_and_wins() -> None:
    values = {
        DEFAULT: [(9.0, 9.0), (8.0, 8.0)],
        "trial 1": [(5.0, 5.1), (4.0, 4.0)],
        "trial 2": [(9.9, 1.0), (9.9, 2.0)],
    }
    verdict = judge("label_cosine", values, "minimize")
    assert verdict.leader == verdict.winner == "trial 1"
    assert verdict.over_default["trial 1"].mean == pytest.approx(3.95) and verdict.over_others["trial 2"].mean < 0


def test_the_default_may_lead() -> None:
    verdict = judge(METRIC, {DEFAULT: [(60.0, 60.0), (61.0, 61.0)], "trial 1": [(50.0, 50.0), (51.0, 51.5)]})
    assert verdict.winner == "" and "no finalist is better" in verdict.sentence
