"""What the study remembers of a trial: the only place that knows under which names Optuna keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from tune.messages import Ended, EpochDone, StageDone, State, Usage

STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
    State.LOST: TrialState.FAIL,
}
_OF_OPTUNA = {TrialState.FAIL: State.FAILED}  # where only Optuna says how it stands
HOUR = 3600.0  # seconds
# user attributes
_STATE, _REASON, _METRICS, _STAGES, _DUPLICATE = "state", "reason", "metrics", "stages", "duplicate_of"
_EPOCHS = "epochs"
_REPORTED = "reported:"  # and the number of a trial; of the study
_PROMISE = "promise"  # of the study
_USAGE, _USAGE_0_1 = "usage", "taken"
_RUN, _RUN_0_1 = "run", "run_id"  # version 0.1.0 kept MLflow's id, "" if there was none


@dataclass(frozen=True)
class StageRecord:
    """A stage of a trial that is done, see tune.messages.StageDone."""

    seconds: float
    reused: bool
    score: float | None = None
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    waited: float = 0.0
    node: str = ""


@dataclass(frozen=True)
class Promise:
    """What more compute is expected to bring, in the objective's unit. rate: a second of it, now. most: any amount."""

    rate: float
    most: float

    def gain(self, seconds: float) -> float:
        """What so many seconds of compute are expected to bring: ever less, the more there are."""
        return self.most * -math.expm1(-self.rate * seconds / self.most) if self.most > 0 else 0.0


@dataclass(frozen=True)
class TrialRecord:
    """state, and the reason where it is not COMPLETE. stages: by name, in the order in which they were done. metrics:
    of the whole run, empty until it is COMPLETE. usage: None until that is known. duplicate_of: number of the trial
    that it repeats and that counts in its place. run: key of its MLflow run, "" if it has none. started: whether it
    ever had one: a trial whose parameters are not allowed has not. epochs: by stage
    the scores after epochs by which trials are compared, also of a stage that is not done."""

    state: State
    reason: str
    stages: dict[str, StageRecord]
    metrics: dict[str, float]
    usage: Usage | None
    duplicate_of: int | None
    run: str
    started: bool
    epochs: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def last_milestone(self) -> tuple[str, float] | None:
        """The last stage that has a score, and the score."""
        scores = [(name, stage.score) for name, stage in self.stages.items() if stage.score is not None]
        return scores[-1] if scores else None


def trial_record(trial: FrozenTrial | optuna.Trial, later: Mapping[int, Mapping[str, float]] = {}) -> TrialRecord:
    """What the study remembers of a trial. later: what trials reported after their end, see `reported_later`."""
    kept = trial.user_attrs
    of_optuna = TrialState.RUNNING if isinstance(trial, optuna.Trial) else trial.state
    usage = kept.get(_USAGE, kept.get(_USAGE_0_1))
    return TrialRecord(
        state=State(kept.get(_STATE) or _OF_OPTUNA.get(of_optuna) or of_optuna.name),
        reason=kept.get(_REASON, ""),
        stages={name: StageRecord(**stage) for name, stage in kept.get(_STAGES, {}).items()},
        epochs={name: {int(epoch): s for epoch, s in of.items()} for name, of in kept.get(_EPOCHS, {}).items()},
        metrics={**kept.get(_METRICS, {}), **later.get(trial.number, {})},
        usage=Usage(**usage) if usage else None,
        duplicate_of=kept.get(_DUPLICATE),
        run=run_of(trial),
        started=_RUN in kept or _RUN_0_1 in kept,
    )


def given(trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
    """The parameters with which a trial begins: without those that it decided itself, which have a range of one
    value."""
    return {
        key: value
        for key, value in trial.params.items()
        if not isinstance(own := trial.distributions[key], FloatDistribution) or own.low < own.high
    }


def is_sound(trial: FrozenTrial) -> bool:
    """Whether a COMPLETE trial that counts has what a sweep leaves."""
    return is_duplicate(trial) or isinstance(trial.user_attrs.get(_METRICS), dict)


def is_duplicate(trial: FrozenTrial) -> bool:
    """Whether it repeats another trial, which counts in its place."""
    return _DUPLICATE in trial.user_attrs


def run_of(holder: optuna.Study | optuna.Trial | FrozenTrial) -> str:
    """The key of the MLflow run of a study or trial, "" if it has none."""
    kept = holder.user_attrs
    return str(kept.get(_RUN) or kept.get(_RUN_0_1) or "")


def is_of_0_1(study: optuna.Study) -> bool:
    """Whether a study was begun by version 0.1.0, which wrote to MLflow without a queue."""
    return _RUN_0_1 in study.user_attrs


def keep_run(holder: optuna.Study | optuna.Trial, key: str) -> None:
    """Remember the key of its run."""
    holder.set_user_attr(_RUN, key)


def keep_stage(trial: optuna.Trial, done: StageDone) -> None:
    """Remember a stage that is done."""
    kept = {of.name: getattr(done, of.name) for of in fields(StageRecord) if getattr(done, of.name) != of.default}
    trial.set_user_attr(_STAGES, {**trial.user_attrs.get(_STAGES, {}), done.stage: kept})


def keep_epoch(trial: optuna.Trial, done: EpochDone) -> None:
    """Remember the score after an epoch."""
    kept = trial.user_attrs.get(_EPOCHS, {})
    of_stage = {**kept.get(done.stage, {}), str(done.epoch): done.score}
    trial.set_user_attr(_EPOCHS, {**kept, done.stage: of_stage})


def keep_end(trial: optuna.Trial, end: Ended) -> None:
    """Remember how it ended; `study.tell` says it to Optuna."""
    kept: dict[str, Any] = {_STATE: end.state.value}
    if end.state == State.COMPLETE:
        kept |= {_METRICS: end.metrics, _USAGE: asdict(end.usage or Usage())}
    else:
        kept |= {_REASON: end.reason}
    for name, value in kept.items():
        trial.set_user_attr(name, value)


def keep_duplicate(trial: optuna.Trial, of: FrozenTrial) -> None:
    """Remember of which trial it is a repetition, and by what it may be above a limit."""
    trial.set_user_attr(_DUPLICATE, of.number)
    if usage := trial_record(of).usage:
        trial.set_user_attr(_USAGE, asdict(usage))


def keep_reported(study: optuna.Study, number: int, metrics: dict[str, float]) -> None:
    """Remember what a trial that has ended reports besides its metrics: Optuna lets nobody change it any more."""
    study.set_user_attr(f"{_REPORTED}{number}", metrics)


def reported_later(study: optuna.Study) -> dict[int, dict[str, float]]:
    """By trial what it reports besides its own metrics."""
    kept = study.user_attrs.items()
    return {int(name.removeprefix(_REPORTED)): metrics for name, metrics in kept if name.startswith(_REPORTED)}


def keep_promise(study: optuna.Study, promise: Promise) -> None:
    """Remember what more compute is expected to bring."""
    study.set_user_attr(_PROMISE, asdict(promise))


def promise_of(study: optuna.Study) -> Promise | None:
    """What the sampler said last; None where it says nothing of that."""
    kept = study.user_attrs.get(_PROMISE)
    return Promise(**kept) if kept else None


def compute_seconds(trials: Iterable[TrialRecord]) -> tuple[float, float]:
    """Seconds of the stages that the trials computed, and of those that they found in the store."""
    stages = [stage for trial in trials if trial.duplicate_of is None for stage in trial.stages.values()]
    computed, saved = (sum(stage.seconds for stage in stages if stage.reused is reused) for reused in (False, True))
    return computed, saved


def whole_seconds(trials: Iterable[TrialRecord]) -> float:
    """Mean compute seconds of a trial that finds nothing stored: of every stage that trials computed, added up."""
    taken: dict[str, list[float]] = {}
    for trial in trials:
        for name, stage in trial.stages.items() if trial.duplicate_of is None else ():
            if not stage.reused:
                taken.setdefault(name, []).append(stage.seconds)
    return sum(sum(seconds) / len(seconds) for seconds in taken.values())
