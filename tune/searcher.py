"""The Optuna study as a Ray Tune searcher: it alone decides and records how every trial ended.

The study is the only memory of a sweep. A trial that is RUNNING in it when a launch begins was interrupted and is
handed out again first; Ray's own snapshots are not needed.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from semples.errors import UserError
from semples.pipeline.graph import graph
from tune.cost_aware import CostAwareSampler
from tune.costs import needs_gpu
from tune.messages import (
    Began,
    Completed,
    Decided,
    Ended,
    EpochDone,
    Failed,
    Lost,
    Message,
    Progress,
    StageDone,
    State,
    TrialCallback,
    at_epoch,
    decode,
)
from tune.needs import Fit, on_gpu, some_need_no_gpu
from tune.places import trial_files
from tune.records import (
    HOUR,
    STATES,
    TrialRecord,
    compute_seconds,
    given,
    keep_duplicate,
    keep_end,
    keep_epoch,
    keep_promise,
    keep_run,
    keep_stage,
    promise_of,
    run_of,
    trial_record,
    whole_seconds,
)
from tune.stopping import Rule, epochs_of, is_compared, rules
from tune.study import constraint_violations, finished
from tune.sweep_file import Sweep
from tune.tracking import Tracker
from tune.unofficial import running_trials

REPEATS = 100  # suggestions in a row that were tried before, after which the space is taken to be exhausted
# trials in a row that failed for one reason, after which it is taken to be none of theirs: before any of this launch
# has come through, and later, when it may be a part of the space
FAILURES, LATER_FAILURES = 5, 10
NUMBERS = r"\b[0-9a-f]{8,}\b|\d+"  # and keys, in which reasons may differ


def how_it_ended(last: Message | None, error: bool, rules: Mapping[str, Rule]) -> Ended:
    """A trial's state, from its last message and whether Ray gave it up. rules: as tune.stopping has them."""
    if error:
        return Ended(State.LOST, "its process or node died more often than it is retried")
    match last:
        case Failed(reason):
            return Ended(State.FAILED, reason)
        case Lost(reason):
            return Ended(State.LOST, f"{reason} more often than it is replaced")
        case Completed(values, metrics, usage) if all(map(math.isfinite, values)):
            return Ended(State.COMPLETE, "", values, metrics, usage)
        case Completed(values):
            return Ended(State.FAILED, f"its final score is {', '.join(map(str, values))}")
    return Ended(State.PRUNED, why_stopped(last, rules))


def spent_on(done: StageDone) -> dict[str, float]:
    """What a stage took, for its run: compute seconds, those of all CPUs and, where there is one, of the GPU; seconds
    that the trial waited for another one which computed it."""
    spent = {"seconds": done.seconds, "cpu_seconds": done.cpu_seconds}
    return spent | {n: s for n, s in {"gpu_seconds": done.gpu_seconds, "waited_seconds": done.waited}.items() if s}


def why_stopped(last: Message | None, rules: Mapping[str, Rule]) -> str:
    """Why a trial whose last message this is was stopped. rules: as tune.stopping has them."""
    match last:
        case StageDone(stage) if stage in rules:
            return f"{rules[stage].reason} at {stage}"
        case EpochDone(stage, epoch) if epochs_of(stage) in rules:
            return f"{rules[epochs_of(stage)].reason} at {at_epoch(stage, epoch)}"
    return "stopped"


class StudySearcher(Searcher):  # type: ignore[misc]
    """Suggests from the study, and tells it and MLflow how trials end.

    start_run: trial number and parameters -> key of a new MLflow run. on_event: called with the number of a trial and
    what happened to it. room: how many stages that use a GPU the cluster has room for now. exhausted: why no more
    trials are suggested, "" as long as they are. failing: whether that is because they all fail.
    """

    def __init__(
        self,
        study: optuna.Study,
        sweep: Sweep,
        tracker: Tracker,
        start_run: Callable[[int, dict[str, Any]], str],
        on_event: TrialCallback,
        room: Callable[[], float] = lambda: math.inf,
    ):
        super().__init__()
        self._study, self._sweep, self._rules = study, sweep, rules(sweep)
        self._tracker, self._start_run, self._on_event = tracker, start_run, on_event
        self._room, self._on_gpu, self._some_need_no_gpu = room, on_gpu(sweep), some_need_no_gpu(sweep)
        self._held: list[optuna.Trial] = []  # that were suggested, and begin when a GPU is free
        self._at: dict[str, Progress] = {}  # by Ray's name of a trial, the stage that it is at
        self._stages = graph(sweep.base_config())
        self._live: dict[str, optuna.Trial] = {}
        self._runs: dict[str, str] = {}  # their keys, also where the study cannot be read any more
        self._begun = time.monotonic()
        self._spent = compute_seconds(map(trial_record, study.get_trials(deepcopy=False)))[0]
        self._ended = {_identity(given(t)): t for t in finished(study) if t.state != TrialState.FAIL}
        self.exhausted, self.failing = "", False
        self._failures: list[str] = []  # reasons of the last trials that failed, without numbers and keys
        self._patience, self._over = FAILURES, False
        self._again = running_trials(study)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial for Ray: {"number", "parameters"}, with "decided" where there are keys that it decides itself;
        None where there is no room for it now; Searcher.FINISHED when there are to be no more."""
        if self._over or self.failing:
            return str(Searcher.FINISHED)
        if (fit := self._fit()) is None or (fit == "cpu" and (self._held or self._again)):
            return None
        if self._again:
            trial = self._again.pop(0)
            self._draw(trial)  # what it was given before, or what it lacks if that was cut short
        elif self._held and not self._is_exhausted():
            trial = self._held.pop()
        elif (found := self._next(fit)) is None:
            return str(Searcher.FINISHED)
        else:
            trial = found
            others = (t for t in self._study.get_trials(deepcopy=False) if t.number != trial.number)
            if fit == "cpu" and needs_gpu(self._sweep, others, trial.params):
                self._held.append(trial)
                return None
        if run := run_of(trial):
            self._tracker.reopen(run)
        else:
            try:
                keep_run(trial, self._start_run(trial.number, trial.params))
            except UserError as error:  # a combination that the configuration does not allow
                self._tell(trial, Ended(State.FAILED, str(error)))
                return self.suggest(trial_id)
        self._live[trial_id], self._runs[trial_id] = trial, run_of(trial)
        self._on_event(trial.number, Began(trial.params))
        decided = self._sweep.decided(trial.params)
        return {"number": trial.number, "parameters": trial.params} | ({"decided": decided} if decided else {})

    def _fit(self) -> Fit | None:
        """What a trial that begins now should need; None where none should. As many trials as there is room for stages
        on GPUs run at a time. Where some of these compute on CPUs, as many others may come, and where none does, as
        many that need no GPU."""
        if self._sweep.parallel or len(self._live) < (room := self._room()):
            return "any"
        if len(self._live) >= 2 * room or any(self._at[name].waiting for name in self._live if name in self._at):
            return None
        at_gpu = sum(name not in self._at or self._at[name].stage in self._on_gpu for name in self._live)
        if at_gpu < room:
            return "gpu"
        return "cpu" if self._some_need_no_gpu else None

    def _next(self, fit: Fit = "any") -> optuna.Trial | None:
        """A new trial; one that repeats another is answered at once, by its end, and another is asked for."""
        ended = self._study.get_trials(deepcopy=False)[-REPEATS:]
        if len(ended) == REPEATS and all(t.state == TrialState.FAIL and not trial_record(t).started for t in ended):
            self.exhausted = f"{REPEATS} suggestions in a row are not allowed: {trial_record(ended[-1]).reason}"
            return None
        for _ in range(REPEATS):
            if self._is_exhausted():
                for trial in self._held:
                    self._tell(trial, Ended(State.FAILED, f"not begun: {self.exhausted}"))
                self._held.clear()
                return None
            if isinstance(self._study.sampler, CostAwareSampler):
                self._study.sampler.fit = fit
            trial = self._study.ask()
            if isinstance(self._study.sampler, CostAwareSampler) and (promise := self._study.sampler.promise):
                keep_promise(self._study, promise)
            self._draw(trial)
            same = self._ended.get(_identity(given(trial)))
            if same is None:
                return trial
            keep_duplicate(trial, same)
            self._answer(trial, same.state, same.values)
        self.exhausted = f"{REPEATS} suggestions in a row had been tried before"
        return None

    def _is_exhausted(self) -> bool:
        """Whether no trial is to begin any more; then `exhausted` says why."""
        sweep = self._sweep
        if sweep.budget and self._spent >= sweep.budget - (kept := self._kept()):
            but = f" but for the {kept:.0f} that the confirmation takes" if kept else ""
            self.exhausted = f"the budget of {sweep.budget:.0f} compute seconds is spent{but}"
        elif sweep.time_limit and time.monotonic() - self._begun >= sweep.time_limit:
            self.exhausted = f"the time limit of {sweep.time_limit:.0f} s is over"
        elif sweep.stop_when and (promise := promise_of(self._study)) and promise.gain(HOUR) < sweep.stop_when:
            gain = f"{promise.gain(HOUR):.2g}"
            self.exhausted = f"another hour of compute is expected to bring {gain}, less than stop_when"
        elif sweep.is_grid and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.exhausted = "" if self._held else "every point of the grid was tried"
        return bool(self.exhausted)

    def _kept(self) -> float:
        """Seconds of the budget that trials leave to the confirmation."""
        if not self._sweep.confirm or not self._sweep.budget:
            return 0.0
        whole = whole_seconds(map(trial_record, self._study.get_trials(deepcopy=False)))
        return min(self._sweep.budget / 2, whole * self._sweep.confirm.runs)

    def _draw(self, trial: optuna.Trial) -> None:
        """The values of all keys but those that the trial decides itself, unless it was given them."""
        space, analytic = self._sweep.space, self._sweep.analytic
        for key, dimension in space.items():
            if key not in analytic and dimension.is_active(trial.params):
                dimension.suggest(trial, key)
        for key in analytic:  # whether it decides them is known now
            fixed = self._study.get_trials(deepcopy=False)[trial.number].system_attrs.get("fixed_params", {})
            decides = key in self._sweep.decided(trial.params) and key not in fixed
            if key not in trial.params and space[key].is_active(trial.params) and not decides:
                space[key].suggest(trial, key)

    def _tell(self, trial: optuna.Trial, end: Ended) -> None:
        """Remember how a trial ended."""
        keep_end(trial, end)
        self._answer(trial, STATES[end.state], list(end.values))

    def _answer(self, trial: optuna.Trial, state: TrialState, values: list[float] | None) -> None:
        """Optuna gives a pruned trial its last intermediate score as value: nothing here ranks, reports or learns from
        it as a final one."""
        for name, over in constraint_violations(trial_record(trial).usage, self._sweep.limits).items():
            trial.set_constraint(name, over)
        self._study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of a running trial, see tune.messages."""
        if not self._over and (message := decode(result)):
            if isinstance(message, Progress):
                self._at[trial_id] = message
            self._record(self._live[trial_id], message)

    def _record(self, trial: optuna.Trial, message: Message) -> None:
        """Pass a message on; write a finished stage into the trial's run and study, once even when it is retried."""
        self._on_event(trial.number, message)
        run = run_of(trial)
        match message:
            case EpochDone(stage, epoch, score=score) if epoch not in trial_record(trial).epochs.get(stage, {}):
                self._tracker.log(run, [{self._stages[stage].course: score}], f"{stage}/", first_step=epoch)
                keep_epoch(trial, message)
                if is_compared(epoch):
                    self._tracker.tag(run, milestone=at_epoch(stage, epoch))
            case Decided(key, value):
                self._sweep.space[key].keep(trial, key, value)
                self._tracker.add(run, {key: value})
            case StageDone(stage) if stage not in trial_record(trial).stages:
                # the study comes last: a driver that is killed in between does it again
                prefix = f"{self._stages[stage].of or stage}/"
                self._tracker.log(run, message.curves, prefix)
                self._tracker.log(run, [message.metrics], prefix, first_step=len(message.curves))
                self._tracker.log(run, [spent_on(message)], f"{stage}/", first_step=len(message.curves))
                keep_stage(trial, message)
                if message.node and not message.reused:
                    nodes = (of.node for of in trial_record(trial).stages.values() if not of.reused)
                    self._tracker.tag(run, node=", ".join(dict.fromkeys(nodes)))
                self._spent += 0.0 if message.reused else message.seconds
                if message.score is not None:
                    if len(self._sweep.objective) == 1:  # Optuna knows no intermediate values of several objectives
                        trial.report(message.score, self._milestones.index(stage))
                    self._tracker.tag(run, milestone=stage)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Ray once when a trial is over, however that came."""
        self._at.pop(trial_id, None)
        if self._over or (trial := self._live.pop(trial_id, None)) is None:
            return
        last = decode(result)
        end = how_it_ended(last, error, self._rules)
        if end.state == State.PRUNED and last:
            self._record(trial, last)  # Ray shows the report at which the scheduler stops a trial to nobody else
        record = trial_record(trial)
        computed, saved = compute_seconds([record])
        end = replace(end, seconds_computed=computed, seconds_saved=saved)
        self._track(record, end, trial_files(trial.number))
        self._tell(trial, end)
        if STATES[end.state] != TrialState.FAIL:
            self._ended[_identity(given(trial))] = self._study.get_trials(deepcopy=False)[trial.number]
        self._on_event(trial.number, end)
        self._look_for_a_common_reason(end)

    def _track(self, record: TrialRecord, end: Ended, files: Sequence[Path]) -> None:
        """The end of a trial in its MLflow run."""
        tracker, run = self._tracker, record.run
        tracker.log(run, [{"seconds_computed": end.seconds_computed, "seconds_saved": end.seconds_saved}])
        tracker.tag(run, reused=", ".join(name for name, stage in record.stages.items() if stage.reused))
        if end.state == State.COMPLETE:
            # what single stages report was logged when they were done
            of_run = {k: v for k, v in end.metrics.items() if k.split("/")[0] not in self._stages}
            usage = asdict(end.usage) if end.usage else {}
            tracker.log(run, [{**of_run, **usage, **self._sweep.by_objective(end.values)}])
        tracker.attach(run, *files)
        tracker.end(run, end.state, **({"reason": end.reason} if end.reason else {}))

    def _look_for_a_common_reason(self, end: Ended) -> None:
        """Stop suggesting when trial after trial fails for one reason."""
        if end.state in (State.COMPLETE, State.PRUNED):
            self._failures, self._patience = [], LATER_FAILURES
            return
        self._failures = [*self._failures, re.sub(NUMBERS, "#", end.reason)][-self._patience :]
        if len(self._failures) == self._patience and len(set(self._failures)) == 1:
            self.failing = True
            self.exhausted = f"{self._patience} trials in a row failed for one reason: {end.reason}"

    @property
    def _milestones(self) -> list[str]:
        return [name for name, stage in self._stages.items() if stage.milestone]

    @property
    def unfinished(self) -> bool:
        """Whether trials were begun that have not ended."""
        return bool(self._live or self._again or self._held)

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
