"""The contract of a sampler, as semples.testing has those of generators, layouts, stages and stores: a suite that other
packages run on theirs, and our tests on ours. pytest itself must be installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from semples.pipeline.graph import graph
from tune.needs import affecting
from tune.records import is_duplicate
from tune.replay import Replay, StagePlan, replay
from tune.sweep_file import Sweep, make_sweep

SECONDS = {
    "classify": 5.0, "match": 20.0, "prompts": 4.0, "refine": 20.0, "heatmaps": 2.0, "masks": 3.0,
    "measured_heatmaps": 4.0, "measured_masks": 6.0, "rest_heatmaps": 1.0, "rest_masks": 1.0, "segment": 30.0,
}  # fmt: skip
JUDGED = ("classify", "match", "prompts", "refine", "heatmaps", "masks")  # by which pseudo masks are judged
# one key of every kind, and one that is only there with some values of another
SPACE: dict[str, Any] = {
    "match.lambda_b": {"float": [0.5, 8.0], "log": True}, "masks.background": {"float": [0.3, 0.7], "step": 0.1},
    "prompts.epochs": {"int": [10, 40], "step": 10}, "prompts.init": {"choice": ["uniform", "normal", "word"]},
    "match.epochs": {"int": [5, 9], "when": {"prompts.init": ["uniform", "normal"]}},
}  # fmt: skip
BASE = {
    "match.lambda_b": 1.0, "masks.background": 0.5, "prompts.epochs": 20, "prompts.init": "uniform", "match.epochs": 7,
}  # fmt: skip


class MadeUp:
    """Made-up stages for a replay: every score (mIoU in percent) is what `judge` says of the parameters."""

    def __init__(self, sweep: Sweep, judge: Callable[[dict[str, Any]], float]):
        self._keys, self._judge, self._stages = affecting(sweep), judge, graph(sweep.base_config())

    def stage_seconds(self, profile: str) -> dict[str, float]:
        """SECONDS, whatever the profile."""
        return SECONDS

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        """All stages; what is reported is one higher than what chooses."""
        score = self._judge(parameters)
        return [
            StagePlan(
                name,
                repr([parameters.get(k) for k in keys]).encode(),
                seconds[name],
                [score, score + 1.0] if self._stages[name].milestone else None,
            )
            for name, keys in self._keys.items()
        ]


def own(study: optuna.Study) -> list[FrozenTrial]:
    """What really ran: the trials without duplicates of others, and without those that were never begun."""
    return [t for t in study.get_trials() if not is_duplicate(t) and t.state != TrialState.WAITING]


class SamplerContract:
    """What a sweep relies on. Take it as base class and give the fixture `sampler`: what a sweep file says under that
    key, the name or {name: ..., SETTING: ...}. several: False for one that knows a single objective only."""

    several = True

    @pytest.fixture
    def sampler(self) -> str | Mapping[str, Any]:
        raise NotImplementedError

    @pytest.fixture
    def go(self, sampler: str | Mapping[str, Any]) -> Callable[..., Replay]:
        """One launch in virtual time, of a sweep with some keys changed; `study`: of the launches before it."""

        def launch(changes: Mapping[str, Any] = {}, **options: Any) -> Replay:
            tree = {
                "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 12, "sampler": sampler,
                "base": BASE, "space": SPACE, **changes,
            }  # fmt: skip
            sweep = make_sweep(tree)
            return replay(sweep, MadeUp(sweep, lambda p: 50.0 - 5 * p.get("match.lambda_b", 1.0)), **options)

        return launch

    def test_suggests_what_the_space_holds(self, go: Callable[..., Replay]) -> None:
        for trial in own(go(workers=3).study):
            given = trial.params
            assert 0.5 <= given["match.lambda_b"] <= 8.0 and given["prompts.epochs"] in (10, 20, 30, 40)
            assert any(abs(given["masks.background"] - value) < 1e-9 for value in (0.3, 0.4, 0.5, 0.6, 0.7))
            assert given["prompts.init"] in ("uniform", "normal", "word")
            assert given.get("match.epochs") in ((None,) if given["prompts.init"] == "word" else range(5, 10))

    def test_follows_its_seed(self, go: Callable[..., Replay]) -> None:
        one, same = (go({"seed": 3}) for _ in range(2))
        assert [trial.params for trial in own(one.study)] == [trial.params for trial in own(same.study)]

    def test_goes_on_after_trials_of_every_end(self, go: Callable[..., Replay]) -> None:
        """One fails, one is lost with its node, one gives no number, one is retried; a rule stops others early."""
        faults = {2: "fail", 4: "lost", 5: "nan", 6: "retried"}
        done = go(workers=2, injected_fault=lambda number: faults.get(number, ""))
        states = [trial.state for trial in own(done.study)]
        assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)) == (12, 3)
        stopped = go({"early_stopping": "median"}, workers=2, injected_fault=lambda number: faults.get(number, ""))
        states = [trial.state for trial in own(stopped.study)]
        assert states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) == 12

    def test_a_later_launch_goes_on(self, go: Callable[..., Replay]) -> None:
        first = go({"trials": 5})
        before = [(trial.params, trial.values) for trial in own(first.study)]
        both = own(go({"trials": 9}, study=first.study).study)
        assert [(trial.params, trial.values) for trial in both][:5] == before
        assert len(both) == 9 and {trial.state for trial in both} == {TrialState.COMPLETE}

    def test_of_a_small_space_every_point_is_tried_at_most_once(self, go: Callable[..., Replay]) -> None:
        trials = own(go({"space": {"match.lambda_b": {"choice": [1.0, 2.0, 4.0]}}}).study)
        tried = [trial.params["match.lambda_b"] for trial in trials]
        assert tried[0] == 1.0 and len(tried) == len({*tried}) <= 3

    def test_takes_several_objectives(self, go: Callable[..., Replay]) -> None:
        if not self.several:
            pytest.skip("knows one objective only")
        trials = own(go({"objective": ["pseudo_miou", "seconds"]}).study)
        assert len(trials) == 12 and all(len(trial.values) == 2 for trial in trials)
