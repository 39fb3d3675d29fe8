"""MLflow: one run for the sweep, below it one run for each trial, written by the driver alone.

Trials report to the driver through Ray, so nodes need no way to the tracking server, a trial that is retried or resumed
goes on in its run, and a node that was given up for dead cannot write any more.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
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

EXPERIMENT = "semples-tune"
PARENT = "mlflow.parentRunId"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED", "LOST": "FAILED", "STOPPED": "KILLED"}


def default_uri(out: Path) -> str:
    """The store that is used when no tracking server is named: a SQLite file beside the sweeps."""
    return f"sqlite:///{out / 'mlflow.db'}"


class Tracker:
    """Writes to one MLflow store. Raises UserError if it cannot be reached."""

    def __init__(self, uri: str, out: Path):
        self.uri = uri
        self._client = MlflowClient(uri)
        try:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                # with a file store artifacts would go to the current folder of whoever is first
                place = (out / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
                self._experiment = self._client.create_experiment(EXPERIMENT, artifact_location=place)
            else:
                self._experiment = found.experiment_id
        except MlflowException as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"MLflow store {uri} cannot be used: {reason}") from None

    def start(self, name: str, parent: str | None, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create a run and log its parameters, nested ones by dotted key; returns the run id."""
        all_tags = {**tags, "state": "RUNNING", **({PARENT: parent} if parent else {})}
        run = self._client.create_run(self._experiment, tags=all_tags, run_name=name)
        # MLflow allows no brackets in names and 6,000 characters in values
        entries = [Param(key, str(value)[:6000]) for key, value in flatten(parameters)]
        for start in range(0, len(entries), 100):
            self._client.log_batch(run.info.run_id, params=entries[start : start + 100])
        return str(run.info.run_id)

    def reopen(self, run_id: str) -> None:
        """Go on with a run of an earlier launch."""
        self._client.update_run(run_id, status="RUNNING")
        self._client.set_tag(run_id, "state", "RUNNING")

    def log(self, run_id: str, values: Mapping[str, float], step: int = 0, prefix: str = "") -> None:
        """Metrics of one moment."""
        self.log_curves(run_id, [values], prefix, first_step=step)

    def log_curves(
        self, run_id: str, points: list[Mapping[str, float]] | list[dict[str, float]], prefix: str, first_step: int = 1
    ) -> None:
        """A stage's curves: one mapping an epoch, logged as `PREFIXname`."""
        now = int(time.time() * 1000)
        metrics = [Metric(prefix + k, v, now, first_step + i) for i, p in enumerate(points) for k, v in p.items()]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def attach(self, run_id: str, *files: Path) -> None:
        """Upload files as artifacts, those that are there."""
        for file in files:
            if file.exists():
                self._client.log_artifact(run_id, str(file))

    def tag(self, run_id: str, **tags: str) -> None:
        """Set tags."""
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)

    def end(self, run_id: str, state: str, **tags: str) -> None:
        """Write a run's state, as tag and as MLflow's own status."""
        self.tag(run_id, state=state, **tags)
        self._client.set_terminated(run_id, STATUS[state])
