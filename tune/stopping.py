"""Early stopping that compares like with like: scores of the same milestone only."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.trial import receive

AFTER = 4  # trials that must have passed a milestone before anyone is stopped there


def falls_behind(score: float, others: list[float]) -> bool:
    """Whether a score is below the median of the other trials' scores at the same milestone."""
    return len(others) >= AFTER and score < median(others)


class MedianStopping(FIFOScheduler):
    """Ray Tune scheduler that stops a trial at a milestone at which it falls behind.

    passed: scores by milestone and trial number, of the trials of earlier launches. The default configuration (trial 0)
    is never stopped, and nobody is before it has passed the same milestone.
    """

    def __init__(self, passed: dict[str, dict[int, float]]):
        super().__init__()
        self._passed: dict[str, dict[int, float]] = defaultdict(dict, {m: dict(s) for m, s in passed.items()})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Ray after every report of a trial; returns its decision."""
        message, number = receive(result), trial.config["number"]
        milestone = message.get("milestone")
        if milestone is None or milestone == "segment":  # after the last one nothing is saved
            decision: str = TrialScheduler.CONTINUE
            return decision
        passed = self._passed[milestone]
        passed[number] = message["score"]
        others = [score for other, score in passed.items() if other != number]
        stop = number != 0 and 0 in passed and falls_behind(message["score"], others)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
