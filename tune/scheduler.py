"""A stopping rule as a scheduler of Ray Tune."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.messages import EpochDone, StageDone, at_epoch, decode
from tune.stopping import Rule, epochs_of, is_compared, rules
from tune.study import is_default, passed_milestones
from tune.sweep_file import Sweep


def _first(number: int) -> bool:
    return number == 0


def scheduler_of(sweep: Sweep, study: optuna.Study) -> MilestoneStopping:
    """The scheduler of a launch, which knows what the trials of earlier launches have passed."""
    return MilestoneStopping(rules(sweep), passed_milestones(study), lambda number: is_default(study, sweep, number))


class MilestoneStopping(FIFOScheduler):
    """Ray Tune scheduler that stops a trial at a milestone where the rule for it says so.

    rules: as tune.stopping has them. passed: scores by milestone and trial number, of the trials of earlier launches.
    is_default: of a trial's number. The default configuration is never stopped, and nobody is before it has passed the
    same milestone. Trials that share a stored result are one score.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        passed: Mapping[str, Mapping[int, float]],
        is_default: Callable[[int], bool] = _first,
    ):
        super().__init__()
        self._rules, self._is_default = rules, is_default
        self._passed: dict[str, dict[int, float]] = defaultdict(dict, {m: dict(s) for m, s in passed.items()})
        self._begun = {m for m, scores in passed.items() if any(map(is_default, scores))}  # the default has passed them

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its scheduler into snapshots that are never read here

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Ray after every report of a trial; returns its decision."""
        stop, number = False, trial.config["number"]
        match decode(result):
            case StageDone(stage, score=score) if score is not None:
                stop = self._is_stopped(number, stage, stage, score)
            case EpochDone(stage, epoch, score=score) if is_compared(epoch):
                stop = self._is_stopped(number, at_epoch(stage, epoch), epochs_of(stage), score)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def _is_stopped(self, number: int, milestone: str, rule: str, score: float) -> bool:
        if rule not in self._rules:
            return False
        passed = self._passed[milestone]
        passed[number] = score
        if self._is_default(number):
            self._begun.add(milestone)
            return False
        others = list({*passed.values()} - {score})
        return milestone in self._begun and self._rules[rule].stops(score, others)
