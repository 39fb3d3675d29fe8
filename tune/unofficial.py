"""What Optuna has no public way to: each use stands here, with its reason and a test (tests/test_unofficial.py)."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState


def running_trials(study: optuna.Study) -> list[optuna.Trial]:
    """The trials of a study that are RUNNING, as those who began them had them: they can go on.

    Optuna would have them ended and others begun in their place, with other numbers, folders and MLflow runs.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.Trial(study, trial._trial_id) for trial in running]
