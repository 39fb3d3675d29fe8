"""What a trial may be judged by: a metric and a direction.

Another package adds an objective by an entry point of the group `tune.objectives`: a callable that takes the settings
of the sweep file as keywords and gives an `Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from semples.errors import UserError
from semples.stage import Stage
from tune.messages import Usage
from tune.parts import HEADLINES, OBJECTIVE, Choice, create

Direction = Literal["maximize", "minimize"]
JUDGES = ("holdout", "proxy")  # in the names of metrics that may choose


@dataclass(frozen=True)
class Objective:
    """metric: under which it is shown and logged. direction: in Optuna's words. value: of the metrics of a run that may
    choose (of the holdout, say, under their plain names: `pseudo_miou` in percent, `classify/cam_miou`, ...) and of
    what the trial took. stage: after which it is known; None where it belongs to the whole trial, as its seconds do."""

    metric: str
    direction: Direction
    value: Callable[[Mapping[str, float], Usage], float]
    stage: str | None = None


def find_objective(choice: Choice) -> Objective:
    """The objective that a sweep names. Raises UserError where there is none, or for settings that it does not take."""
    given = (choice.name,) if choice.name in HEADLINES else ()
    found: Objective = create(OBJECTIVE, choice, *given)
    return found


def choosing(metrics: Mapping[str, float], selection: str) -> dict[str, float]:
    """Of the metrics of a run or a stage those that may choose, under their plain names: on the holdout's masks, by
    CLIP on the holdout's images under "proxy", on the evaluation masks under "oracle"."""
    found = {}
    for name, value in metrics.items():
        words = name.split("/")
        at = next((i for i, word in enumerate(words[:-1][:2]) if word in JUDGES), None)  # the last one may be a class
        judge = "oracle" if at is None else words.pop(at)
        if judge == selection:
            found["/".join(words)] = value
    return found


def milestone_score(stage: Stage, metrics: Mapping[str, float], selection: str) -> float | None:
    """By what trials are compared once a stage is done, from its own metrics; None where it is no milestone. CAMs have
    no proxy."""
    if stage.milestone is None or (selection == "proxy" and not stage.headline):
        return None
    return choosing(metrics, selection)[stage.milestone]


def metric(metric: str, stage: str, direction: Direction = "maximize") -> Objective:
    """A metric of a stage, {name: metric, metric: pseudo_iou/dog, stage: masks} for one. Raises UserError for a
    direction that there is not."""
    if direction not in ("maximize", "minimize"):
        raise UserError(f"objective: direction '{direction}' is neither maximize nor minimize")

    def value(metrics: Mapping[str, float], usage: Usage) -> float:
        if metric not in metrics:
            raise UserError(f"{stage} reports no '{metric}' for what chooses, and the objective is that")
        return metrics[metric]

    return Objective(metric, direction, value, stage)


def headline(name: str) -> Objective:
    """A metric of HEADLINES, in percent."""
    return metric(name, HEADLINES[name])


def seconds() -> Objective:
    """Compute seconds of all stages of a trial."""
    return Objective("seconds", "minimize", lambda metrics, usage: usage.seconds)


def gpu_gb() -> Objective:
    """The most GPU memory of a trial, in GB."""
    return Objective("gpu_gb", "minimize", lambda metrics, usage: usage.gpu_gb)
