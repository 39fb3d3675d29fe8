"""The Optuna study of a sweep: where it is kept, who suggests, and what it remembers of the trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from semples.errors import UserError, cut
from tune.space import within
from tune.storage import open_storage, place_of, storage_errors
from tune.sweep_file import Sweep

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
DUPLICATE = "duplicate_of"  # user attribute of a trial that repeats another, which is the one that counts
STARTUP_TRIALS = 6  # random ones before a sampler of Optuna trusts its model
WARM_STARTS = 5  # trials of another sweep that are tried first

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(folder: Path, sweep: Sweep) -> optuna.Study:
    """The sweep's study, made if it is not there; its first trial is the base configuration, then come the best of
    `warm_start` and, for a grid, its points. Raises UserError where the storage cannot be used."""
    return prepare(create_study(folder, sweep), sweep)


def create_study(folder: Path, sweep: Sweep) -> optuna.Study:
    """The study, made if it is not there, as it is. Raises UserError where the storage cannot be used."""
    with storage_errors(folder, sweep):
        return optuna.create_study(
            storage=open_storage(folder, sweep),
            study_name=sweep.name,
            directions=sweep.directions,
            load_if_exists=True,
        )


def prepare(study: optuna.Study, sweep: Sweep) -> optuna.Study:
    """Give the study its sampler, and what is to be tried before the sampler is asked."""
    # a sampler starts anew at every launch: with its old seed it would repeat its first suggestions
    trials = study.get_trials(deepcopy=False)
    study.sampler = create_sampler(sweep, (sweep.seed + 100_003 * len(trials)) % 2**32)
    first = [sweep.default_parameters()]  # again where it failed
    if all(trial.state == TrialState.WAITING for trial in trials):
        first += warm_starts(sweep)
    if sweep.sampler == "grid":
        first += sweep.grid()
    given = [t.params or t.system_attrs.get("fixed_params") for t in trials if t.state != TrialState.FAIL]
    for parameters in first:
        if parameters not in given:
            study.enqueue_trial(parameters)
            given.append(parameters)
    return study


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
    own = [t for t in trials if t.state == TrialState.COMPLETE and DUPLICATE not in t.user_attrs]
    if len(directions) != len(sweep.objective) or not all(isinstance(t.user_attrs.get("metrics"), dict) for t in own):
        raise UserError(f"{where}: its study '{sweep.name}' is not of this sweep; put back what was launched there")
    return study


def study_exists(folder: Path, sweep: Sweep) -> bool:
    """Whether the sweep has begun."""
    with storage_errors(folder, sweep):
        storage = open_storage(folder, sweep, reading=True)
        return storage is not None and sweep.name in optuna.get_all_study_names(storage)


def create_sampler(sweep: Sweep, seed: int) -> BaseSampler:
    """The sampler that the sweep names."""
    from tune.cost_aware import CostAwareSampler  # noqa: PLC0415 - scikit-learn takes a second

    if sweep.sampler == "cost-aware":
        return CostAwareSampler(sweep, seed)
    conditional = any(dimension.when for dimension in sweep.space.values())
    known: dict[str, tuple[Callable[..., BaseSampler], dict[str, Any]]] = {
        "tpe": (
            optuna.samplers.TPESampler,
            {
                "multivariate": True,
                "group": conditional,
                "constant_liar": True,
                "n_startup_trials": STARTUP_TRIALS,
            },
        ),
        "gp": (optuna.samplers.GPSampler, {"n_startup_trials": STARTUP_TRIALS}),
        "nsga2": (optuna.samplers.NSGAIISampler, {}),
        "nsga3": (optuna.samplers.NSGAIIISampler, {}),
        "cmaes": (optuna.samplers.CmaEsSampler, {"n_startup_trials": STARTUP_TRIALS}),
        "sobol": (optuna.samplers.QMCSampler, {"scramble": True}),
        "random": (optuna.samplers.RandomSampler, {}),
        "grid": (optuna.samplers.RandomSampler, {}),  # never asked: its points are given before
    }
    sampler, options = known[sweep.sampler]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sampler(seed=seed, **options)


def warm_starts(sweep: Sweep) -> list[dict[str, Any]]:
    """The best trials of the sweep that `warm_start` names: of their parameters those that this sweep searches too and
    whose values it allows. Raises UserError where there is no such sweep, or its trials were chosen by other masks."""
    if not sweep.warm_start:
        return []
    from tune.sweep_folder import load_launched  # noqa: PLC0415

    folder = Path(sweep.warm_start).expanduser().resolve()
    try:
        other = load_launched(folder)
    except UserError as error:
        raise UserError(f"warm_start: {error}") from None
    if other.selection != sweep.selection:
        raise UserError(
            f"warm_start: {folder} was chosen by {other.selection}, this sweep by {sweep.selection}; what chose there "
            "would choose here too"
        )
    space = sweep.distributions()
    shared = [
        sweep.searched(
            {**sweep.base_values(), **{k: v for k, v in trial.params.items() if k in space and within(space[k], v)}}
        )
        for trial in ranked(load_study(folder, other), other)
    ]
    distinct = list({tuple(parameters.items()): parameters for parameters in shared}.values())
    return [parameters for parameters in distinct if parameters != sweep.default_parameters()][:WARM_STARTS]


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have ended in any way, by number, without duplicates."""
    return [t for t in study.get_trials(deepcopy=False, states=FINISHED) if DUPLICATE not in t.user_attrs]


def succeeded(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended as they should: COMPLETE or PRUNED."""
    return [t for t in finished(study) if t.state != TrialState.FAIL]


def excess(trial: optuna.Trial | FrozenTrial, limits: dict[str, float]) -> dict[str, float]:
    """By how much a trial is above each limit; not above 0 where it keeps to it, or ended before that was known."""
    taken = trial.user_attrs.get("taken", {})
    return {name: taken.get(name, 0.0) - limit for name, limit in limits.items()}


def ranked(study: optuna.Study, sweep: Sweep) -> list[FrozenTrial]:
    """COMPLETE trials within the limits, best first by the first objective, equal ones by number. With several
    objectives those come first that no other trial beats in all."""
    complete = [
        t
        for t in finished(study)
        if t.state == TrialState.COMPLETE and all(over <= 0 for over in excess(t, sweep.limits).values())
    ]
    several = len(sweep.directions) > 1
    return sorted(complete, key=lambda t: (several and _beaten(t, complete, sweep), _losses(t, sweep)[0], t.number))


def front(study: optuna.Study, sweep: Sweep) -> list[FrozenTrial]:
    """The best trial, or with several objectives the trials that no other beats in all."""
    leading = ranked(study, sweep)
    if len(sweep.directions) == 1:
        return leading[:1]
    return [trial for trial in leading if not _beaten(trial, leading, sweep)]


def _losses(trial: FrozenTrial, sweep: Sweep) -> list[float]:
    return [-v if d == "maximize" else v for v, d in zip(trial.values, sweep.directions, strict=True)]


def _beaten(trial: FrozenTrial, others: Iterable[FrozenTrial], sweep: Sweep) -> bool:
    own = _losses(trial, sweep)
    return any(
        (losses := _losses(other, sweep)) != own and all(a <= b for a, b in zip(losses, own, strict=True))
        for other in others
    )


def passed_milestones(study: optuna.Study) -> dict[str, dict[int, float]]:
    """Scores by milestone and trial number."""
    found: dict[str, dict[int, float]] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, stage in trial.user_attrs.get("stages", {}).items():
            if "score" in stage and DUPLICATE not in trial.user_attrs:
                found.setdefault(name, {})[trial.number] = stage["score"]
    return found


def effort(trials: Iterable[optuna.Trial | FrozenTrial]) -> dict[str, float]:
    """Compute seconds of the stages that the trials computed, and of those that they found in the store."""
    stages = [
        stage
        for trial in trials
        if DUPLICATE not in trial.user_attrs
        for stage in trial.user_attrs.get("stages", {}).values()
    ]
    return {
        f"seconds_{what}": sum(stage["seconds"] for stage in stages if stage["reused"] == reused)
        for what, reused in (("computed", False), ("saved", True))
    }
