"""How far a sweep is: what `semples-tune status` says, as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import optuna

from tune.study import DUPLICATE, effort, front, ranked, succeeded
from tune.sweep_file import OBJECTIVES, Sweep

TOP = 5  # trials by which a sweep is told


@dataclass(frozen=True)
class Leader:
    """One of the best trials. default: whether it is the base configuration. objective, metrics: what it was chosen by,
    and what it reports, by name (mIoU in points, seconds, GB). parameters: the searched keys that it had a value of."""

    trial: int
    default: bool
    objective: dict[str, float]
    metrics: dict[str, float]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A trial that failed or was lost, and why."""

    trial: int
    state: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """space: the searched keys. trials: how many were asked for, None without such a number. done: those that ended as
    they should. states: number of trials by state. seconds_computed, seconds_saved: compute seconds of the stages that
    trials computed, and of those that they found stored. best: at most TOP trials, best first; with several objectives
    all that no other beats."""

    sweep: str
    selection: str
    objective: tuple[str, ...]
    space: tuple[str, ...]
    trials: int | None
    done: int
    states: dict[str, int]
    seconds_computed: float
    seconds_saved: float
    best: tuple[Leader, ...]
    failures: tuple[Failure, ...]


def summarise(study: optuna.Study, sweep: Sweep) -> Summary:
    """What the study of a sweep says so far."""
    trials, default = study.get_trials(deepcopy=False), sweep.default_parameters()
    own = [trial for trial in trials if DUPLICATE not in trial.user_attrs and trial.state.name != "WAITING"]
    leading = front(study, sweep) if len(sweep.objective) > 1 else ranked(study, sweep)[:TOP]
    return Summary(
        sweep.name,
        sweep.selection,
        tuple(sweep.objective),
        tuple(sweep.space),
        sweep.trials,
        len(succeeded(study)),
        dict(sorted(Counter(trial.user_attrs.get("state", trial.state.name) for trial in own).items())),
        **effort(trials),
        best=tuple(
            Leader(
                trial.number,
                trial.params == default,
                dict(zip(sweep.objective, trial.values, strict=True)),
                {name: value for name, value in trial.user_attrs["metrics"].items() if name in OBJECTIVES},
                trial.params,
            )
            for trial in leading
        ),
        failures=tuple(
            Failure(trial.number, trial.user_attrs["state"], trial.user_attrs.get("reason", ""))
            for trial in trials
            if trial.user_attrs.get("state") in ("FAILED", "LOST")
        ),
    )
