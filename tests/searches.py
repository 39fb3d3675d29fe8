"""A search without Ray: a study, a tracker and what hands out trials."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from semples.pipeline.graph import STAGES
from tune.messages import Completed, Event, StageDone, Usage, encode
from tune.mlflow_writer import Store, Writer
from tune.searcher import StudySearcher
from tune.stopping import Rule
from tune.sweep_file import make_sweep
from tune.tracking import EXPERIMENT, MlflowQueue, default_uri
from tune.warm_start import open_study

SWEEP = make_sweep(
    {
        "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 9, "gate": 1, "study": "journal",
        "space": {"match.lambda_b": {"float": [1, 4]}},
    }
)  # fmt: skip


_SCRATCH = tempfile.TemporaryDirectory()
ONCE = Path(_SCRATCH.name)  # where is made once what tests copy


def with_mlflow(folder: Path) -> None:
    """Put an empty MLflow store where a sweep in this folder has its own by default, for making one takes seconds."""
    empty, own = ONCE / "mlflow.db", folder / "mlflow.db"
    if not empty.exists():
        MlflowClient(f"sqlite:///{empty}").search_experiments()
    if not own.exists():
        shutil.copy(empty, own)


def milestone(stage: str, score: float) -> dict[str, Any]:
    curves = ({"loss": 2.0}, {"loss": 1.0})
    return encode(StageDone(stage, {"cam_miou": score}, curves, 3.0, stage == "classify", score))


def complete(value: float) -> dict[str, Any]:
    return encode(Completed((value,), {"pseudo_miou": 50.0, "seg_miou": value - 1}, Usage(9.0)))


def everywhere(rule: Rule) -> dict[str, Rule]:
    """The rule at every milestone before the network."""
    return {name: rule for name, stage in STAGES.items() if stage.milestone and name != "segment"}


class World:
    """One launch on a folder: study, MLflow store and searcher."""

    def __init__(self, folder: Path, **changes: Any):
        sweep = SWEEP.changed(**changes)
        self.tracker = MlflowQueue(folder)
        self.writer = Writer(Store(default_uri(folder), folder), folder)
        self.study = open_study(folder, sweep)
        self.events: list[tuple[int, Event]] = []
        self.searcher = StudySearcher(
            self.study, sweep, self.tracker, self._start, lambda *of_trial: self.events.append(of_trial)
        )
        with_mlflow(folder)
        self.client = MlflowClient(default_uri(folder))

    def _start(self, number: int, parameters: dict[str, Any]) -> str:
        self.tracker.start(f"k-{number}", f"s-{number}", "", {"x": parameters}, {})
        return f"k-{number}"

    def runs(self) -> dict[str, Any]:
        self.writer.catch_up()
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return {run.info.run_name: run for run in self.client.search_runs([experiment.experiment_id])}


class RayTrial:
    """What a scheduler is told of a trial."""

    def __init__(self, number: int):
        self.config = {"number": number}
