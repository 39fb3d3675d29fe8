"""How trials end, in the study and in MLflow: Ray's calls are made by hand here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from searches import SWEEP, RayTrial, World, complete, everywhere, milestone

from semples.errors import UserError
from tune.driver import trials_to_go
from tune.messages import Began, Completed, Ended, Failed, Progress, Usage, encode
from tune.mlflow_writer import Store, unwritten
from tune.records import is_duplicate, run_of, trial_record
from tune.scheduler import MilestoneStopping
from tune.space import Dimension
from tune.stopping import median
from tune.study import finished, is_default, pareto_front, passed_milestones, ranked
from tune.tracking import default_uri


def test_every_kind_of_end_is_told_once_and_the_same_to_both(tmp_path: Path) -> None:
    world = World(tmp_path, early_stopping="median")
    searcher = world.searcher
    ends = {
        "COMPLETE": (complete(60.0), False),
        "PRUNED": (milestone("match", 10.0), False),
        "FAILED": (encode(Failed("no memory")), False),
        "NAN": (complete(float("nan")), False),
        "LOST": (milestone("match", 40.0), True),
    }
    for name, (last, error) in ends.items():
        searcher.suggest(name)
        searcher.on_trial_result(name, last)
        searcher.on_trial_complete(name, last, error)
        searcher.on_trial_complete(name, last, error)  # Ray may say it twice
    states = [(t.state, trial_record(t).state) for t in world.study.get_trials()]
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
    assert trial.state == TrialState.PRUNED and ranked(world.study, SWEEP) == []
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
    world.searcher.on_trial_result("a", encode(Progress("match", 1, 2)))
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

    fewer = SWEEP.changed(trials=1)
    assert trials_to_go(fewer, tmp_path) == 1, "what was begun is ended"
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
    assert [type(event) for _, event in world.events] == [Began, Ended]


def test_an_unreachable_tracking_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLflow store http://127\.0\.0\.1:9 cannot be used"):
        Store("http://127.0.0.1:9", tmp_path).check()


def test_a_store_knows_its_runs(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")
    world.runs()
    key = run_of(world.study.get_trials()[0])
    found = Store(default_uri(tmp_path), tmp_path)
    found.check()
    assert found.holds(key) and not found.holds("k-7")
    (tmp_path / "other").mkdir()
    other = Store(default_uri(tmp_path / "other"), tmp_path / "other")
    other.check()
    assert not other.holds(key)


COUNTS = {"prompts.count": Dimension(int=(1, 3))}


@pytest.mark.parametrize("sampler", ["random", "tpe", "cost-aware", "sobol", "nsga2", "cmaes", "gp"])
def test_a_suggestion_that_was_tried_is_answered_at_once_and_not_counted(tmp_path: Path, sampler: str) -> None:
    world = World(tmp_path, space=COUNTS, sampler=sampler)
    got = []
    while isinstance(suggestion := world.searcher.suggest(str(len(got))), dict):
        got.append(suggestion["parameters"]["prompts.count"])
        world.searcher.on_trial_complete(str(len(got) - 1), complete(40.0 + got[-1]))
    # each configuration ran once; when nothing new is found the search is over
    assert len(got) == len(set(got)) and set(got) <= {1, 2, 3}
    assert sampler in ("sobol", "cmaes") or len(got) == 3
    assert "had been tried before" in world.searcher.exhausted
    assert len(finished(world.study)) == len(world.runs()) == len(got)
    repeated = [t for t in world.study.get_trials() if is_duplicate(t)]
    assert repeated and all(t.value == 40.0 + t.params["prompts.count"] for t in repeated)


def test_a_grid_ends_when_every_point_was_tried(tmp_path: Path) -> None:
    changes = {"space": COUNTS, "sampler": "grid", "trials": None}
    world = World(tmp_path, **changes)
    assert [world.searcher.suggest(str(i))["parameters"] for i in range(2)] == [  # type: ignore[index]
        {"prompts.count": 1},
        {"prompts.count": 2},
    ]
    world.searcher.on_trial_complete("0", complete(40.0))
    again = World(tmp_path, **changes)  # the second one was interrupted
    assert [again.searcher.suggest(str(i)) for i in range(3)] == [
        {"number": 1, "parameters": {"prompts.count": 2}},
        {"number": 2, "parameters": {"prompts.count": 3}},
        "FINISHED",
    ]
    assert again.searcher.exhausted == "every point of the grid was tried"


def test_a_budget_of_compute_ends_the_search_over_launches(tmp_path: Path) -> None:
    for again in range(2):
        world = World(tmp_path, budget=5.0)
        assert isinstance(world.searcher.suggest("a"), dict) is (again == 0)
        if again == 0:
            world.searcher.on_trial_result("a", milestone("match", 33.0))
            world.searcher.on_trial_result("a", milestone("refine", 34.0))
            world.searcher.on_trial_complete("a", complete(50.0))
    assert world.searcher.exhausted == "the budget of 5 compute seconds is spent"


def test_conditional_keys_are_suggested_where_their_condition_holds(tmp_path: Path) -> None:
    space = {
        "prompts.init": Dimension(choice=("uniform", "word")),
        "masks.band": Dimension(float=(0.0, 0.2), when={"prompts.init": "word"}),
    }
    for sampler in ("tpe", "cost-aware", "random"):
        folder = tmp_path / sampler
        folder.mkdir()
        world = World(folder, space=space, sampler=sampler)
        for i in range(25):
            suggestion = world.searcher.suggest(str(i))
            assert isinstance(suggestion, dict)
            given = suggestion["parameters"]
            assert ("masks.band" in given) == (given["prompts.init"] == "word")
            world.searcher.on_trial_complete(str(i), complete(40.0 + given.get("masks.band", 0)))
            if len(world.study.get_trials()) > 40:
                break


def test_several_objectives_rank_what_nobody_beats_first(tmp_path: Path) -> None:
    changes = {"objective": ("pseudo_miou", "seconds")}
    world = World(tmp_path, **changes)
    values = [[50.0, 9.0], [60.0, 20.0], [55.0, 25.0], [40.0, 5.0]]
    for i, pair in enumerate(values):
        world.searcher.suggest(str(i))
        world.searcher.on_trial_result(str(i), milestone("match", 30.0))
        end = encode(Completed(tuple(pair), {"pseudo_miou": 1.0}, Usage(1.0)))
        world.searcher.on_trial_complete(str(i), end)
    sweep = SWEEP.changed(**changes)
    assert [t.number for t in ranked(world.study, sweep)] == [1, 0, 3, 2]
    assert [t.number for t in pareto_front(world.study, sweep)] == [1, 0, 3]
    assert passed_milestones(world.study)["match"] == {0: 30.0, 1: 30.0, 2: 30.0, 3: 30.0}
    assert world.runs()["s-1"].data.metrics["objective/seconds"] == 20.0


def test_a_trial_above_a_limit_is_never_the_best(tmp_path: Path) -> None:
    world = World(tmp_path, limits={"seconds": 8.0})
    world.searcher.suggest("a")
    world.searcher.on_trial_complete("a", complete(50.0))  # took 9 seconds
    assert ranked(world.study, SWEEP.changed(**{"limits": {"seconds": 8.0}})) == []
    assert len(ranked(world.study, SWEEP)) == 1


def test_a_repeated_trial_is_above_the_same_limits(tmp_path: Path) -> None:
    changes = {"space": COUNTS, "sampler": "random", "limits": {"seconds": 8.0}}
    world = World(tmp_path, **changes)
    while isinstance(world.searcher.suggest("a"), dict):
        world.searcher.on_trial_complete("a", complete(50.0))  # took 9 seconds
    repeated = [t for t in world.study.get_trials() if is_duplicate(t)]
    assert repeated and all(t.constraints == {"seconds": 1.0} for t in repeated)


def test_a_combination_that_is_not_allowed_fails_with_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, sampler="random")
    start = world.searcher._start_run

    def refuse(number: int, parameters: dict[str, Any]) -> str:
        if number == 1:
            raise UserError("these two do not go together")
        return start(number, parameters)

    world.searcher._start_run = refuse
    assert [world.searcher.suggest(name)["number"] for name in "ab"] == [0, 2]  # type: ignore[index]
    failed = world.study.get_trials()[1]
    assert failed.state == TrialState.FAIL and trial_record(failed).reason == "these two do not go together"
    again = World(tmp_path, sampler="random").searcher
    assert [again.suggest(name)["number"] for name in "cd"] == [0, 2]  # type: ignore[index]


def test_a_search_of_which_nothing_is_allowed_ends(tmp_path: Path) -> None:
    world = World(tmp_path, sampler="random")

    def refuse(number: int, parameters: dict[str, Any]) -> str:
        raise UserError("not this way")

    world.searcher._start_run = refuse
    assert world.searcher.suggest("a") == "FINISHED"
    assert world.searcher.exhausted.endswith("are not allowed: not this way")


def fail_all(world: World, reasons: Iterator[str], most: int = 40) -> int:
    """Let every trial fail until no more are suggested; how many there were."""
    for number in range(most):
        if not isinstance(world.searcher.suggest(str(number)), dict):
            return number
        world.searcher.on_trial_complete(str(number), encode(Failed(next(reasons))))
    return most


def test_a_search_of_which_every_trial_fails_for_one_reason_stops_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, trials=None, budget=1e6)
    # numbers and keys differ
    assert fail_all(world, (f"trials/{i:04d}: no space left in {0xDEADBEEF + i:x}" for i in itertools.count())) == 5
    assert world.searcher.failing
    assert world.searcher.exhausted == (
        "5 trials in a row failed for one reason: trials/0004: no space left in deadbef3"
    )
    again = World(tmp_path, trials=None, budget=1e6)  # by then it may have been put right
    assert isinstance(again.searcher.suggest("a"), dict)


def test_a_search_goes_on_where_reasons_differ_or_some_come_through(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    world = World(tmp_path / "a", trials=None, budget=1e6)
    assert fail_all(world, itertools.cycle(["no space left", "diverged"])) == 40
    (tmp_path / "b").mkdir()
    world = World(tmp_path / "b", trials=None, budget=1e6)
    world.searcher.suggest("first")
    world.searcher.on_trial_complete("first", complete(50.0))
    # what has come through may only be outside of a part of the space that fails
    assert fail_all(world, itertools.repeat("diverged")) == 10


def test_a_driver_killed_while_a_trial_ends_ends_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.searcher.suggest("a")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(world.tracker, "attach", killed)
        world.searcher.on_trial_complete("a", complete(50.0))
    again = World(tmp_path)
    assert again.searcher.suggest("b") == {"number": 0, "parameters": {"match.lambda_b": 1.0}}
    again.searcher.on_trial_complete("b", complete(50.0))
    assert again.study.get_trials()[0].state == TrialState.COMPLETE
    assert again.runs()["s-0"].info.status == "FINISHED" and len(again.runs()) == 1


def test_a_default_that_failed_is_tried_again_and_spared(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name, end in (("a", encode(Failed("disk full"))), ("b", complete(50.0))):
        world.searcher.suggest(name)
        world.searcher.on_trial_complete(name, end)
    again = World(tmp_path)
    assert again.searcher.suggest("c") == {"number": 2, "parameters": {"match.lambda_b": 1.0}}
    sweep = SWEEP
    assert [is_default(again.study, sweep, number) for number in range(3)] == [True, False, True]
    scheduler = MilestoneStopping(
        everywhere(median()), {"match": {n: 40.0 + n for n in range(3, 9)}}, lambda number: number == 2
    )
    assert scheduler.on_trial_result(None, RayTrial(9), milestone("match", 1.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, RayTrial(2), milestone("match", 0.5)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, RayTrial(10), milestone("match", 1.0)) == TrialScheduler.STOP


def test_a_point_of_a_grid_that_failed_is_tried_again(tmp_path: Path) -> None:
    changes = {"space": COUNTS, "sampler": "grid", "trials": None}
    world = World(tmp_path, **changes)
    for name, end in (("a", complete(50.0)), ("b", encode(Failed("full"))), ("c", complete(40.0))):
        world.searcher.suggest(name)
        world.searcher.on_trial_complete(name, end)
    again = World(tmp_path, **changes)
    assert again.searcher.suggest("d") == {"number": 3, "parameters": {"prompts.count": 2}}


def test_a_store_that_fails_for_a_while_lacks_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        for call in ("create_run", "log_batch", "log_artifact", "set_terminated", "search_runs"):
            patch.setattr(f"mlflow.MlflowClient.{call}", fail)
        with world.writer:
            for name in "ab":
                world.searcher.suggest(name)
                world.searcher.on_trial_result(name, milestone("match", 33.0))
                world.searcher.on_trial_complete(name, complete(50.0))
            time.sleep(1.5)  # a second failure
            assert world.writer.close(0.1) == unwritten(tmp_path) > 10
    assert caplog.text.count("fails; the sweep goes on and what is to be written waits: connection refused") == 1
    again = World(tmp_path)  # a later launch
    again.searcher.suggest("c")
    runs = again.runs()
    assert unwritten(tmp_path) == 0
    for name, state in (("s-0", "COMPLETE"), ("s-1", "COMPLETE"), ("s-2", "RUNNING")):
        assert runs[name].data.tags["state"] == state
    for name in ("s-0", "s-1"):
        assert runs[name].info.status == "FINISHED" and runs[name].data.metrics["match/cam_miou"] == 33.0
        assert len(again.client.get_metric_history(runs[name].info.run_id, "match/loss")) == 2
