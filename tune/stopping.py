"""Early stopping that compares like with like: scores of the same milestone only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.trial import receive

AFTER = 4  # different scores of others that a milestone must have before anyone is stopped there
REDUCTION = 3  # of successive halving: one in so many goes on


def below_median(score: float, others: list[float]) -> bool:
    """Whether a score is below the median of the others' at the same milestone."""
    return len(others) >= AFTER and score < median(others)


def outside_best(score: float, others: list[float]) -> bool:
    """Asynchronous successive halving (arXiv 1810.05934): whether a score is not among the best 1 / REDUCTION of all
    that have come to the milestone so far."""
    better = sum(other > score for other in others)
    return len(others) >= AFTER and better >= (len(others) + 1) / REDUCTION


@dataclass(frozen=True)
class Rule:
    """Who is stopped at a milestone, and how that is said."""

    stops: Callable[[float, list[float]], bool]
    reason: str


RULES = {
    "median": Rule(below_median, "below the median"),
    "asha": Rule(outside_best, f"not in the best 1/{REDUCTION}"),
    "none": Rule(lambda score, others: False, "stopped"),
}


def _first(number: int) -> bool:
    return number == 0


class MilestoneStopping(FIFOScheduler):
    """Ray Tune scheduler that stops a trial at a milestone where the rule says so.

    passed: scores by milestone and trial number, of the trials of earlier launches. last: the milestone after which
    nothing is saved any more. is_default: of a trial's number. The default configuration is never stopped, and nobody
    is before it has passed the same milestone. Trials that share a stored result are one score.
    """

    def __init__(
        self, rule: str, last: str, passed: dict[str, dict[int, float]], is_default: Callable[[int], bool] = _first
    ):
        super().__init__()
        self._stops, self._last, self._is_default = RULES[rule].stops, last, is_default
        self._passed: dict[str, dict[int, float]] = defaultdict(dict, {m: dict(s) for m, s in passed.items()})
        self._begun = {m for m, scores in passed.items() if any(map(is_default, scores))}  # the default has passed them

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its scheduler into snapshots that are never read here

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Ray after every report of a trial; returns its decision."""
        message, number = receive(result), trial.config["number"]
        milestone = message.get("milestone")
        if milestone is None or milestone == self._last:
            decision: str = TrialScheduler.CONTINUE
            return decision
        passed, score = self._passed[milestone], message["score"]
        passed[number] = score
        if self._is_default(number):
            self._begun.add(milestone)
            return str(TrialScheduler.CONTINUE)
        stop = milestone in self._begun and self._stops(score, list({*passed.values()} - {score}))
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
