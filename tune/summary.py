"""How far a sweep is: what `semples-tune status` says, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from tune.expected import Expected, expected
from tune.messages import State
from tune.objectives import choosing
from tune.parts import HEADLINES
from tune.records import HOUR, compute_seconds, promise_of, reported_later, trial_record
from tune.study import leading, ranked, succeeded, unreported
from tune.sweep_file import Sweep


@dataclass(frozen=True)
class Leader:
    """One of the best trials. default: whether it is the base configuration. objective, metrics: what it was chosen by,
    and what it reports, by name (mIoU in percent, seconds, GB). objective_error, metrics_error: their standard errors
    over images, in points, as far as they are known. parameters: the searched keys that it has a value of."""

    trial: int
    default: bool
    objective: dict[str, float]
    metrics: dict[str, float]
    objective_error: dict[str, float]
    metrics_error: dict[str, float]
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
    the whole Pareto front. expected: of the first of them, None where it is not known. unreported: those of them that
    are not measured yet on the images on which figures are reported. another_hour: what another hour of compute is
    expected to bring, in the objective's unit, None where the sampler does not say."""

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
    expected: Expected | None
    unreported: tuple[int, ...]
    another_hour: float | None
    failures: tuple[Failure, ...]


def summarise(study: optuna.Study, sweep: Sweep, folder: Path | None = None) -> Summary:
    """What the study of a sweep says so far, and where its folder is given, its trials."""
    default, names = sweep.default_parameters(), tuple(objective.metric for objective in sweep.objectives)
    later = reported_later(study)
    records = [trial_record(trial, later) for trial in study.get_trials(deepcopy=False)]
    states = Counter(of.state.value for of in records if of.duplicate_of is None and of.state != State.WAITING)
    computed, saved = compute_seconds(records)
    best = leading(study, sweep)
    return Summary(
        sweep.name,
        sweep.selection,
        names,
        tuple(sweep.space),
        sweep.trials,
        len(succeeded(study)),
        dict(sorted(states.items())),
        computed,
        saved,
        best=tuple(
            Leader(
                trial.number,
                trial.params == default,
                dict(zip(names, trial.values, strict=True)),
                {name: value for name, value in records[trial.number].metrics.items() if name in HEADLINES},
                _errors(choosing(records[trial.number].metrics, sweep.selection), names),
                _errors(choosing(records[trial.number].metrics, "oracle"), HEADLINES),
                trial.params,
            )
            for trial in best
        ),
        expected=expected(sweep, folder, ranked(study, sweep)) if folder else None,
        unreported=tuple(trial.number for trial in unreported(study, sweep, best)),
        another_hour=promise.gain(HOUR) if (promise := promise_of(study)) else None,
        failures=tuple(
            Failure(number, of.state.value, of.reason)
            for number, of in enumerate(records)
            if of.reason and of.state in (State.FAILED, State.LOST)
        ),
    )


def _errors(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The standard errors that are known of these metrics."""
    return {name: metrics[key] for name in names if math.isfinite(metrics.get(key := f"{name}_se", math.nan))}
