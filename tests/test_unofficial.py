"""What Optuna has no public way to does what it is for."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tune.unofficial import running_trials


def test_trials_that_run_go_on_as_they_were(tmp_path: Path) -> None:
    def study() -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
        return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)

    first = study()
    begun = [first.ask() for _ in range(3)]
    values = [trial.suggest_float("x", 0.0, 1.0) for trial in begun]
    begun[1].report(4.0, 0)
    first.tell(begun[0], 9.0)
    first.enqueue_trial({"x": 0.5})
    later = study()
    again = running_trials(later)
    assert [(trial.number, trial.suggest_float("x", 0.0, 1.0)) for trial in again] == [*enumerate(values)][1:]
    again[0].report(3.0, 1)
    again[0].set_user_attr("note", "here")
    later.tell(again[0], 7.0)
    (done,) = (trial for trial in study().get_trials() if trial.number == 1)
    assert (done.state, done.value, done.user_attrs) == (TrialState.COMPLETE, 7.0, {"note": "here"})
    assert done.intermediate_values == {0: 4.0, 1: 3.0}
