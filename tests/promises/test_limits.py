"""What a sweep may take is kept: trials, compute, time, the limits of a trial, and the gates at which trials are
stopped; and what lies exactly on a boundary falls on the side that the words say.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from conftest import TINY
from launches import CONTINUOUS, Machine, go, launched, sweep_of
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from searches import complete, everywhere, milestone

from semples import preflight
from semples.config import override
from semples.errors import UserError
from semples.pipeline.graph import STAGES
from semples.store import GB
from tune.cost_aware import CostAwareSampler
from tune.messages import Completed, EpochDone, Failed, State, Usage, encode
from tune.mlflow_writer import entries
from tune.outside import MAX_FAILURES
from tune.records import is_duplicate, trial_record
from tune.scheduler import MilestoneStopping
from tune.searcher import FAILURES, LATER_FAILURES, REPEATS, StudySearcher
from tune.space import GRID
from tune.stage_tasks import WAITING
from tune.stopping import asha, is_compared, median, never, rules
from tune.study import pareto_front, ranked
from tune.sweep_file import Sweep, load_sweep
from tune.testing import own
from tune.tracking import NullTracker
from tune.warm_start import prepare


def searching(study: optuna.Study | None = None, **changes: Any) -> StudySearcher:
    """A launch, whose trials end as a test says."""
    sweep = sweep_of(**{"sampler": "random", "space": CONTINUOUS, **changes})
    study = prepare(study or optuna.create_study(directions=sweep.directions), sweep)
    return StudySearcher(study, sweep, NullTracker(), lambda number, parameters: "run", lambda *_: None)


def end(searcher: StudySearcher, name: str, last: dict[str, Any], error: bool = False) -> bool:
    """Suggest a trial and let it end; False if there are to be no more."""
    if not isinstance(searcher.suggest(name), dict):
        return False
    searcher.on_trial_complete(name, last, error)
    return True


def test_as_many_trials_come_through_as_were_asked_for() -> None:
    sweep = sweep_of(sampler="random", space=CONTINUOUS, trials=5)
    for workers in (1, 3):
        done = go(sweep, workers=workers, injected_fault=lambda number: "fail" if number in (1, 2) else "")
        states = [t.state for t in own(done.study)]
        assert states.count(TrialState.COMPLETE) == 5 and states.count(TrialState.FAIL) == 2 and len(states) == 7


def test_no_trial_is_begun_once_the_budget_is_spent() -> None:
    for budget, another in ((6.0, False), (6.001, True), (5.999, False)):
        searcher = searching(trials=None, budget=budget)
        searcher.suggest("a")
        for stage in ("match", "refine", "match"):  # three seconds each; its process died, and it is done again
            searcher.on_trial_result("a", milestone(stage, 33.0))
        searcher.on_trial_result("a", milestone("classify", 33.0))  # found in the store
        searcher.on_trial_complete("a", complete(50.0))
        assert isinstance(searcher.suggest("b"), dict) is another


def test_a_trial_that_runs_when_the_budget_is_spent_is_ended() -> None:
    searcher = searching(trials=None, budget=3.0)
    searcher.suggest("a")
    searcher.on_trial_result("a", milestone("match", 33.0))
    assert searcher.suggest("b") == "FINISHED" and searcher.exhausted == "the budget of 3 compute seconds is spent"
    searcher.on_trial_result("a", milestone("refine", 34.0))
    searcher.on_trial_complete("a", complete(50.0))
    assert searcher._study.get_trials()[0].values == [50.0]


def test_no_trial_is_begun_once_the_time_limit_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("tune.searcher.time", SimpleNamespace(monotonic=lambda: now[0]))
    searcher = searching(trials=None, time_limit=10.0)
    for name, seconds, another in (("a", 0.0, True), ("b", 9.9, True), ("c", 10.0, False)):
        now[0] = 1000.0 + seconds
        assert end(searcher, name, complete(50.0)) is another
    assert searcher.exhausted == "the time limit of 10 s is over"
    assert end(searching(searcher._study, trials=None, time_limit=10.0), "d", complete(52.0)), "each launch has its own"


def taking(value: float, seconds: float, gpu_gb: float) -> dict[str, Any]:
    return encode(Completed((value,), {"pseudo_miou": value}, Usage(seconds, gpu_gb)))


def test_a_trial_above_any_limit_is_never_the_best_and_one_that_takes_just_that_may_be() -> None:
    limits = {"seconds": 9.0, "gpu_gb": 4.0}
    searcher = searching(limits=limits)
    took = [(9.0, 4.0), (9.001, 1.0), (1.0, 4.001), (1.0, 1.0), (20.0, 9.0)]
    for number, (seconds, gpu_gb) in enumerate(took):
        end(searcher, str(number), taking(50.0 + number, seconds, gpu_gb))
    study, sweep = searcher._study, sweep_of(limits=limits)
    assert [t.number for t in ranked(study, sweep)] == [3, 0] and [t.number for t in pareto_front(study, sweep)] == [3]
    assert [t.number for t in ranked(study, sweep_of())] == [4, 3, 2, 1, 0]


def test_the_sampler_is_told_by_how_much_a_trial_is_above_a_limit() -> None:
    """As Optuna has it: what is above 0 is not allowed."""
    searcher = searching(limits={"seconds": 9.0, "gpu_gb": 4.0}, early_stopping="median")
    end(searcher, "a", taking(50.0, 12.0, 3.0))
    end(searcher, "b", milestone("match", 10.0))
    end(searcher, "c", encode(Failed("x")))
    above, *others = (t.constraints for t in searcher._study.get_trials())
    assert above == {"seconds": 3.0, "gpu_gb": -1.0}
    assert others == [{"seconds": -9.0, "gpu_gb": -4.0}] * 2, "not known to be above any"


def test_a_trial_above_a_limit_is_worth_as_little_as_the_worst() -> None:
    searcher = searching(limits={"seconds": 9.0}, sampler="cost-aware")
    for number, (value, seconds) in enumerate([(50.0, 9.0), (90.0, 9.5), (40.0, 1.0), (60.0, 1.0)]):
        end(searcher, str(number), taking(value, seconds, 0.0))
    end(searcher, "failed", encode(Failed("x")))
    sampler = CostAwareSampler(searcher._sweep, 0)
    rows, values = sampler._observations(searcher._study.get_trials())
    assert values.tolist() == [50.0, 40.0, 40.0, 60.0, 40.0] and len(rows) == 5


def decide(scheduler: MilestoneStopping, number: int, stage: str, score: float) -> bool:
    """Whether the trial is stopped there."""
    trial = SimpleNamespace(config={"number": number})
    return scheduler.on_trial_result(None, trial, milestone(stage, score)) == TrialScheduler.STOP


PASSED = {name: {n: 40.0 + n for n in range(6)} for name in ("classify", "match", "masks")}  # 40, 41, ... 45


def test_the_worse_are_stopped_and_the_better_are_not() -> None:
    found = {
        rule: [decide(MilestoneStopping(everywhere(rule()), PASSED), 7, "match", score) for score in scores]
        for rule, scores in {
            median: (1.0, 42.4, 42.5, 42.6, 99.0), asha: (1.0, 42.9, 43.1, 99.0), never: (1.0, 99.0),
        }.items()
    }  # fmt: skip
    assert found == {
        median: [True, True, False, False, False], asha: [True, True, False, False], never: [False, False],
    }  # fmt: skip


CAMS = ["classify", "match", "refine", "heatmaps"]


def test_nobody_is_stopped_where_nothing_is_saved_any_more() -> None:
    for rule in ("median", "asha"):
        assert [*rules(sweep_of(early_stopping=rule))] == CAMS, "masks is where it ends"
        assert [*rules(sweep_of(early_stopping=rule, objective="seg_miou"))] == [*CAMS, "masks", "epochs of segment"]


def test_the_gate_before_networks_lets_the_best_share_through() -> None:
    shut = rules(sweep_of(objective="seg_miou", gate=0.4))
    assert [*shut] == [*CAMS, "masks", "epochs of segment"] and not shut["match"].stops(1.0, [2.0, 3.0, 4.0, 5.0])
    others = [1.0, 2.0, 3.0, 4.0]
    # of five the best two go on
    assert [shut["masks"].stops(score, others) for score in (4.5, 3.5, 2.5, 0.5)] == [False, False, True, True]
    assert not shut["masks"].stops(0.5, others[1:]), "four others are needed"
    assert not rules(sweep_of(objective="seg_miou", gate=1))["masks"].stops(0.5, others), "it is open"
    assert not rules(sweep_of(gate=0.4))["heatmaps"].stops(0.5, others), "without a network there is none"
    both = rules(sweep_of(objective="seg_miou", gate=0.9, early_stopping="median"))["masks"]
    assert both.stops(2.4, others) and both.reason == "below the median or not in the best 90%"


def test_the_better_half_trains_networks_unless_all_are_asked_for() -> None:
    said = {key: value for key, value in sweep_of(objective="seg_miou").model_dump().items() if key != "gate"}
    others = [1.0, 2.0, 3.0, 4.0]
    by_default = rules(Sweep.model_validate(said))["masks"]
    assert [by_default.stops(score, others) for score in (3.5, 2.5, 1.5)] == [False, False, True]
    assert not rules(sweep_of(objective="seg_miou", gate=1))["masks"].stops(0.5, others)


def test_a_trial_that_does_not_pass_the_gate_trains_no_network_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    space = {"match.lambda_b": {"choice": [float(n) for n in range(1, 9)]}}
    _, study = launched(tmp_path, objective="seg_miou", gate=0.5, space=space)
    records = [trial_record(trial) for trial in own(study)]
    gated = [record for record in records if record.state == State.PRUNED]
    assert len(gated) >= 2 and machine.computed.count("segment") == len(records) - len(gated)
    assert {record.reason for record in gated} == {"not in the best 50% at masks"}
    assert records[0].state == State.COMPLETE, "the default goes through"


def test_trials_are_compared_after_some_epochs_of_the_network() -> None:
    assert [epoch for epoch in range(100) if is_compared(epoch)] == [1, 3, 9, 27, 81]


def test_a_network_that_is_worse_than_others_at_the_same_epoch_is_trained_no_further() -> None:
    passed = {"segment, epoch 3": {n: 40.0 + n for n in range(6)}, "segment": {n: 80.0 for n in range(6)}}
    shut = rules(sweep_of(early_stopping="median", objective="seg_miou"))
    trial = SimpleNamespace(config={"number": 7})
    found = []
    for epoch, score in ((1, 1.0), (2, 1.0), (3, 42.6), (3, 42.4), (4, 1.0)):
        message = encode(EpochDone("segment", epoch, 40, score))
        found.append(MilestoneStopping(shut, passed).on_trial_result(None, trial, message) == TrialScheduler.STOP)
    assert found == [False, False, False, True, False]
    open_ = MilestoneStopping(rules(sweep_of(objective="seg_miou", gate=0.5)), passed)
    worst = encode(EpochDone("segment", 3, 40, 1.0))
    assert open_.on_trial_result(None, trial, worst) == TrialScheduler.CONTINUE, "the gate stands before networks"


def test_a_trial_that_is_stopped_while_its_network_trains_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a later launch knows the scores of its epochs."""
    machine, stages = Machine(monkeypatch), {"early_stopping": "median", "objective": "seg_miou"}
    for stage in (*CAMS, "masks"):  # open until the network
        monkeypatch.setitem(STAGES, stage, replace(STAGES[stage], milestone=None))
    launched(tmp_path, trials=4, **stages)
    assert machine.computed.count("segment") == 4
    _, study = launched(tmp_path, trials=5, **stages)
    record = trial_record(own(study)[-1])
    assert (record.state, record.reason) == (State.PRUNED, "below the median at segment, epoch 1")
    assert record.epochs == {"segment": {1: 44.0}} and "segment" not in record.stages
    assert [*trial_record(own(study)[0]).epochs["segment"].values()] == [48.0, 49.0]
    logged = [(e["run"][-4:], *m) for _, e in entries(tmp_path / "s") if e["what"] == "log" for m in e["metrics"]]
    judged = {(run, value, step) for run, name, value, step in logged if name == "segment/seg_miou_judged"}
    assert judged >= {("0004", 44.0, 1), ("0000", 48.0, 1), ("0000", 49.0, 2)} and len(judged) == 9


def test_scores_of_another_milestone_stop_nobody() -> None:
    scheduler = MilestoneStopping(everywhere(median()), {"match": PASSED["match"], "classify": {0: 3.0, 1: 2.0}})
    assert not decide(scheduler, 7, "classify", 2.5)
    assert not decide(scheduler, 8, "heatmaps", 1.0)


def test_four_different_scores_of_others_are_needed() -> None:
    for rule in (median, asha):
        scheduler = MilestoneStopping(everywhere(rule()), {})
        scores = (50.0, 49.0, 49.0, 48.0, 47.0, 46.0, 45.0)  # the first is the default's
        found = [decide(scheduler, number, "match", score) for number, score in enumerate(scores)]
        assert found == [False] * 5 + [True, True]


def test_a_trial_that_reports_again_is_not_compared_with_itself() -> None:
    scheduler = MilestoneStopping(everywhere(median()), {"match": {0: 50.0, 1: 49.0, 2: 48.0}})
    assert [decide(scheduler, 7, "match", score) for score in (40.0, 41.0)] == [False, False]


def test_the_default_is_never_stopped_whatever_its_number() -> None:
    scheduler = MilestoneStopping(everywhere(median()), PASSED, lambda number: number == 9)
    assert not decide(scheduler, 9, "match", 1.0) and decide(scheduler, 10, "match", 1.5)


def test_a_launch_knows_which_trial_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    launched(tmp_path, trials=3, early_stopping="asha")
    scheduler = machine.asked["tune_config"].scheduler
    assert [scheduler._is_default(number) for number in range(3)] == [True, False, False]
    stops = scheduler._rules["match"].stops
    assert not stops(2.0, [3.0, 1.0, 0.0, 0.0]) and stops(2.0, [3.0, 3.5, 1.0, 0.0])


def test_a_search_stops_after_so_many_equal_failures_and_not_before() -> None:
    reasons = (f"no space left in trials/{n:04d}" for n in itertools.count())
    searcher = searching(trials=None, budget=1e6)
    failed = [end(searcher, "x", encode(Failed(next(reasons)))) for _ in range(FAILURES + 1)]
    assert failed == [True] * FAILURES + [False] and searcher.failing
    assert searcher.exhausted.startswith("5 trials in a row failed for one reason: no space left")


def test_once_some_came_through_more_failures_are_borne() -> None:
    failed = encode(Failed("diverged"))
    for came_through in (complete(50.0), milestone("match", 10.0)):
        searcher = searching(trials=None, budget=1e6, early_stopping="median")
        for last in (*[failed] * (FAILURES - 1), came_through):
            end(searcher, "x", last)
        found = [end(searcher, "x", failed) for _ in range(LATER_FAILURES + 1)]
        assert found == [True] * LATER_FAILURES + [False], "counted from then on"


def test_trials_that_are_lost_one_after_another_end_a_search_too() -> None:
    searcher = searching(trials=None, budget=1e6)
    assert [end(searcher, "x", {}, error=True) for _ in range(FAILURES + 1)] == [True] * FAILURES + [False]
    assert "more often than it is retried" in searcher.exhausted


def test_a_search_is_over_after_a_hundred_repeated_suggestions() -> None:
    searcher = searching(space={"prompts.count": {"int": [1, 2]}}, trials=None, budget=1e6)
    ran = 0
    while end(searcher, str(ran), complete(50.0 + ran)):
        ran += 1
    newest = [is_duplicate(t) for t in searcher._study.get_trials()][-REPEATS:]
    assert ran == 2 and newest == [True] * 100
    assert searcher.exhausted == "100 suggestions in a row had been tried before"


def test_a_grid_has_ten_thousand_points_at_most() -> None:
    grid = lambda count: sweep_of(trials=None, space={"prompts.count": {"int": [1, count]}}).grid()  # noqa: E731
    assert sum(1 for _ in grid(GRID)) == GRID
    with pytest.raises(UserError, match="a grid of 10001 points is more than 10000"):
        next(grid(GRID + 1))


def test_ray_and_the_store_are_given_the_limits_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, quotas = Machine(monkeypatch), []
    monkeypatch.setattr("tune.trial.open_store", lambda *words: quotas.append(words[-1]) or sys.exit())
    launched_with = {"trials": 3, "parallel": 2, "store_gb": 1.5, "resources": {"cpu": 3, "gpu": 0}}
    with pytest.raises(SystemExit):
        launched(tmp_path, **launched_with)
    asked = machine.asked
    assert (asked["tune_config"].num_samples, asked["tune_config"].max_concurrent_trials) == (3, 2)
    assert asked["run_config"].failure_config.max_failures == MAX_FAILURES == 3
    assert asked["quota"] == 1.5 == quotas[0] and GB == 1e9
    assert asked["resources"]({}).required_resources == {"memory": WAITING}  # of a trial, whose stages ask for theirs
    assert asked["of_stages"].of_stage(True) == {"num_cpus": 3.0, "num_gpus": 0}


def test_without_a_number_of_trials_ray_asks_until_there_are_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    why, study = launched(tmp_path, trials=None, parallel=0, space={"match.lambda_b": {"choice": [1.0, 2.0]}})
    assert machine.asked["tune_config"].num_samples == -1
    assert machine.asked["tune_config"].max_concurrent_trials is None
    assert why == "every point of the grid was tried" and len(own(study)) == 2


def test_a_launch_of_which_every_trial_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.diverges = 1.0
    with pytest.raises(UserError, match=r"no trial came through; match diverged; lower match\.lambda_b"):
        launched(tmp_path, trials=1)
    assert (tmp_path / "s" / "trials" / "0000" / "error.txt").exists()


def test_a_limit_is_a_number_that_makes_sense(tmp_path: Path) -> None:
    tree = override(sweep_of().model_dump(mode="json", exclude_none=True, exclude={"base"}), {"base": TINY})
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(tree))
    for allowed in (
        {"trials": 1},
        {"budget": "1s"},
        {"time_limit": "36500d"},
        {"resources.gpu": 0.5},
        {"resources.cpu": 2},
    ):
        assert isinstance(load_sweep(file, allowed), Sweep)
    refused: list[dict[str, Any]] = [
        {"trials": 0}, {"budget": "0s"}, {"time_limit": "36501d"}, {"limits.seconds": 0}, {"resources.cpu": 1.5},
        {"store_gb": 0}, {"parallel": -1},
    ]  # fmt: skip
    for change in refused:
        with pytest.raises(UserError, match=next(iter(change)).split(".")[0]):
            load_sweep(file, change)


def test_an_expected_value_of_a_stopped_trial_is_that_of_others_with_its_score() -> None:
    searcher = searching(sampler="cost-aware", early_stopping="median", trials=20)
    for number in range(6):
        searcher.suggest(str(number))
        searcher.on_trial_result(str(number), milestone("match", 30.0 + number))
        searcher.on_trial_complete(str(number), complete(60.0 + 2 * number))
    end(searcher, "stopped", milestone("match", 20.0))
    _, values = CostAwareSampler(searcher._sweep, 0)._observations(searcher._study.get_trials())
    assert np.allclose(values, [60.0, 62.0, 64.0, 66.0, 68.0, 70.0, 40.0])


def test_the_longest_prompts_that_a_sweep_may_try_must_fit_before_its_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    monkeypatch.setattr("tune.driver.check", preflight.check)
    space = {"prompts.length": {"int": [4, 40], "step": 4}}
    with pytest.raises(UserError, match=r"prompts\.length 40 does not fit this CLIP's text tower"):
        launched(tmp_path, sampler="random", base={**TINY, "prompts.length": 8}, space=space)
    assert not machine.computed and not (tmp_path / "s" / "sweep.yaml").exists()
