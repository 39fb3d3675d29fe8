"""Early stopping that compares like with like: scores of the same milestone only.

Another package adds a rule by an entry point of the group `tune.stopping`: a callable that takes the settings of the
sweep file as keywords and gives a `Rule`, found by the name that `early_stopping` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from statistics import median as middle

from semples.errors import UserError
from semples.pipeline.graph import graph
from tune.parts import EARLY_STOPPING, Choice, create
from tune.sweep_file import Sweep

AFTER = 4  # different scores of others that a milestone must have before anyone is stopped there
REDUCTION = 3  # of successive halving: one in so many goes on


@dataclass(frozen=True)
class Rule:
    """stops: whether a trial with this score is stopped, by the different scores of others at the same milestone (more
    is better). reason: how that is said."""

    stops: Callable[[float, list[float]], bool]
    reason: str


def find_rule(choice: Choice) -> Rule:
    """The rule that a sweep names. Raises UserError where there is none, or for settings that it does not take."""
    rule: Rule = create(EARLY_STOPPING, choice)
    return rule


def epochs_of(stage: str) -> str:
    """Under which name `rules` has the rule for all epochs of a stage."""
    return f"epochs of {stage}"


def is_compared(epoch: int) -> bool:
    """Whether trials are compared after this epoch: 1, 3, 9, 27, ... as successive halving has it."""
    return epoch >= 1 and REDUCTION ** round(log(epoch, REDUCTION)) == epoch


def rules(sweep: Sweep) -> dict[str, Rule]:
    """The rule at every milestone at which trials of a sweep may be stopped: stages, and `epochs_of` the last one. At
    the last headline before the end, so before networks are trained, that is its gate, too. Raises what `find_rule`
    raises."""
    rule, stages = find_rule(sweep.early_stopping), graph(sweep.base_config())
    before = list(stages)[: list(stages).index(sweep.last_stage)]
    found = {name: rule for name in before if stages[name].milestone}
    headlines = [name for name in found if stages[name].headline]
    if sweep.gate < 1 and headlines:
        gate = asha(reduction=1 / sweep.gate)
        reason = f"not in the best {sweep.gate:.0%}"
        if sweep.early_stopping.name != "none":
            reason = f"{rule.reason} or {reason}"
        found[headlines[-1]] = Rule(lambda *scores: rule.stops(*scores) or gate.stops(*scores), reason)
    if stages[sweep.last_stage].course:
        found[epochs_of(sweep.last_stage)] = rule
    return found


def median(after: int = AFTER) -> Rule:
    """Stops what is below the median of the others. after: scores that must be there before."""
    if after < 1:
        raise UserError(f"early_stopping.after = {after} is not allowed: at least 1")
    return Rule(lambda score, others: len(others) >= after and score < middle(others), "below the median")


def asha(after: int = AFTER, reduction: float = REDUCTION) -> Rule:
    """Asynchronous successive halving (arXiv 1810.05934): stops what is not among the best 1 / reduction of all that
    have come to the milestone so far. after: scores of others that must be there before."""
    if after < 1 or reduction <= 1:
        raise UserError("early_stopping: after is at least 1, and reduction above 1")

    def stops(score: float, others: list[float]) -> bool:
        better = sum(other > score for other in others)
        return len(others) >= after and better >= (len(others) + 1) / reduction

    return Rule(stops, f"not in the best 1/{reduction:g}")


def never() -> Rule:
    """Stops nobody."""
    return Rule(lambda score, others: False, "stopped")
