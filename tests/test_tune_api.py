"""Sweeps from Python: the same as by the commands, in any thread, and nothing of the process is changed for good."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

import optuna
import pytest
from conftest import TINY
from launches import Machine

import tune
from semples.config import Config
from tune.messages import Began, Ended, Event, State

SWEEP = {
    "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 3, "sampler": "grid", "base": TINY,
    "space": {"match.lambda_b": {"choice": [1.0, 2.0, 3.0]}},
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_sweep_is_launched_and_its_trials_are_a_table(machine: Machine, tmp_path: Path) -> None:
    events: list[tuple[int, Event]] = []
    done = tune.launch(SWEEP, out=tmp_path, on_event=lambda *of_trial: events.append(of_trial))
    assert done.ended and done.folder == (tmp_path / "s").resolve()
    trials = done.trials
    assert trials["state"].tolist() == ["COMPLETE"] * 3 and trials.index.name == "trial"
    assert trials["match.lambda_b"].tolist() == [1.0, 2.0, 3.0]
    assert trials["objective/pseudo_miou"].tolist() == trials["holdout/pseudo_miou"].tolist() == [49.0, 48.0, 47.0]
    assert trials["pseudo_miou"].tolist() == [51.0, 52.0, 53.0] and (trials["usage_seconds"] >= 0).all()
    best = done.best
    assert isinstance(best, Config) and best.match.lambda_b == 1.0 and done.pareto_front == [best]
    assert done.figures == {"best_objective/pseudo_miou": 49.0, "best_pseudo_miou": 51.0}
    assert [type(event) for number, event in events if number == 1][:1] == [Began]
    assert [event.state for _, event in events if isinstance(event, Ended)] == [State.COMPLETE] * 3


def test_the_same_call_goes_on_and_a_sweep_is_loaded_while_nothing_is_complete(
    machine: Machine, tmp_path: Path
) -> None:
    machine.left = 3  # stages until it is interrupted
    cut = tune.launch(SWEEP, out=tmp_path)
    assert cut.ended == "" and cut.trials["state"].tolist()[0] == "RUNNING" and cut.figures == {}
    with pytest.raises(tune.UserError, match="no trial is complete yet"):
        _ = cut.best
    assert cut.pareto_front == []
    machine.left = 10**9
    done = tune.launch(SWEEP, {"trials": 2}, out=tmp_path)
    assert done.ended and done.trials["state"].tolist()[:2] == ["COMPLETE"] * 2
    assert tune.load(tmp_path / "s").trials.equals(done.trials) and tune.load(tmp_path / "s").ended == ""


def test_a_sweep_is_a_file_a_name_a_mapping_or_itself(machine: Machine, tmp_path: Path) -> None:
    done = tune.launch("scenes", {"trials": 1, "name": "own", **{f"{k}": v for k, v in TINY.items()}}, out=tmp_path)
    assert done.sweep.name == "own" and len(done.trials) == 1
    again = tune.launch(done.sweep.changed(name="other"), out=tmp_path)
    assert again.folder.name == "other" and len(again.trials) == 1
    with pytest.raises(tune.UserError, match="its method `changed`"):
        tune.launch(done.sweep, {"trials": 2}, out=tmp_path)
    with pytest.raises(tune.UserError, match="sweep: key 'objective' is missing"):
        tune.launch({"name": "s", "selection": "holdout", "trials": 1, "space": {}}, out=tmp_path)
    with pytest.raises(tune.UserError, match="no sweep here"):
        tune.load(tmp_path)


def test_a_thread_launches_and_the_process_stays_as_it_was(machine: Machine, tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        loggers = [logging.getLogger(name).level for name in ("mlflow", "ray.tune", "optuna", "")]
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return dict(os.environ), loggers, handlers, optuna.logging.get_verbosity()

    before, found = state(), []
    within: list[str | None] = []
    machine.during = lambda: within.append(os.environ.get("RAY_USAGE_STATS_ENABLED"))
    thread = threading.Thread(target=lambda: found.append(tune.launch(SWEEP, out=tmp_path)))
    thread.start()
    thread.join()
    assert found[0].ended and state() == before and {*within} == {"0"}
    tune.launch({**SWEEP, "name": "here"}, out=tmp_path)
    assert state() == before


def test_what_is_public_is_there_and_nothing_else() -> None:
    assert {name for name in tune.__all__ if getattr(tune, name) is None} == set()
    assert {*tune.__all__} <= {*dir(tune)} and tune.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = tune.nothing  # type: ignore[attr-defined]
