"""What the study remembers of a trial, also of one that version 0.1.0 left."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tune.messages import Ended, EpochDone, StageDone, State, Usage
from tune.records import (
    StageRecord,
    TrialRecord,
    is_of_0_1,
    keep_duplicate,
    keep_end,
    keep_epoch,
    keep_run,
    keep_stage,
    run_of,
    trial_record,
)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def last(study: optuna.Study) -> TrialRecord:
    return trial_record(study.get_trials()[-1])


def test_what_is_kept_of_a_trial_is_remembered(study: optuna.Study) -> None:
    trial = study.ask()
    assert not last(study).started
    keep_run(trial, "k-0000")
    keep_stage(trial, StageDone("match", {"cam_miou": 33.0}, ({"loss": 1.0},), 20.0, False, 33.0))
    keep_stage(trial, StageDone("masks", {}, (), 3.0, True, 0.0, 12.0, 2.0, 0.5))
    keep_stage(trial, StageDone("prompts", {}, (), 4.0, False))
    stages = {
        "match": StageRecord(20.0, False, 33.0), "masks": StageRecord(3.0, True, 0.0, 12.0, 2.0, 0.5),
        "prompts": StageRecord(4.0, False),
    }  # fmt: skip
    assert last(study) == TrialRecord(State.RUNNING, "", stages, {}, None, None, "k-0000", True)
    assert last(study).last_milestone == ("masks", 0.0)
    for epoch, score in ((1, 30.0), (2, 31.5), (1, 30.0)):
        keep_epoch(trial, EpochDone("segment", epoch, 9, score))
    epochs = {"segment": {1: 30.0, 2: 31.5}}
    assert last(study).epochs == epochs and last(study).last_milestone == ("masks", 0.0)
    keep_end(trial, Ended(State.COMPLETE, "", (60.5,), {"pseudo_miou": 61.0}, Usage(7.0, 1.5)))
    study.tell(trial, 60.5)
    metrics, usage = {"pseudo_miou": 61.0}, Usage(7.0, 1.5)
    assert last(study) == TrialRecord(State.COMPLETE, "", stages, metrics, usage, None, "k-0000", True, epochs)
    keep_duplicate(study.ask(), study.get_trials()[0])
    assert last(study) == TrialRecord(State.RUNNING, "", {}, {}, usage, 0, "", False)


@pytest.mark.parametrize("state", [State.PRUNED, State.FAILED, State.LOST])
def test_a_trial_that_did_not_come_to_its_end_has_a_state_and_a_reason(study: optuna.Study, state: State) -> None:
    keep_end(study.ask(), Ended(state, "below the median"))
    assert last(study) == TrialRecord(state, "below the median", {}, {}, None, None, "", False)


def test_where_nobody_said_how_a_trial_stands_optuna_says_it(study: optuna.Study) -> None:
    study.tell(study.ask(), state=TrialState.FAIL)
    assert last(study).state == State.FAILED
    study.enqueue_trial({"x": 1.0})
    assert last(study).state == State.WAITING


def test_a_trial_of_0_1_0_is_remembered(study: optuna.Study) -> None:
    stages = {"match": {"seconds": 20.0, "reused": False, "score": 33.0}, "prompts": {"seconds": 4.0, "reused": True}}
    kept: dict[str, Any] = {
        "state": "COMPLETE", "metrics": {"pseudo_miou": 61.0}, "taken": {"seconds": 24.0, "gpu_gb": 1.5},
        "run_id": "0123abc", "stages": stages,
    }  # fmt: skip
    assert trial_record(create_trial(value=60.5, user_attrs=kept)) == TrialRecord(
        State.COMPLETE, "", {"match": StageRecord(20.0, False, 33.0), "prompts": StageRecord(4.0, True)},
        {"pseudo_miou": 61.0}, Usage(24.0, 1.5), None, "0123abc", True,
    )  # fmt: skip
    repeated = trial_record(create_trial(value=60.5, user_attrs={"duplicate_of": 3, "taken": {}}))
    assert (repeated.duplicate_of, repeated.usage, repeated.started) == (3, None, False)


def test_a_study_of_0_1_0_is_known_with_its_run(study: optuna.Study) -> None:
    assert run_of(study) == "" and not is_of_0_1(study)
    keep_run(study, "key")
    assert run_of(study) == "key" and not is_of_0_1(study)
    old = optuna.create_study()
    old.set_user_attr("run_id", "0123abc")
    assert run_of(old) == "0123abc" and is_of_0_1(old)
