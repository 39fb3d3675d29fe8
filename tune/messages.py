"""What a trial tells the driver, and what the driver tells whoever watches a sweep.

trial:   ((Progress | EpochDone | Restarted)* StageDone Decided?)*  Completed | Failed | Lost
         nothing at the end: it was stopped, or its own process died
driver:  Began   what the trial says, Restarted*                   Ended Reported?
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a trial stands. WAITING -> RUNNING -> one of the others, once and for good; a trial whose process or node
    died is RUNNING until it was retried too often, and one whose launch ended is RUNNING until the next one ends it."""

    WAITING = "WAITING"  # its parameters are given, it has not begun
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"  # came to its end
    PRUNED = "PRUNED"  # stopped at a milestone
    FAILED = "FAILED"  # would fail again
    LOST = "LOST"  # its process or node died more often than it is retried


@dataclass(frozen=True)
class Usage:
    """What a whole trial takes: compute seconds of all its stages, stored ones included, and the most GPU memory of any
    of them, in GB."""

    seconds: float = 0.0
    gpu_gb: float = 0.0


@dataclass(frozen=True)
class Progress:
    """A stage computes, epoch of epochs. waiting: who computes it, where that is another process."""

    stage: str
    epoch: int
    epochs: int
    waiting: str = ""


def at_epoch(stage: str, epoch: int) -> str:
    """What an epoch of a stage is called among the milestones."""
    return f"{stage}, epoch {epoch}"


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a stage, counted from 1, of which trials are compared by a score, more is better."""

    stage: str
    epoch: int
    epochs: int
    score: float


@dataclass(frozen=True)
class StageDone:
    """A stage's result is there. metrics: its own, mIoU in percent. curves: one mapping an epoch. seconds: that it took
    to compute, with cpu_seconds and gpu_seconds, also where it was reused. waited: seconds for which the trial waited
    while another one computed it. node: that computed it. score: by which trials are compared at this milestone, more
    is better; None where the stage is none."""

    stage: str
    metrics: dict[str, float]
    curves: tuple[dict[str, float], ...]
    seconds: float
    reused: bool
    score: float | None = None
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    waited: float = 0.0
    node: str = ""


@dataclass(frozen=True)
class Decided:
    """A parameter that nobody suggested: of its values the best by the scores of a result of the trial."""

    key: str
    value: float


@dataclass(frozen=True)
class Completed:
    """It came to its end. values: of the objectives, in their order. metrics: of the whole run."""

    values: tuple[float, ...]
    metrics: dict[str, float]
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """It failed, and would again."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """The processes or nodes that computed one of its stages died more often than they are replaced."""

    reason: str


@dataclass(frozen=True)
class Restarted:
    """A trial, or this stage of it, begins again, because of what happened to its process."""

    reason: str
    stage: str = ""


Message = Progress | EpochDone | StageDone | Decided | Restarted | Completed | Failed | Lost


@dataclass(frozen=True)
class Began:
    """A trial was suggested."""

    parameters: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a trial ended: values, metrics and usage where it is COMPLETE, a reason where it is not."""

    state: State
    reason: str = ""
    values: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    usage: Usage | None = None
    seconds_computed: float = 0.0
    seconds_saved: float = 0.0


@dataclass(frozen=True)
class Reported:
    """A trial that had ended was measured on the reported images: the metrics that it lacked."""

    metrics: dict[str, float]


Event = Message | Began | Ended | Reported
TrialCallback = Callable[[int, Event], None]  # (number of the trial, what happened)
RunCallback = Callable[[str, int, str], None]  # of a confirmation that has ended: finalist, seed, "" or what went wrong

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Progress, EpochDone, StageDone, Decided, Restarted, Completed, Failed, Lost)
}
_FIELD = "report"


def encode(message: Message) -> dict[str, str]:
    """A message as a result for Ray: one JSON text, because Ray flattens dictionaries."""
    return {_FIELD: json.dumps({"kind": type(message).__name__, **asdict(message)})}


def decode(result: dict[str, Any] | None) -> Message | None:
    """The message in a result of Ray, None where there is none."""
    if not result or _FIELD not in result:
        return None
    content: dict[str, Any] = json.loads(result[_FIELD])
    kind = _KINDS[content.pop("kind")]
    for name, make in (("usage", lambda usage: Usage(**usage)), ("curves", tuple), ("values", tuple)):
        if name in content:
            content[name] = make(content[name])
    return kind(**content)
