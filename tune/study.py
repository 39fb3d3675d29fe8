"""The Optuna study of a sweep: where it is, and what it says of its trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from semples.errors import UserError, cut
from semples.pipeline.graph import reporting
from tune.messages import Usage, at_epoch
from tune.records import is_duplicate, is_sound, reported_later, trial_record
from tune.storage import open_storage, place_of, storage_errors
from tune.sweep_file import Sweep

TOP = 5  # trials by which a sweep is told
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def create_study(folder: Path, sweep: Sweep) -> optuna.Study:
    """The study, made if it is not there, as it is. Raises UserError where the storage cannot be used."""
    with storage_errors(folder, sweep):
        return optuna.create_study(
            storage=open_storage(folder, sweep),
            study_name=sweep.name,
            directions=sweep.directions,
            load_if_exists=True,
        )


def is_default(study: optuna.Study, sweep: Sweep, number: int) -> bool:
    """Whether a trial is the base configuration: the first one, or a later one where that failed."""
    return study.get_trials(deepcopy=False)[number].params == sweep.default_parameters()


def load_study(folder: Path, sweep: Sweep) -> optuna.Study:
    """The study of a sweep folder, for reading: nothing is created or changed. Raises UserError where it is not there,
    damaged, or of something else."""
    where = place_of(folder, sweep)
    with storage_errors(folder, sweep):
        storage = open_storage(folder, sweep, reading=True)
        names = optuna.get_all_study_names(storage) if storage else []
        if storage is None or sweep.name not in names:
            there = f", but {cut(', '.join(map(repr, names)))}" if names else ""
            raise UserError(f"{where}: there is no study '{sweep.name}'{there}; put back what was launched there")
        study = optuna.load_study(study_name=sweep.name, storage=storage)
        trials, directions = study.get_trials(deepcopy=False), study.directions
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    if len(directions) != len(sweep.objective) or not all(map(is_sound, complete)):
        raise UserError(f"{where}: its study '{sweep.name}' is not of this sweep; put back what was launched there")
    return study


def study_exists(folder: Path, sweep: Sweep) -> bool:
    """Whether the sweep has begun."""
    with storage_errors(folder, sweep):
        storage = open_storage(folder, sweep, reading=True)
        return storage is not None and sweep.name in optuna.get_all_study_names(storage)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have ended in any way, by number, without duplicates."""
    return [t for t in study.get_trials(deepcopy=False, states=FINISHED) if not is_duplicate(t)]


def succeeded(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended as they should: COMPLETE or PRUNED."""
    return [t for t in finished(study) if t.state != TrialState.FAIL]


def constraint_violations(usage: Usage | None, limits: Mapping[str, float]) -> dict[str, float]:
    """By how much a trial is above each limit; not above 0 where it keeps to it, or ended before that was known."""
    return {name: getattr(usage or Usage(), name) - limit for name, limit in limits.items()}


def ranked(study: optuna.Study, sweep: Sweep) -> list[FrozenTrial]:
    """COMPLETE trials within the limits, best first by the first objective, equal ones by number. With several
    objectives the Pareto front comes first."""
    complete = [
        t
        for t in finished(study)
        if t.state == TrialState.COMPLETE
        and all(over <= 0 for over in constraint_violations(trial_record(t).usage, sweep.limits).values())
    ]
    several = len(sweep.directions) > 1
    return sorted(complete, key=lambda t: (several and _dominated(t, complete, sweep), _losses(t, sweep)[0], t.number))


def pareto_front(study: optuna.Study, sweep: Sweep) -> list[FrozenTrial]:
    """The best trial, or with several objectives the trials that no other beats in all."""
    leading = ranked(study, sweep)
    if len(sweep.directions) == 1:
        return leading[:1]
    return [trial for trial in leading if not _dominated(trial, leading, sweep)]


def leading(study: optuna.Study, sweep: Sweep) -> list[FrozenTrial]:
    """The trials by which a sweep is told: the TOP best, or with several objectives the whole Pareto front."""
    return pareto_front(study, sweep) if len(sweep.directions) > 1 else ranked(study, sweep)[:TOP]


def unreported(study: optuna.Study, sweep: Sweep, leaders: Sequence[FrozenTrial] | None = None) -> list[FrozenTrial]:
    """The leading trials whose reported figures are not known yet. leaders: where they are known already."""
    stage, later = reporting(sweep.base_config(), sweep.last_stage), reported_later(study)
    if stage is None:
        return []
    leaders = leading(study, sweep) if leaders is None else leaders
    return [t for t in leaders if stage not in trial_record(t).stages and t.number not in later]


def _losses(trial: FrozenTrial, sweep: Sweep) -> list[float]:
    return [-v if d == "maximize" else v for v, d in zip(trial.values, sweep.directions, strict=True)]


def _dominated(trial: FrozenTrial, others: Iterable[FrozenTrial], sweep: Sweep) -> bool:
    own = _losses(trial, sweep)
    return any(
        (losses := _losses(other, sweep)) != own and all(a <= b for a, b in zip(losses, own, strict=True))
        for other in others
    )


def passed_milestones(study: optuna.Study) -> dict[str, dict[int, float]]:
    """Scores by milestone and trial number."""
    found: dict[str, dict[int, float]] = {}
    for trial in study.get_trials(deepcopy=False):
        if not is_duplicate(trial):
            record = trial_record(trial)
            scores = {name: stage.score for name, stage in record.stages.items() if stage.score is not None}
            for name, of_epochs in record.epochs.items():
                scores |= {at_epoch(name, epoch): score for epoch, score in of_epochs.items()}
            for name, score in scores.items():
                found.setdefault(name, {})[trial.number] = score
    return found
