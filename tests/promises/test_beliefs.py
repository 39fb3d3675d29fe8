"""What somebody believes of a key, and what a sweep expects of more compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from launches import go, sweep_of
from rich.console import Console

from semples.errors import UserError
from tune import process
from tune.columns import Space
from tune.commands import screen
from tune.cost_aware import ALWAYS, PROMISES
from tune.records import HOUR, Promise, keep_promise, promise_of
from tune.study import ranked
from tune.summary import summarise
from tune.sweep_file import Sweep, parse_sweep
from tune.testing import own

RANGES: dict[str, Any] = {
    "match.lambda_b": {"float": [0.5, 8.0], "log": True},
    "refine.lambda_r": {"float": [0.1, 4.0], "log": True},
    "prompts.init": {"choice": ["uniform", "normal", "word"]},
    "masks.background": {"float": [0.3, 0.7]},
}


def with_priors(confidence: str = "high", **values: Any) -> Sweep:
    space = {key: dict(of) for key, of in RANGES.items()}
    for key, value in values.items():
        space[key.replace("__", ".")]["prior"] = {"value": value, "confidence": confidence}
    return sweep_of(sampler="cost-aware", space=space, trials=24)


def judge(p: dict[str, Any]) -> float:
    """Best at 4, 0.3, word and 0.6."""
    away = np.log(p["match.lambda_b"] / 4) ** 2 + np.log(p["refine.lambda_r"] / 0.3) ** 2
    return float(60 - 4 * away - 3 * (p["prompts.init"] != "word") - 200 * (p["masks.background"] - 0.6) ** 2)


RIGHT: dict[str, Any] = {
    "match__lambda_b": 4.0, "refine__lambda_r": 0.3, "prompts__init": "word", "masks__background": 0.6,
}  # fmt: skip
WRONG: dict[str, Any] = {
    "match__lambda_b": 0.5, "refine__lambda_r": 4.0, "prompts__init": "normal", "masks__background": 0.3,
}  # fmt: skip


def test_the_second_trial_is_what_is_believed() -> None:
    for sampler in ("cost-aware", "tpe", "random"):
        sweep = with_priors(match__lambda_b=4.0, prompts__init="word").changed(sampler=sampler, trials=3)
        first, second, _ = (t.params for t in own(go(sweep).study))
        assert first == sweep.default_parameters()
        assert second == {**first, "match.lambda_b": 4.0, "prompts.init": "word"}, sampler
    assert len(own(go(with_priors(match__lambda_b=1.0).changed(trials=2)).study)) == 2  # the default itself


def test_the_trials_after_it_are_near_what_is_believed() -> None:
    """Nothing else is known: every trial is worth the same, but for what is believed."""
    near: dict[str, list[float]] = {}
    for name, sweep in {"believed": with_priors(**RIGHT), "free": with_priors()}.items():
        for seed in range(4):
            study = go(sweep.changed(seed=seed, trials=8), judge=lambda p: 50.0).study
            space = Space(sweep)
            target = space.unit(space.row({k.replace("__", "."): v for k, v in RIGHT.items()})[None])[0]
            away = np.abs(space.unit(space.rows(own(study)[2:])) - target)[:, [0, 1, 3]]
            near.setdefault(name, []).append(float(away.mean()))
    assert np.mean(near["believed"]) < np.mean(near["free"]) - 0.05


def test_candidates_are_drawn_near_what_is_believed() -> None:
    space = Space(with_priors(match__lambda_b=4.0, prompts__init="word"))
    rng = np.random.default_rng(0)
    rows = space.settled(space.of_unit(rng.random((400, 4))))
    near = space.near_priors(rows.copy(), rng)
    target = space.row({**RANGES_AT, "match.lambda_b": 4.0, "prompts.init": "word"})
    believed, init = space.unit(near)[:, 0] - space.unit(target[None])[0, 0], near[:, 2]
    assert np.abs(believed).mean() < 0.1 and set(init) == {target[2]}
    assert np.allclose(near[:, [1, 3]], rows[:, [1, 3]]), "nothing is believed of the others"


def taken(sweep: Sweep, goal: float) -> float:
    """Mean compute until a trial is as good as that."""
    found = []
    for seed in range(4):
        ended = lambda end: bool(end.values) and end.values[0] >= goal  # noqa: E731
        found.append(go(sweep.changed(seed=seed, trials=60), judge=judge, enough=ended).ends[-1].spent)
    return float(np.mean(found))


def test_a_right_belief_helps_and_a_wrong_one_is_given_up() -> None:
    free = taken(with_priors(), 58.5)
    near = dict(RIGHT, match__lambda_b=3.2, masks__background=0.57)
    assert taken(with_priors(**near), 58.5) < 0.6 * free
    assert taken(with_priors(**WRONG), 58.5) < 1.5 * free


def test_the_more_confident_the_more_is_expected() -> None:
    worth = []
    for confidence in ("low", "medium", "high"):
        space = Space(with_priors(confidence, match__lambda_b=4.0, prompts__init="word"))
        at, near, far = ({**RANGES_AT, "match.lambda_b": x, "prompts.init": i} for x, i in
                         ((4.0, "word"), (3.0, "word"), (0.5, "normal")))  # fmt: skip
        rows = np.array([space.row(of) for of in (at, near, far)])
        beliefs = space.beliefs(rows)
        assert beliefs.shape == (3, 2) and beliefs[0, 0] > beliefs[1, 0] > beliefs[2, 0]
        assert beliefs[0, 1] == beliefs[1, 1] > 0 == beliefs[2, 1]  # of choices none is near another
        worth.append(beliefs[0, 0])
    assert worth == sorted(worth) and worth[0] < worth[2]
    assert Space(with_priors()).beliefs(rows).shape == (3, 0)


RANGES_AT = {"match.lambda_b": 1.0, "refine.lambda_r": 1.0, "prompts.init": "uniform", "masks.background": 0.5}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"space": {"match.lambda_b": {"float": [1, 8], "prior": {"value": 9}}}},
            r"space.match.lambda_b is not allowed: the prior's value 9 is none that this key can have",
        ),
        (
            {"space": {"prompts.init": {"choice": ["uniform", "word"], "prior": {"value": "wrod"}}}},
            r"the prior's value 'wrod' is none",
        ),
        (
            {"space": {"match.lambda_b": {"float": [1, 8], "prior": {"value": 2, "confidence": "sure"}}}},
            r"space.match.lambda_b.prior.confidence",
        ),
        (
            {"space": {"match.lambda_b": {"choice": [1, 2], "prior": {"value": 2}}}, "sampler": "grid"},
            r"match.lambda_b has a prior, but a grid takes every point; take the prior out",
        ),
        ({"sampler": "tpe", "stop_when": 0.2}, "stop_when: only the sampler cost-aware says what it expects"),
        ({"objective": ["pseudo_miou", "seconds"], "stop_when": 0.2}, "stop_when: .* of one objective"),
        ({"stop_when": 0}, "stop_when"),
    ],
)
def test_what_cannot_be_believed_is_said(changes: dict[str, Any], sentence: str) -> None:
    tree = {
        "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 3,
        "space": {"match.lambda_b": {"float": [1, 8]}}, **changes,
    }  # fmt: skip
    with pytest.raises(UserError, match=sentence):
        parse_sweep(tree, "sweep.yaml")


def test_a_sweep_ends_when_little_is_expected_of_another_hour() -> None:
    # the stages take 54 s together: an hour is worth 60 trials and more
    sweep = sweep_of(sampler="cost-aware", space={"masks.background": {"float": [0.3, 0.7]}}, trials=200)
    flat = lambda p: 50 - 100 * (p["masks.background"] - 0.5) ** 2  # noqa: E731
    study = go(sweep.changed(stop_when=0.2), judge=flat).study
    ended = len(own(study))
    assert PROMISES <= ended < 60
    expected = promise_of(study)
    assert expected and expected.gain(HOUR) < 0.2
    assert ranked(study, sweep)[0].values[0] == pytest.approx(50, abs=0.2)
    go(sweep.changed(stop_when=0.2), judge=flat, study=study)  # the same command
    assert len(own(study)) == ended
    go(sweep.changed(stop_when=1e-9, trials=ended + 2), judge=flat, study=study)
    assert len(own(study)) == ended + 2


def test_what_is_expected_falls_as_more_is_known() -> None:
    sweep = sweep_of(sampler="cost-aware", space=RANGES, trials=40)
    seen = []
    for trials in (14, 60):
        promise = promise_of(go(sweep.changed(trials=trials), judge=judge).study)
        assert promise
        seen.append(promise)
    assert seen[1].gain(HOUR) < seen[0].gain(HOUR) / 2


def test_a_promise_is_in_the_unit_of_the_objective() -> None:
    sweep = sweep_of(sampler="cost-aware", space=RANGES, trials=14)
    one = promise_of(go(sweep, judge=judge).study)
    ten = promise_of(go(sweep, judge=lambda p: 10 * judge(p)).study)
    assert one and ten and ten.most == pytest.approx(10 * one.most, rel=1e-3)
    assert ten.rate == pytest.approx(10 * one.rate, rel=1e-3)


def test_more_compute_brings_more_but_never_all() -> None:
    promise = Promise(rate=0.01, most=5.0)
    assert promise.gain(1.0) == pytest.approx(0.01, rel=0.01)
    gains = [promise.gain(seconds) for seconds in (60.0, 600.0, HOUR, 1e9)]
    assert gains == sorted(gains) and gains[-1] == pytest.approx(5.0)
    assert Promise(rate=1.0, most=0.0).gain(HOUR) == 0.0


def test_status_says_what_another_hour_is_expected_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(sampler="cost-aware", space=RANGES, trials=3)
    study = go(sweep, judge=judge).study
    assert summarise(study, sweep).another_hour is None  # too little is known
    keep_promise(study, Promise(rate=0.001, most=2.0))
    summary = summarise(study, sweep)
    assert summary.another_hour == pytest.approx(2 * (1 - np.exp(-1.8)))
    monkeypatch.setattr(screen, "console", console := Console(record=True, width=200))
    screen.show(summary)
    assert "Another hour of compute is expected to bring 1.7 more of pseudo_miou." in console.export_text()


def test_of_several_objectives_nothing_is_promised() -> None:
    sweep = sweep_of(sampler="cost-aware", space=RANGES, trials=14, objective=["pseudo_miou", "seconds"])
    assert promise_of(go(sweep, judge=judge).study) is None


def test_it_learns_again_however_many_trials_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which it looks at a part."""
    learned: list[int] = []
    learn = process.learn
    monkeypatch.setattr(process, "learn", lambda points, y, theta: learned.append(len(y)) or learn(points, y, theta))
    monkeypatch.setattr("tune.cost_aware.OBSERVATIONS", 30)
    go(sweep_of(sampler="cost-aware", space=RANGES, trials=70), judge=judge)
    assert learned[:ALWAYS] == [*range(1, ALWAYS + 1)]
    assert 5 <= len(learned[ALWAYS:]) <= 12 and max(learned) <= 30
