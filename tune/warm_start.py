"""What is tried before the sampler is asked: the default, what is believed to be good, the best of another sweep, the
points of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from semples.errors import UserError
from tune.samplers import create_sampler
from tune.study import create_study, load_study, ranked
from tune.sweep_file import Sweep
from tune.sweep_folder import load_launched

WARM_STARTS = 5  # trials of another sweep that are tried first


def open_study(folder: Path, sweep: Sweep) -> optuna.Study:
    """The sweep's study, made if it is not there, with its sampler and what is tried first. Raises UserError where the
    storage cannot be used."""
    return prepare(create_study(folder, sweep), sweep)


def prepare(study: optuna.Study, sweep: Sweep) -> optuna.Study:
    """Give the study its sampler, and what is to be tried before that is asked."""
    # a sampler starts anew at every launch: with its old seed it would repeat its first suggestions. The number of
    # trials would not do: a launch may have drawn nothing but the values of a trial that an earlier one had only begun
    trials = study.get_trials(deepcopy=False)
    drawn = sum(len(trial.params) for trial in trials)
    study.sampler = create_sampler(sweep, (sweep.seed + 100_003 * drawn) % 2**32)
    first = [sweep.default_parameters()]  # again where it failed
    if all(trial.state == TrialState.WAITING for trial in trials):
        first += [sweep.prior_parameters(), *warm_starts(sweep)]
    if sweep.is_grid:
        first += sweep.grid()
    given = [t.params or t.system_attrs.get("fixed_params") for t in trials if t.state != TrialState.FAIL]
    for parameters in first:
        if parameters not in given:
            study.enqueue_trial(parameters)
            given.append(parameters)
    return study


def warm_starts(sweep: Sweep) -> list[dict[str, Any]]:
    """The best trials of the sweep that `warm_start` names: of their parameters those that this sweep searches too and
    whose values it allows. Raises UserError where there is no such sweep, or its trials were chosen by other masks."""
    if not sweep.warm_start:
        return []
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
    shared = [
        sweep.searched(
            {
                **sweep.base_values,
                **{k: v for k, v in trial.params.items() if k in sweep.space and sweep.space[k].contains(v)},
            }
        )
        for trial in ranked(load_study(folder, other), other)
    ]
    distinct = list({tuple(parameters.items()): parameters for parameters in shared}.values())
    return [parameters for parameters in distinct if parameters != sweep.default_parameters()][:WARM_STARTS]
