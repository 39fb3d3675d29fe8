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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from semples.config import flatten
from semples.errors import cut

log = logging.getLogger(__name__)

QUEUE = "mlflow.queue"
EXPERIMENT = "semples-tune"
PARENT, KEY = "mlflow.parentRunId", "semples.key"  # tags
# user attributes: the key of a run; version 0.1.0 kept MLflow's id, "" if there was none
RUN, RUN_0_1 = "run", "run_id"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED", "LOST": "FAILED", "STOPPED": "KILLED"}


def default_uri(out: Path) -> str:
    """The store that is used when no tracking server is named: a SQLite file beside the sweeps."""
    return f"sqlite:///{out / 'mlflow.db'}"


def new_key() -> str:
    """The key of a new sweep's run; those of its trials begin with it."""
    return secrets.token_hex(6)


def run_of(holder: optuna.Study | optuna.Trial | FrozenTrial) -> str:
    """The key of the run of a study or trial, "" if it has none."""
    return str(holder.user_attrs.get(RUN) or holder.user_attrs.get(RUN_0_1) or "")


def was_started(trial: FrozenTrial) -> bool:
    """Whether a trial ever had a run: one whose parameters are not allowed has none."""
    return RUN in trial.user_attrs or RUN_0_1 in trial.user_attrs


class Tracker:
    """Puts what MLflow is to hold into the queue of a sweep's folder.

    Every call appends and returns; what a full disk refuses is kept and appended with the next one. What is done twice
    is there once.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._kept: list[bytes] = []
        self._warned = False

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new run and its parameters, nested ones by dotted key; its key. parent: key of the run above it, or ""."""
        entries = [[name, str(value)] for name, value in flatten(parameters)]
        all_tags = {**tags, "state": "RUNNING"}
        self._append("start", key, name=name, parent=parent, parameters=entries, tags=all_tags)
        return key

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


class Untracked:
    """The calls of a searcher to its Tracker, written nowhere: for replays."""

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        return key

    def reopen(self, key: str) -> None: ...
    def log(self, key: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None: ...
    def attach(self, key: str, *files: Path) -> None: ...
    def tag(self, key: str, **tags: str) -> None: ...
    def end(self, key: str, state: str, **tags: str) -> None: ...
