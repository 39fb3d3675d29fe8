"""Trials begin where there is room for their stages, and what is suggested fits what is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from launches import sweep_of
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune.cost_aware import CostAwareSampler
from tune.costs import needs_gpu
from tune.messages import Began, Completed, Event, Progress, StageDone, Usage, encode
from tune.needs import on_gpu, some_need_no_gpu
from tune.records import trial_record
from tune.replay import replay
from tune.searcher import StudySearcher
from tune.sweep_file import Sweep
from tune.testing import MadeUp
from tune.tracking import NullTracker
from tune.values import Resources
from tune.virtual import Clock, Machines
from tune.warm_start import prepare

GPU = {"cpu": 2, "gpu": 1}
SPACE = {"match.lambda_b": {"float": [0.5, 8.0]}, "masks.background": {"float": [0.3, 0.7]}}
LATE = {"masks.background": {"float": [0.3, 0.7]}}


def sweep(**changes: Any) -> Sweep:
    return sweep_of(**{"sampler": "random", "trials": 40, "space": SPACE, "resources": GPU, **changes})


class Driver:
    """The searcher of a sweep, asked as Ray does it."""

    def __init__(self, room: int = 2, **changes: Any):
        self.began: list[int] = []
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))

        def note(number: int, event: Event) -> None:
            if isinstance(event, Began):
                self.began.append(number)

        self.searcher = StudySearcher(self.study, sweep(**changes), NullTracker(), lambda *_: "", note, lambda: room)

    def ask(self, count: int = 1) -> int:
        """How many of `count` wanted trials began."""
        before = len(self.began)
        for _ in range(count):
            self.searcher.suggest(f"trial {len(self.began)}")
        return len(self.began) - before

    def say(self, number: int, stage: str, waiting: str = "") -> None:
        self.searcher.on_trial_result(f"trial {number}", encode(Progress(stage, 0, 1, waiting)))

    def end(self, number: int) -> None:
        self.searcher.on_trial_complete(f"trial {number}", {}, error=True)


def test_as_many_trials_run_as_there_is_room_for() -> None:
    driver = Driver(room=2)
    assert driver.ask(5) == 2
    driver.end(0)
    assert driver.ask(5) == 1
    assert Driver(room=2, parallel=3).ask(5) == 5, "where the sweep says how many, Ray counts"


def test_while_trials_compute_on_cpus_others_take_their_gpus() -> None:
    driver = Driver(room=2, objective="seg_miou")
    driver.ask(2)
    driver.say(0, "match")
    driver.say(1, "masks")
    assert driver.ask(5) == 1, "one is without a GPU"
    driver.say(2, "match")
    driver.say(1, "segment")
    assert driver.ask(5) == 0
    driver.say(0, "masks")
    driver.say(1, "masks")
    driver.say(2, "masks")
    assert driver.ask(5) == 1, "but not more than twice as many as there is room for"


def test_nobody_begins_only_to_wait_too() -> None:
    driver = Driver(room=2)
    driver.ask(2)
    driver.say(0, "masks")
    driver.say(1, "match", waiting="another process")
    assert driver.ask(5) == 0
    driver.say(1, "match")
    assert driver.ask(5) == 1


def test_without_gpus_there_is_room_for_stages_and_no_more() -> None:
    driver = Driver(room=2, resources={"cpu": 1, "gpu": 0})
    driver.ask(2)
    driver.say(0, "masks")
    driver.say(1, "masks")
    assert driver.ask(5) == 0


def test_while_all_gpus_are_busy_what_needs_none_begins_and_what_needs_one_is_kept_for_later() -> None:
    driver = Driver(room=2)
    driver.ask(2)
    driver.say(0, "match")
    driver.say(1, "match")
    assert driver.ask(5) == 0 and len(driver.study.trials) == 3, "it has a weight of its own, so it needs a GPU"
    driver.end(0)
    assert driver.ask() == 1 and driver.began == [0, 1, 2] and len(driver.study.trials) == 3
    late = Driver(room=2, space=LATE)
    late.ask(2)
    late.say(0, "match")
    late.say(1, "match")
    assert late.ask(5) == 2, "they differ in what the masks read"
    networks = Driver(room=2, space=LATE, objective="seg_miou")
    networks.ask(2)
    assert networks.ask(5) == 0 and len(networks.study.trials) == 2, "each has a network to train"


def test_a_trial_that_was_kept_for_later_is_not_lost_with_the_launch() -> None:
    driver = Driver(room=1)
    driver.ask(3)
    driver.end(0)
    assert driver.searcher.unfinished and len(driver.study.trials) == 2
    again = StudySearcher(driver.study, sweep(), NullTracker(), lambda *_: "", lambda *_: None)
    numbers = [again.suggest(str(i))["number"] for i in range(3)]  # type: ignore[index, call-overload]
    assert numbers == [1, 2, 3], "it comes first"


def test_a_trial_that_was_kept_for_later_does_not_begin_when_the_budget_is_spent() -> None:
    driver = Driver(room=1, trials=None, budget=10.0)
    driver.ask(2)
    done = StageDone("match", {}, (), 11.0, False)
    driver.searcher.on_trial_result("trial 0", encode(done))
    driver.end(0)
    assert driver.ask(2) == 0 and "budget" in driver.searcher.exhausted
    kept = driver.study.trials[1]
    assert kept.state == optuna.trial.TrialState.FAIL and "not begun: the budget" in trial_record(kept).reason
    assert not driver.searcher.unfinished


@pytest.mark.parametrize("late", [(0.4, 0.5), (0.5,)], ids=["one that needs none is the last", "the last is kept"])
def test_every_point_of_a_grid_is_tried_also_one_that_was_kept_for_later(late: tuple[float, ...]) -> None:
    grid = {"match.lambda_b": {"choice": [1.0, 2.0, 3.0]}, "masks.background": {"choice": [*late]}}
    driver, points = Driver(room=1, sampler="grid", trials=None, space=grid), 3 * len(late)
    prepare(driver.study, driver.searcher._sweep)
    for number in range(points):
        driver.ask(3)
        assert len(driver.began) > number
        driver.searcher.on_trial_complete(f"trial {number}", encode(Completed((50.0,), {}, Usage())))
    driver.ask(3)
    assert len(driver.began) == points and driver.searcher.exhausted == "every point of the grid was tried"


def test_results_are_known_by_what_affects_them() -> None:
    own, one = sweep(), {"match.lambda_b": 1.0, "masks.background": 0.5}

    def trial(parameters: dict[str, Any], *stages: str) -> FrozenTrial:
        """It has computed these stages, or runs and will compute all."""
        done = {name: {"seconds": 1.0, "reused": False} for name in stages}
        return create_trial(
            state=TrialState.PRUNED if stages else TrialState.RUNNING, params=parameters,
            distributions=own.distributions(), user_attrs={"stages": done},
        )  # fmt: skip

    assert some_need_no_gpu(own) and needs_gpu(own, [], one)
    known = [trial(one)]
    assert not needs_gpu(own, known, {**one, "masks.background": 0.4})
    assert needs_gpu(own, known, {**one, "match.lambda_b": 2.0})
    known.append(trial({**one, "match.lambda_b": 2.0}, "match", "prompts", "refine", "heatmaps"))
    assert not needs_gpu(own, known, {**one, "match.lambda_b": 2.0}), "classify is the same for all"
    assert not some_need_no_gpu(sweep(objective="seg_miou"))
    assert on_gpu(sweep(resources={"cpu": 1, "gpu": 0})) >= {"masks", "match"}
    assert "masks" not in on_gpu(sweep()) and "match" in on_gpu(sweep())


@pytest.mark.parametrize("fit", ["any", "cpu", "gpu"], ids=["whatever", "without", "with one"])
def test_our_sampler_suggests_what_fits(fit: str) -> None:
    own = sweep(sampler="cost-aware", trials=12)
    done = replay(own, MadeUp(own, lambda p: 50.0 - p["match.lambda_b"] - 9 * abs(p["masks.background"] - 0.4)))
    sampler, known, needs = done.study.sampler, done.study.trials, []
    for _ in range(6):
        sampler.fit = fit  # type: ignore[attr-defined]
        trial = done.study.ask(own.distributions())
        needs.append(needs_gpu(own, known, trial.params))
        done.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert fit == "any" or set(needs) == {fit == "gpu"}


def test_our_sampler_is_told_what_is_free() -> None:
    driver = Driver(room=2)
    driver.study.sampler = sampler = CostAwareSampler(sweep(sampler="cost-aware"), 0)
    driver.ask(2)
    assert sampler.fit == "any"
    driver.say(0, "match")
    driver.say(1, "match")
    driver.ask()
    assert sampler.fit == "cpu"
    driver.say(0, "masks")
    driver.ask()  # what was kept
    driver.say(1, "masks")
    driver.say(2, "match")
    driver.ask()
    assert sampler.fit == "gpu"


# ------------------------------------------------------------------------------------------------ virtual machines
def machines(gpus: int = 2, cpus: int = 8, **resources: Any) -> tuple[Clock, Machines, list[float]]:
    return Clock(), Machines(gpus, cpus, Resources(**{"cpu": 2, "gpu": 1, **resources})), []


def run(clock: Clock) -> None:
    while clock.go_on():
        pass


def done(clock: Clock, ends: list[float]) -> Callable[[], None]:
    return lambda: ends.append(round(clock.now, 6))


def test_stages_wait_for_what_they_need_and_whichever_fits_goes_first() -> None:
    clock, own, ends = machines()
    for seconds in (10.0, 20.0, 30.0):
        own.compute(clock, True, seconds, 0.0, done(clock, ends))
    own.compute(clock, False, 5.0, 0.0, done(clock, ends))
    run(clock)
    assert ends == [5.0, 10.0, 20.0, 40.0] and own.slots == 2
    assert own.busy(0.0, 40.0) == pytest.approx(60 / 80) and own.busy(20.0, 40.0) == pytest.approx(0.5)


def test_parts_of_a_stage_share_all_cpus_while_it_keeps_its_gpu() -> None:
    clock, own, ends = machines(gpus=1)
    own.compute(clock, True, 10.0, 80.0, done(clock, ends))  # 16 parts of 5 s on 8 CPUs
    own.compute(clock, True, 1.0, 0.0, done(clock, ends))
    run(clock)
    assert ends == [20.0, 21.0]
    clock, own, ends = machines()
    own.compute(clock, False, 0.0, 20.0, done(clock, ends))
    run(clock)
    assert ends == [5.0] and own.held == [(0.0, 5.0, 0)]


def test_a_replay_on_machines_is_as_quick_as_its_gpus_allow() -> None:
    own = sweep(trials=24)
    answers = MadeUp(own, lambda p: 50.0 - p["match.lambda_b"])
    at = replay(own, answers, workers=4)
    on = replay(own, answers, machines=Machines(4, 64, Resources(**GPU)))
    assert {tuple(t.values) for t in on.study.trials} == {tuple(t.values) for t in at.study.trials}
    assert on.ends[-1].clock < at.ends[-1].clock, "masks are made beside"
    assert on.ends[-1].clock >= sum(end - start for start, end in on.computing) * 0.9 / 4 - 30
