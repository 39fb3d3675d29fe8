"""The Optuna study as a Ray Tune searcher: it alone decides and records how every trial ended.

The study is the only memory of a sweep. A trial that is RUNNING in it when a launch begins was interrupted and is
handed out again first; Ray's own snapshots are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from semples.pipeline import STAGES
from tune.tracking import Tracker
from tune.trial import MILESTONES, receive, trial_folder

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have ended in any way, by number."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def succeeded(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended as they should: COMPLETE or PRUNED."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def ranked(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """COMPLETE trials, best first, equal ones by number."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))


def passed_milestones(study: optuna.Study) -> dict[str, dict[int, float]]:
    """Scores by milestone and trial number."""
    return {
        name: {
            t.number: t.intermediate_values[i] for t in study.get_trials(deepcopy=False) if i in t.intermediate_values
        }
        for i, name in enumerate(MILESTONES)
    }


def effort(trials: Iterable[optuna.Trial | optuna.trial.FrozenTrial]) -> dict[str, float]:
    """Compute seconds of the stages that the trials computed, and of those that they found in the store."""
    stages = [stage for trial in trials for stage in trial.user_attrs.get("stages", {}).values()]
    return {
        f"seconds_{what}": sum(stage["seconds"] for stage in stages if stage["reused"] == reused)
        for what, reused in (("computed", False), ("saved", True))
    }


def how_it_ended(last: dict[str, Any], error: bool) -> dict[str, Any]:
    """A trial's state, from its last message and whether Ray gave it up: COMPLETE, PRUNED, FAILED or LOST."""
    if error:
        return {"state": "LOST", "reason": "its process or node died more often than it is retried"}
    if last.get("ended") == "FAILED":
        return {"state": "FAILED", "reason": last["reason"]}
    if last.get("ended") == "COMPLETE":
        if not math.isfinite(last["value"]):
            return {"state": "FAILED", "reason": f"its final score is {last['value']}"}
        return {"state": "COMPLETE", "value": last["value"], "metrics": last["metrics"]}
    return {"state": "PRUNED", "reason": f"below the median at {last.get('milestone')}"}


class StudySearcher(Searcher):  # type: ignore[misc]
    """Suggests from the study, and tells it and MLflow how trials end.

    start_run: trial number and parameters -> id of a new MLflow run. notice: called with (trial number, message)
    for every message of the trial, before them with {"started": parameters}, and at its end with {"state", ...}.
    """

    def __init__(
        self,
        study: optuna.Study,
        distributions: dict[str, BaseDistribution],
        folder: Path,
        tracker: Tracker,
        start_run: Callable[[int, dict[str, Any]], str],
        notice: Callable[[int, dict[str, Any]], None],
    ):
        super().__init__()
        self._study, self._distributions, self._folder = study, distributions, folder
        self._tracker, self._start_run, self._notice = tracker, start_run, notice
        self._live: dict[str, optuna.Trial] = {}
        interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self._again = [optuna.Trial(study, t._trial_id) for t in interrupted]

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next trial for Ray: {"number", "parameters"}."""
        if self._again:
            trial = self._again.pop(0)
            for key, distribution in self._distributions.items():
                trial._suggest(key, distribution)  # what it was given before, or what it lacks if that was cut short
        else:
            trial = self._study.ask(self._distributions)
        run_id = trial.user_attrs.get("run_id")
        if run_id is None:
            trial.set_user_attr("run_id", self._start_run(trial.number, trial.params))
        else:
            self._tracker.reopen(run_id)
        self._live[trial_id] = trial
        self._notice(trial.number, {"started": trial.params})
        return {"number": trial.number, "parameters": trial.params}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of a running trial, see tune.trial.run_trial."""
        self._record(self._live[trial_id], receive(result))

    def _record(self, trial: optuna.Trial, message: dict[str, Any]) -> None:
        """Show a message; write a finished stage into the trial's run and study, once even when it is retried."""
        self._notice(trial.number, message)
        run_id = trial.user_attrs["run_id"]
        if "node" in message:
            self._tracker.tag(run_id, node=message["node"])
        if "stage" not in message or "metrics" not in message:
            return
        stage, logged = message["stage"], trial.user_attrs.get("stages", {})
        if stage in logged:
            return
        trial.set_user_attr("stages", {**logged, stage: {key: message[key] for key in ("seconds", "reused")}})
        self._tracker.log(run_id, message["curves"], f"{stage}/")
        self._tracker.log(run_id, [message["metrics"]], f"{stage}/", first_step=len(message["curves"]))
        if "milestone" in message:
            trial.report(message["score"], MILESTONES.index(message["milestone"]))
            self._tracker.tag(run_id, milestone=message["milestone"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Ray once when a trial is over, however that came."""
        trial = self._live.pop(trial_id, None)
        if trial is None:
            return
        last = receive(result or {})
        end = how_it_ended(last, error)
        if end["state"] == "PRUNED":
            self._record(trial, last)  # Ray shows the report at which the scheduler stops a trial to nobody else
        for key in ("state", "reason", "metrics"):
            if key in end:
                trial.set_user_attr(key, end[key])
        run_id, stages = trial.user_attrs["run_id"], trial.user_attrs.get("stages", {})
        spent = effort([trial])
        end |= spent
        self._tracker.log(run_id, [spent])
        self._tracker.tag(run_id, reused=", ".join(name for name, stage in stages.items() if stage["reused"]))
        if end["state"] == "COMPLETE":
            self._study.tell(trial, end["value"])
            # what single stages report was logged when they were done
            of_run = {k: v for k, v in end["metrics"].items() if k.split("/")[0] not in STAGES}
            self._tracker.log(run_id, [{**of_run, "objective": end["value"]}])
        else:
            # not by `tell`, which makes the last intermediate score of a pruned trial its final value
            state = TrialState.PRUNED if end["state"] == "PRUNED" else TrialState.FAIL
            self._study._storage.set_trial_state_values(trial._trial_id, state)
        out = trial_folder(self._folder, trial.number)
        self._tracker.attach(run_id, *(out / f for f in ("config.yaml", "result.json", "gallery.png", "error.txt")))
        self._tracker.end(run_id, end["state"], **({"reason": end["reason"]} if "reason" in end else {}))
        self._notice(trial.number, end)

    def stop(self) -> None:
        """The launch is over: mark the runs of unfinished trials."""
        for trial in self._live.values():
            self._tracker.end(trial.user_attrs["run_id"], "STOPPED")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher into snapshots that are never read here

    def save(self, checkpoint_path: str) -> None:
        """Called by Ray; nothing to save, the study is in its storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Called by Ray; nothing to restore."""
