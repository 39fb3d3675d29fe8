"""Parts of a search that are chosen by name: their settings arrive, in the sweep file and in what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launches import go, sweep_of

from semples.errors import UserError
from semples.folders import claim
from tune.messages import Usage
from tune.objectives import find_objective
from tune.parts import Choice
from tune.stopping import find_rule
from tune.sweep_folder import load_launched, record

SPACE = {"match.lambda_b": {"float": [1.0, 8.0]}, "masks.background": {"float": [0.3, 0.7]}}


def test_a_stopping_rule_follows_its_settings() -> None:
    others = [1.0, 2.0, 3.0, 4.0, 5.0]
    third, half = find_rule(Choice(name="asha")), find_rule(Choice(name="asha", reduction=2))
    assert third.stops(3.5, others) and not half.stops(3.5, others) and half.stops(2.5, others)
    assert (third.reason, half.reason) == ("not in the best 1/3", "not in the best 1/2")
    for name in ("median", "asha"):
        assert find_rule(Choice(name=name, after=2)).stops(1.0, [2.0, 3.0])
        assert not find_rule(Choice(name=name)).stops(1.0, [2.0, 3.0])


@pytest.mark.parametrize(
    "choice", [{"name": "median", "after": 0}, {"name": "asha", "reduction": 1}, {"name": "none", "after": 2}]
)
def test_settings_that_a_rule_does_not_take_are_named(choice: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"early_stopping.*(after|reduction)"):
        find_rule(Choice.model_validate(choice))


def test_settings_of_another_kind_are_named() -> None:
    """What the part itself says to them."""
    with pytest.raises(UserError, match=r"early_stopping 'asha' does not take these settings"):
        find_rule(Choice.model_validate({"name": "asha", "reduction": "half"}))


def suggested(sampler: dict[str, Any], sign: float = 1.0) -> list[dict[str, Any]]:
    sweep = sweep_of(sampler=sampler, space=SPACE, trials=9)
    return [t.params for t in go(sweep, judge=lambda p: 50.0 + sign * p["match.lambda_b"]).study.get_trials()]


def test_a_sampler_begins_at_random_for_as_long_as_it_is_told() -> None:
    """What the trials were worth plays no part then."""
    long = {"name": "tpe", "n_startup_trials": 9}
    assert suggested(long, 1.0) == suggested(long, -1.0)
    assert suggested({"name": "tpe"}, 1.0) != suggested({"name": "tpe"}, -1.0)


def test_other_settings_of_a_sampler_arrive_too() -> None:
    plain, scrambled = suggested({"name": "sobol", "scramble": False}), suggested({"name": "sobol"})
    assert [p["masks.background"] for p in plain[1:4]] == pytest.approx([0.3, 0.5, 0.4]) and plain != scrambled


def test_an_objective_is_a_metric_of_a_stage_and_a_direction() -> None:
    settings = {"metric": "pseudo_iou/dog", "stage": "masks"}
    found = find_objective(Choice(name="metric", **settings, direction="minimize"))
    assert (found.metric, found.stage, found.direction) == ("pseudo_iou/dog", "masks", "minimize")
    assert found.value({"pseudo_iou/dog": 7.0, "pseudo_miou": 9.0}, Usage()) == 7.0
    assert find_objective(Choice(name="metric", **settings)).direction == "maximize"
    with pytest.raises(UserError, match="masks reports no 'pseudo_iou/dog' for what chooses"):
        found.value({"pseudo_miou": 9.0}, Usage())
    with pytest.raises(UserError, match="direction 'down' is neither maximize nor minimize"):
        find_objective(Choice(name="metric", **settings, direction="down"))
    seconds, memory = (find_objective(Choice(name=name)) for name in ("seconds", "gpu_gb"))
    assert (seconds.value({}, Usage(9.0, 2.0)), memory.value({}, Usage(9.0, 2.0))) == (9.0, 2.0)
    assert (seconds.direction, memory.direction) == ("minimize", "minimize")


def test_a_sweep_is_recorded_with_all_settings(tmp_path: Path) -> None:
    sweep = sweep_of(
        sampler={"name": "tpe", "n_startup_trials": 9},
        early_stopping={"name": "asha", "reduction": 4},
        trackers=["plain", {"name": "diary", "page": 3}],
        objective=["pseudo_miou", {"name": "metric", "metric": "x", "stage": "masks", "direction": "minimize"}],
    )
    claim(tmp_path / "s", "sweep")
    record(sweep, tmp_path / "s")
    again = load_launched(tmp_path / "s")
    assert again.sampler.settings == {"n_startup_trials": 9} and again.early_stopping.settings == {"reduction": 4}
    assert [(choice.name, choice.settings) for choice in again.trackers] == [("plain", {}), ("diary", {"page": 3})]
    assert again.directions == ["maximize", "minimize"] and again.objective == sweep.objective
