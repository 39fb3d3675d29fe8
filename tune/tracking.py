"""MLflow: one run for the sweep, below it one run for each trial, written by the driver alone.

Trials report to the driver through Ray, so nodes need no way to the tracking server, a trial that is retried or resumed
goes on in its run, and a node that was given up for dead cannot write any more.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from semples.config import flatten
from semples.errors import UserError

# or it tells of every table that it creates
logging.getLogger("mlflow").setLevel(logging.WARNING)

log = logging.getLogger(__name__)

EXPERIMENT = "semples-tune"
PARENT = "mlflow.parentRunId"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED", "LOST": "FAILED", "STOPPED": "KILLED"}


def default_uri(out: Path) -> str:
    """The store that is used when no tracking server is named: a SQLite file beside the sweeps."""
    return f"sqlite:///{out / 'mlflow.db'}"


class Tracker:
    """Writes to one MLflow store. Raises UserError if it cannot be reached at the start.

    A store that fails later does not end the sweep: a warning is logged once, and what it misses is in the sweep's
    folder. A run that could not be created has the id "", and nothing is written to it.
    """

    def __init__(self, uri: str, out: Path):
        self.uri = uri
        self._warned = False
        try:
            self._client = MlflowClient(uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                # with a file store artifacts would go to the current folder of whoever is first
                place = (out / "mlartifacts").as_uri() if not uri.startswith("http") else None
                self._experiment = self._client.create_experiment(EXPERIMENT, artifact_location=place)
            else:
                self._experiment = found.experiment_id
        except MlflowException as error:
            raise UserError(f"MLflow store {uri} cannot be used: {_short(error)}") from None

    @contextmanager
    def _best_effort(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError) as error:
            if not self._warned:
                self._warned = True
                log.warning("MLflow store %s fails, the sweep goes on without it: %s", self.uri, _short(error))

    def start(self, name: str, parent: str | None, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create a run and log its parameters, nested ones by dotted key; returns the run id."""
        run_id = ""
        with self._best_effort():
            all_tags = {**tags, "state": "RUNNING", **({PARENT: parent} if parent else {})}
            run_id = str(self._client.create_run(self._experiment, tags=all_tags, run_name=name).info.run_id)
            # MLflow allows 6,000 characters in a value and 100 parameters in a call
            entries = [Param(key, str(value)[:6000]) for key, value in flatten(parameters)]
            for first in range(0, len(entries), 100):
                self._client.log_batch(run_id, params=entries[first : first + 100])
        return run_id

    def has(self, run_id: str) -> bool:
        """Whether the store holds the run."""
        try:
            self._client.get_run(run_id)
        except MlflowException:
            return False
        return True

    def reopen(self, run_id: str) -> None:
        """Go on with a run of an earlier launch."""
        with self._best_effort():
            if run_id:
                self._client.update_run(run_id, status="RUNNING")
                self._client.set_tag(run_id, "state", "RUNNING")

    def log(self, run_id: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None:
        """Metrics named `PREFIXname`, one mapping a step."""
        now = int(time.time() * 1000)
        metrics = [Metric(prefix + k, v, now, first_step + i) for i, p in enumerate(points) for k, v in p.items()]
        with self._best_effort():
            for first in range(0, len(metrics) if run_id else 0, 1000):
                self._client.log_batch(run_id, metrics=metrics[first : first + 1000])

    def attach(self, run_id: str, *files: Path) -> None:
        """Upload files as artifacts, those that are there."""
        with self._best_effort():
            for file in files:
                if run_id and file.exists():
                    self._client.log_artifact(run_id, str(file))

    def tag(self, run_id: str, **tags: str) -> None:
        """Set tags."""
        with self._best_effort():
            for key, value in tags.items():
                if run_id:
                    self._client.set_tag(run_id, key, value)

    def end(self, run_id: str, state: str, **tags: str) -> None:
        """Write a run's state, as tag and as MLflow's own status."""
        self.tag(run_id, state=state, **tags)
        with self._best_effort():
            if run_id:
                self._client.set_terminated(run_id, STATUS[state])


class Untracked:
    """The calls of a searcher to its Tracker, written nowhere: for replays."""

    def reopen(self, run_id: str) -> None: ...
    def log(
        self, run_id: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1
    ) -> None: ...
    def attach(self, run_id: str, *files: Path) -> None: ...
    def tag(self, run_id: str, **tags: str) -> None: ...
    def end(self, run_id: str, state: str, **tags: str) -> None: ...


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
