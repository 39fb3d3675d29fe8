"""What MLflow is to hold: one run for the sweep, below it one run for each trial. Here it is only put into a queue.

The queue is a file in the sweep's folder to which the driver appends one JSON object a line, so it never waits for
MLflow; tune.mlflow_writer takes it there, in its own time, and catches up after an outage. A run has a key of ours, by
which it is found again. Trials report to the driver through Ray, so nodes need no way to the tracking server, a trial
that is retried or resumed goes on in its run, and a node that was given up for dead cannot write any more.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from semples.config import flatten
from semples.errors import UserError, cut
from tune.parts import TRACKERS, Choice, create

log = logging.getLogger(__name__)

QUEUE = "mlflow.queue"
EXPERIMENT = "semples-tune"
PARENT, KEY = "mlflow.parentRunId", "semples.key"  # tags
# states of a run, and what MLflow calls them; STOPPED: the launch ended before the trial or the sweep did
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED", "LOST": "FAILED", "STOPPED": "KILLED"}


def default_uri(out: Path) -> str:
    """The store that is used when no tracking server is named: a SQLite file beside the sweeps."""
    return f"sqlite:///{out / 'mlflow.db'}"


def new_key() -> str:
    """The key of a new sweep's run; those of its trials begin with it."""
    return secrets.token_hex(6)


Tags = Mapping[str, str]


class Tracker(Protocol):
    """Where runs are recorded: one for the sweep, one below it for each trial. Only the driver calls it, in order.

    Another package adds one by an entry point of the group `tune.trackers`: a callable `(folder, **settings)` with the
    sweep's folder, found by the names that `trackers` gives. No call may wait for a server; what raises is left out.
    """

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Tags) -> None:
        """A new run and its parameters, nested ones by dotted key. parent: key of the run above it, or ""."""

    def add(self, key: str, parameters: Mapping[str, Any]) -> None:
        """Parameters of a run that were not known when it began."""

    def reopen(self, key: str) -> None:
        """Go on with a run of an earlier launch."""

    def log(self, key: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None:
        """Metrics named `PREFIXname`, one mapping a step."""

    def attach(self, key: str, *files: Path) -> None:
        """Files of the run, by their path in the sweep's folder; some may not be there."""

    def tag(self, key: str, **tags: str) -> None:
        """Tags of a run."""

    def end(self, key: str, state: str, **tags: str) -> None:
        """A run's state: one of STATUS."""


class MlflowQueue:
    """Puts what MLflow is to hold into the queue of a sweep's folder.

    Every call appends and returns; what a full disk refuses is kept and appended with the next one. What is done twice
    is there once.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._kept: list[bytes] = []
        self._warned = False

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Tags) -> None:
        """A new run and its parameters, nested ones by dotted key. parent: key of the run above it, or ""."""
        all_tags = {**tags, "state": "RUNNING"}
        self._append("start", key, name=name, parent=parent, parameters=_as_text(parameters), tags=all_tags)

    def add(self, key: str, parameters: Mapping[str, Any]) -> None:
        """Parameters of a run that were not known when it began."""
        self._append("add", key, parameters=_as_text(parameters))

    def reopen(self, key: str) -> None:
        """Go on with a run of an earlier launch."""
        self._append("reopen", key, tags={"state": "RUNNING"})

    def log(self, key: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None:
        """Metrics named `PREFIXname`, one mapping a step."""
        metrics = [[prefix + k, v, first_step + i] for i, point in enumerate(points) for k, v in point.items()]
        if metrics:
            self._append("log", key, metrics=metrics)

    def attach(self, key: str, *files: Path) -> None:
        """Files to be uploaded, those that are there then; by their path in the sweep's folder."""
        self._append("attach", key, files=[file.as_posix() for file in files])

    def tag(self, key: str, **tags: str) -> None:
        """Tags of a run."""
        self._append("tag", key, tags=tags)

    def end(self, key: str, state: str, **tags: str) -> None:
        """A run's state, as tag and as MLflow's own status."""
        self._append("end", key, status=STATUS[state], tags={**tags, "state": state})

    def _append(self, what: str, key: str, **content: Any) -> None:
        entry = {"what": what, "run": key, "time": int(time.time() * 1000), **content}
        self._kept.append(f"\n{json.dumps(entry)}\n".encode())  # a line of its own after one that was cut short
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        try:
            file = os.open(self._folder / QUEUE, flags, 0o666)
            try:
                while self._kept and os.write(file, self._kept[0]) == len(self._kept[0]):
                    del self._kept[0]
            finally:
                os.close(file)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s cannot be written, MLflow has to wait: %s", self._folder / QUEUE, cut(str(error), 200))


def _as_text(parameters: Mapping[str, Any]) -> list[list[str]]:
    return [[name, str(value)] for name, value in flatten(parameters)]


class NullTracker:
    """Records nothing: for replays."""

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Tags) -> None: ...
    def add(self, key: str, parameters: Mapping[str, Any]) -> None: ...
    def reopen(self, key: str) -> None: ...
    def log(self, key: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None: ...
    def attach(self, key: str, *files: Path) -> None: ...
    def tag(self, key: str, **tags: str) -> None: ...
    def end(self, key: str, state: str, **tags: str) -> None: ...


class Trackers:
    """A tracker that passes every call on to the first one and then to the others. What the first one raises is raised;
    another one that raises is left out from then on, which is said once."""

    def __init__(self, first: Tracker, others: Mapping[str, Tracker]):
        self._first, self._others = first, dict(others)

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Tags) -> None:
        """See Tracker; so are the others below."""
        self._each(lambda tracker: tracker.start(key, name, parent, parameters, tags))

    def add(self, key: str, parameters: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.add(key, parameters))

    def reopen(self, key: str) -> None:
        self._each(lambda tracker: tracker.reopen(key))

    def log(self, key: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None:
        self._each(lambda tracker: tracker.log(key, points, prefix, first_step))

    def attach(self, key: str, *files: Path) -> None:
        self._each(lambda tracker: tracker.attach(key, *files))

    def tag(self, key: str, **tags: str) -> None:
        self._each(lambda tracker: tracker.tag(key, **tags))

    def end(self, key: str, state: str, **tags: str) -> None:
        self._each(lambda tracker: tracker.end(key, state, **tags))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        call(self._first)
        for name, tracker in [*self._others.items()]:
            try:
                call(tracker)
            except Exception as error:  # of somebody else, and a sweep does not end for it
                del self._others[name]
                log.warning("tracker '%s' fails and is left out from now on: %s", name, cut(repr(error), 200))


def open_trackers(folder: Path, choices: Sequence[Choice]) -> Tracker:
    """MLflow's queue in a sweep's folder, and besides it the trackers that the sweep names. Raises UserError where
    there is none of that name, or it cannot be made."""
    others: dict[str, Tracker] = {}
    for choice in choices:
        try:
            others[choice.name] = create(TRACKERS, choice, folder)
        except Exception as error:  # of somebody else's code
            reason = str(error) if isinstance(error, UserError) else cut(repr(error), 200)
            raise UserError(f"trackers: '{choice.name}' cannot be opened: {reason}") from None
    return Trackers(MlflowQueue(folder), others) if others else MlflowQueue(folder)
