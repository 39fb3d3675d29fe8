"""The Optuna study as a Ray Tune searcher: it alone decides and records how every trial ended.

The study is the only memory of a sweep. A trial that is RUNNING in it when a launch begins was interrupted and is
handed out again first; Ray's own snapshots are not needed.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from semples.errors import UserError
from semples.pipeline.graph import STAGES
from tune.stopping import RULES
from tune.study import DUPLICATE, effort, excess, finished
from tune.sweep_file import Sweep
from tune.tracking import RUN, Tracker, Untracked, run_of, was_started
from tune.trial import MILESTONES, receive, trial_folder

REPEATS = 100  # suggestions in a row that were tried before, after which the space is taken to be exhausted
# trials in a row that failed for one reason, after which it is taken to be none of theirs: before any of this launch
# has come through, and later, when it may be a part of the space
FAILURES, LATER_FAILURES = 5, 10


def how_it_ended(last: dict[str, Any], error: bool, rule: str) -> dict[str, Any]:
    """A trial's state, from its last message and whether Ray gave it up: COMPLETE, PRUNED, FAILED or LOST."""
    if error:
        return {"state": "LOST", "reason": "its process or node died more often than it is retried"}
    if last.get("ended") == "FAILED":
        return {"state": "FAILED", "reason": last["reason"]}
    if last.get("ended") == "COMPLETE":
        if not all(map(math.isfinite, last["values"])):
            return {"state": "FAILED", "reason": f"its final score is {', '.join(map(str, last['values']))}"}
        return {"state": "COMPLETE", **{key: last[key] for key in ("values", "metrics", "taken")}}
    return {"state": "PRUNED", "reason": f"{RULES[rule].reason} at {last.get('milestone')}"}


class StudySearcher(Searcher):  # type: ignore[misc]
    """Suggests from the study, and tells it and MLflow how trials end.

    start_run: trial number and parameters -> key of a new MLflow run. notice: called with (trial number, message)
    for every message of the trial, before them with {"started": parameters}, and at its end with {"state", ...}.
    exhausted: why no more trials are suggested, "" as long as they are. failing: whether that is because they all fail.
    """

    def __init__(
        self,
        study: optuna.Study,
        sweep: Sweep,
        tracker: Tracker | Untracked,
        start_run: Callable[[int, dict[str, Any]], str],
        notice: Callable[[int, dict[str, Any]], None],
    ):
        super().__init__()
        self._study, self._sweep = study, sweep
        self._distributions = sweep.distributions()
        self._tracker, self._start_run, self._notice = tracker, start_run, notice
        self._live: dict[str, optuna.Trial] = {}
        self._runs: dict[str, str] = {}  # their keys, also where the study cannot be read any more
        self._begun = time.monotonic()
        self._spent = effort(study.get_trials(deepcopy=False))["seconds_computed"]
        self._ended = {_identity(t.params): t for t in finished(study) if t.state != TrialState.FAIL}
        self.exhausted, self.failing = "", False
        self._failures: list[str] = []  # reasons of the last trials that failed, without the numbers in them
        self._patience, self._over = FAILURES, False
        interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self._again = [optuna.Trial(study, t._trial_id) for t in interrupted]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial for Ray: {"number", "parameters"}; Searcher.FINISHED when there are to be no more."""
        if self._over or self.failing:
            return str(Searcher.FINISHED)
        if self._again:
            trial = self._again.pop(0)
            self._draw(trial)  # what it was given before, or what it lacks if that was cut short
        elif (found := self._next()) is None:
            return str(Searcher.FINISHED)
        else:
            trial = found
        if run := run_of(trial):
            self._tracker.reopen(run)
        else:
            try:
                trial.set_user_attr(RUN, self._start_run(trial.number, trial.params))
            except UserError as error:  # a combination that the configuration does not allow
                trial.set_user_attr("state", "FAILED")
                trial.set_user_attr("reason", str(error))
                self._tell(trial, TrialState.FAIL, None)
                return self.suggest(trial_id)
        self._live[trial_id], self._runs[trial_id] = trial, run_of(trial)
        self._notice(trial.number, {"started": trial.params})
        return {"number": trial.number, "parameters": trial.params}

    def _next(self) -> optuna.Trial | None:
        """A new trial; one that repeats another is answered at once, by its end, and another is asked for."""
        sweep = self._sweep
        ended = self._study.get_trials(deepcopy=False)[-REPEATS:]
        if len(ended) == REPEATS and all(t.state == TrialState.FAIL and not was_started(t) for t in ended):
            self.exhausted = f"{REPEATS} suggestions in a row are not allowed: {ended[-1].user_attrs['reason']}"
            return None
        for _ in range(REPEATS):
            if sweep.budget and self._spent >= sweep.budget:
                self.exhausted = f"the budget of {sweep.budget:.0f} compute seconds is spent"
            elif sweep.time_limit and time.monotonic() - self._begun >= sweep.time_limit:
                self.exhausted = f"the time limit of {sweep.time_limit:.0f} s is over"
            elif sweep.sampler == "grid" and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.exhausted = "every point of the grid was tried"
            if self.exhausted:
                return None
            trial = self._study.ask()
            self._draw(trial)
            same = self._ended.get(_identity(trial.params))
            if same is None:
                return trial
            trial.set_user_attr(DUPLICATE, same.number)
            trial.set_user_attr("taken", same.user_attrs.get("taken", {}))  # by which it may be above a limit
            self._tell(trial, same.state, same.values)
        self.exhausted = f"{REPEATS} suggestions in a row had been tried before"
        return None

    def _draw(self, trial: optuna.Trial) -> None:
        for key, dimension in self._sweep.space.items():
            if dimension.is_active(trial.params):
                trial._suggest(key, self._distributions[key])

    def _tell(self, trial: optuna.Trial, state: TrialState, values: list[float] | None) -> None:
        for name, over in excess(trial, self._sweep.limits).items():
            trial.set_constraint(name, over)
        if state == TrialState.COMPLETE:
            self._study.tell(trial, values)
        else:
            # not by `tell`, which makes the last intermediate score of a pruned trial its final value
            self._study._storage.set_trial_state_values(trial._trial_id, state)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of a running trial, see tune.trial.run_trial."""
        if not self._over:
            self._record(self._live[trial_id], receive(result))

    def _record(self, trial: optuna.Trial, message: dict[str, Any]) -> None:
        """Show a message; write a finished stage into the trial's run and study, once even when it is retried."""
        self._notice(trial.number, message)
        run = run_of(trial)
        if "node" in message:
            self._tracker.tag(run, node=message["node"])
        if "stage" not in message or "metrics" not in message:
            return
        stage, logged = message["stage"], trial.user_attrs.get("stages", {})
        if stage in logged:
            return
        # the study comes last: a driver that is killed in between does it again
        self._tracker.log(run, message["curves"], f"{stage}/")
        self._tracker.log(run, [message["metrics"]], f"{stage}/", first_step=len(message["curves"]))
        kept = {key: message[key] for key in ("seconds", "reused", "score") if key in message}
        trial.set_user_attr("stages", {**logged, stage: kept})
        self._spent += 0.0 if kept["reused"] else kept["seconds"]
        if "milestone" in message:
            if len(self._sweep.objective) == 1:  # Optuna knows no intermediate values of several objectives
                trial.report(message["score"], MILESTONES.index(message["milestone"]))
            self._tracker.tag(run, milestone=message["milestone"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Ray once when a trial is over, however that came."""
        if self._over or (trial := self._live.pop(trial_id, None)) is None:
            return
        last = receive(result or {})
        end = how_it_ended(last, error, self._sweep.early_stopping)
        if end["state"] == "PRUNED":
            self._record(trial, last)  # Ray shows the report at which the scheduler stops a trial to nobody else
        run, stages = run_of(trial), trial.user_attrs.get("stages", {})
        spent = effort([trial])
        end |= spent
        self._tracker.log(run, [spent])
        self._tracker.tag(run, reused=", ".join(name for name, stage in stages.items() if stage["reused"]))
        if end["state"] == "COMPLETE":
            # what single stages report was logged when they were done
            of_run = {k: v for k, v in end["metrics"].items() if k.split("/")[0] not in STAGES}
            chosen = zip(self._sweep.objective, end["values"], strict=True)
            self._tracker.log(
                run, [{**of_run, **end["taken"], **{f"objective/{name}": value for name, value in chosen}}]
            )
        out = trial_folder(Path(), trial.number)
        self._tracker.attach(run, *(out / f for f in ("config.yaml", "result.json", "gallery.png", "error.txt")))
        self._tracker.end(run, end["state"], **({"reason": end["reason"]} if "reason" in end else {}))
        for key in ("state", "reason", "metrics", "taken"):
            if key in end:
                trial.set_user_attr(key, end[key])
        state = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED}.get(end["state"], TrialState.FAIL)
        self._tell(trial, state, end.get("values"))
        if state != TrialState.FAIL:
            self._ended[_identity(trial.params)] = self._study.get_trials(deepcopy=False)[trial.number]
        self._notice(trial.number, end)
        self._look_for_a_common_reason(end)

    def _look_for_a_common_reason(self, end: dict[str, Any]) -> None:
        """Stop suggesting when trial after trial fails for one reason."""
        if end["state"] in ("COMPLETE", "PRUNED"):
            self._failures, self._patience = [], LATER_FAILURES
            return
        self._failures = [*self._failures, re.sub(r"\d+", "#", end["reason"])][-self._patience :]
        if len(self._failures) == self._patience and len(set(self._failures)) == 1:
            self.failing = True
            self.exhausted = f"{self._patience} trials in a row failed for one reason: {end['reason']}"

    @property
    def unfinished(self) -> bool:
        """Whether trials were begun that have not ended."""
        return bool(self._live or self._again)

    def stop(self) -> None:
        """The launch is over: mark the runs of unfinished trials; what is still reported is not recorded."""
        self._over = True
        for trial_id in self._live:
            self._tracker.end(self._runs[trial_id], "STOPPED")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher into snapshots that are never read here

    def save(self, checkpoint_path: str) -> None:
        """Called by Ray; nothing to save, the study is in its storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Called by Ray; nothing to restore."""


def _identity(parameters: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Equal for equal parameters, also where a sampler counts 0.3 + 3 * 0.1 for the 0.6 of the base."""
    return tuple(sorted((k, float(f"{v:.12g}") if isinstance(v, float) else v) for k, v in parameters.items()))
