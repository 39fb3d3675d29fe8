"""How trials end, in the study and in MLflow: Ray's calls are made by hand here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from semples.errors import UserError
from tune.searcher import StudySearcher
from tune.space import Sweep
from tune.stopping import MilestoneStopping, below_median
from tune.study import finished, open_study, passed_milestones, ranked
from tune.tracking import EXPERIMENT, Tracker, default_uri

SWEEP = Sweep.model_validate(
    {
        "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 9,
        "space": {"match.lambda_b": {"float": [1, 4]}},
    }
)  # fmt: skip


def message(**values: Any) -> dict[str, Any]:
    return {"report": json.dumps(values)}


def milestone(stage: str, score: float) -> dict[str, Any]:
    return message(
        stage=stage, epoch=2, epochs=2, metrics={"cam_miou": score}, curves=[{"loss": 2.0}, {"loss": 1.0}],
        seconds=3.0, reused=stage == "classify", milestone=stage, score=score,
    )  # fmt: skip


def complete(value: float) -> dict[str, Any]:
    metrics = {"pseudo_miou": 50.0, "seg_miou": value - 1}
    return message(ended="COMPLETE", values=[value], metrics=metrics, taken={"seconds": 9.0, "gpu_gb": 0.0})


class World:
    """One launch on a folder: study, MLflow store and searcher."""

    def __init__(self, folder: Path):
        self.tracker = Tracker(default_uri(folder), folder)
        self.study = open_study(folder, SWEEP)
        self.notices: list[tuple[int, dict[str, Any]]] = []
        start = lambda number, parameters: self.tracker.start(f"s-{number}", None, {"x": parameters}, {})  # noqa: E731
        self.searcher = StudySearcher(
            self.study, SWEEP, folder, self.tracker, start, lambda n, r: self.notices.append((n, r))
        )
        self.client = MlflowClient(default_uri(folder))

    def runs(self) -> dict[str, Any]:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return {run.info.run_name: run for run in self.client.search_runs([experiment.experiment_id])}


def test_every_kind_of_end_is_told_once_and_the_same_to_both(tmp_path: Path) -> None:
    world = World(tmp_path)
    searcher = world.searcher
    ends = {
        "COMPLETE": (complete(60.0), False),
        "PRUNED": (milestone("match", 10.0), False),
        "FAILED": (message(ended="FAILED", reason="no memory"), False),
        "NAN": (complete(float("nan")), False),
        "LOST": (milestone("match", 40.0), True),
    }
    for name, (last, error) in ends.items():
        searcher.suggest(name)
        searcher.on_trial_result(name, last)
        searcher.on_trial_complete(name, last, error)
        searcher.on_trial_complete(name, last, error)  # Ray may say it twice
    states = [(t.state, t.user_attrs["state"]) for t in world.study.get_trials()]
    assert states == [
        (TrialState.COMPLETE, "COMPLETE"),
        (TrialState.PRUNED, "PRUNED"),
        (TrialState.FAIL, "FAILED"),
        (TrialState.FAIL, "FAILED"),
        (TrialState.FAIL, "LOST"),
    ]
    runs = world.runs()
    assert [runs[f"s-{i}"].data.tags["state"] for i in range(5)] == [state for _, state in states]
    assert [runs[f"s-{i}"].info.status for i in range(5)] == ["FINISHED", "FINISHED", "FAILED", "FAILED", "FAILED"]
    assert runs["s-0"].data.metrics["seg_miou"] == 59.0 and runs["s-0"].data.metrics["objective/seg_miou"] == 60.0
    assert runs["s-2"].data.tags["reason"] == "no memory"
    assert "below the median at match" in runs["s-1"].data.tags["reason"]
    assert [t.number for t in ranked(world.study, SWEEP)] == [0]


def test_a_pruned_trial_leaves_its_milestones_but_no_final_value(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")
    world.searcher.on_trial_result("a", milestone("classify", 20.0))
    # the report at which the scheduler stops a trial reaches the searcher with its end only
    world.searcher.on_trial_complete("a", milestone("match", 15.0))
    trial = world.study.get_trials()[0]
    assert trial.state == TrialState.PRUNED and trial.value is None
    assert trial.intermediate_values == {0: 20.0, 1: 15.0}
    assert passed_milestones(world.study)["match"] == {0: 15.0}
    assert ranked(world.study, SWEEP) == []
    run = world.runs()["s-0"]
    assert run.data.tags["milestone"] == "match" and run.data.metrics["match/cam_miou"] == 15.0


def test_the_sampler_goes_on_after_pruned_trials(tmp_path: Path) -> None:
    world = World(tmp_path)
    for i in range(12):
        world.searcher.suggest(str(i))
        end = complete(40.0 + i) if i % 2 else milestone("match", float(i))
        world.searcher.on_trial_complete(str(i), end)
    assert len(finished(world.study)) == 12


def test_a_retried_trial_logs_a_stage_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")
    for _ in range(2):
        world.searcher.on_trial_result("a", milestone("match", 33.0))
    run = world.runs()["s-0"]
    assert len(world.client.get_metric_history(run.info.run_id, "match/loss")) == 2


def test_a_trial_cut_short_while_it_was_suggested_is_handed_out_whole(tmp_path: Path) -> None:
    first = World(tmp_path)
    first.study.ask()  # neither its parameters nor its run were written
    second = World(tmp_path)
    assert second.searcher.suggest("a") == {"number": 0, "parameters": {"match.lambda_b": 1.0}}
    second.searcher.on_trial_complete("a", complete(50.0))
    assert second.runs()["s-0"].data.tags["state"] == "COMPLETE"


def test_curves_of_a_stage_are_logged_by_prefix(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")
    world.searcher.on_trial_result("a", message(stage="match", epoch=1, epochs=2))
    world.searcher.on_trial_result("a", milestone("match", 33.0))
    run = world.runs()["s-0"]
    history = world.client.get_metric_history(run.info.run_id, "match/loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0)]
    assert run.data.metrics["match/cam_miou"] == 33.0
    assert run.data.tags["milestone"] == "match"


def test_the_first_trial_is_the_default(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.searcher.suggest("a") == {"number": 0, "parameters": {"match.lambda_b": 1.0}}
    assert world.searcher.suggest("b")["parameters"] != {"match.lambda_b": 1.0}


def test_an_interrupted_trial_is_handed_out_again_in_the_same_run(tmp_path: Path) -> None:
    first = World(tmp_path)
    first.searcher.suggest("a")
    interrupted = first.searcher.suggest("b")
    first.searcher.on_trial_result("b", milestone("match", 30.0))
    first.searcher.on_trial_complete("a", complete(50.0))
    first.searcher.stop()
    assert first.runs()["s-1"].data.tags["state"] == "STOPPED"

    second = World(tmp_path)
    assert second.searcher.suggest("c") == interrupted
    assert second.runs()["s-1"].info.status == "RUNNING"
    second.searcher.on_trial_result("c", milestone("match", 30.0))
    second.searcher.on_trial_complete("c", complete(55.0))
    fresh = second.searcher.suggest("d")
    assert fresh["number"] == 2 and fresh["parameters"] != interrupted["parameters"]
    assert len(finished(second.study)) == 2 and len(second.runs()) == 3


def test_notices_name_the_state(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")
    world.searcher.on_trial_complete("a", complete(50.0))
    assert [set(report) & {"started", "state"} for _, report in world.notices] == [{"started"}, {"state"}]


def test_an_unreachable_tracking_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLflow store http://127\.0\.0\.1:9 cannot be used"):
        Tracker("http://127.0.0.1:9", tmp_path)


def test_a_store_knows_its_runs(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")
    run_id = world.study.get_trials()[0].user_attrs["run_id"]
    assert world.tracker.has(run_id)
    (tmp_path / "other").mkdir()
    assert not Tracker(default_uri(tmp_path / "other"), tmp_path / "other").has(run_id)


def test_falling_behind_needs_enough_others() -> None:
    assert not below_median(1.0, [2.0, 3.0, 4.0])
    assert below_median(1.0, [2.0, 3.0, 4.0, 0.5])
    assert not below_median(2.5, [2.0, 3.0, 4.0, 0.5])


class _Trial:
    def __init__(self, number: int):
        self.config = {"number": number}


def test_the_scheduler_compares_the_same_milestone_only() -> None:
    earlier = {"classify": {n: 10.0 + n for n in range(6)}, "match": {n: 40.0 + n for n in range(6)}}
    scheduler = MilestoneStopping("median", "segment", earlier)
    decide = lambda number, stage, score: scheduler.on_trial_result(None, _Trial(number), milestone(stage, score))  # noqa: E731
    assert decide(7, "classify", 14.0) == TrialScheduler.CONTINUE  # far below every score of match
    assert decide(7, "match", 14.0) == TrialScheduler.STOP
    assert decide(0, "match", 1.0) == TrialScheduler.CONTINUE  # the default is never stopped
    assert decide(8, "refine", 1.0) == TrialScheduler.CONTINUE  # nobody has been there
    assert (
        scheduler.on_trial_result(None, _Trial(7), message(stage="match", epoch=1, epochs=9)) == TrialScheduler.CONTINUE
    )


def test_nobody_is_stopped_before_the_default_has_passed() -> None:
    scheduler = MilestoneStopping("median", "segment", {"match": {n: 40.0 + n for n in range(1, 7)}})
    assert scheduler.on_trial_result(None, _Trial(7), milestone("match", 1.0)) == TrialScheduler.CONTINUE


def test_a_tracking_server_that_fails_later_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        for call in ("create_run", "log_batch", "set_tag", "log_artifact", "set_terminated"):
            patch.setattr(f"mlflow.MlflowClient.{call}", fail)
        world.searcher.on_trial_result("a", milestone("match", 33.0))
        world.searcher.on_trial_complete("a", complete(50.0))
        world.searcher.suggest("b")  # this one has no run
        world.searcher.on_trial_complete("b", complete(51.0))
    world.searcher.suggest("c")
    world.searcher.on_trial_complete("c", complete(52.0))
    assert [t.value for t in world.study.get_trials()] == [50.0, 51.0, 52.0]
    assert caplog.text.count("the sweep goes on without it: connection refused") == 1
    assert world.runs()["s-2"].data.tags["state"] == "COMPLETE"
