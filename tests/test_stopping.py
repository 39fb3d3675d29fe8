"""When a trial is stopped: the rules, and the scheduler that follows them."""

from __future__ import annotations

from ray.tune.schedulers import TrialScheduler
from searches import RayTrial, everywhere, milestone

from tune.messages import Progress, encode
from tune.scheduler import MilestoneStopping
from tune.stopping import asha, median


def test_successive_halving_lets_the_best_third_go_on() -> None:
    assert not asha().stops(1.0, [2.0, 3.0, 4.0])  # too few
    others = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [asha().stops(score, others) for score in (6.0, 4.5, 3.5)] == [False, False, True]


def test_trials_that_share_a_result_are_one_score() -> None:
    scheduler = MilestoneStopping(everywhere(median()), {"match": {n: 40.0 for n in range(9)}})
    assert scheduler.on_trial_result(None, RayTrial(9), milestone("match", 39.0)) == TrialScheduler.CONTINUE


def test_falling_behind_needs_enough_others() -> None:
    assert not median().stops(1.0, [2.0, 3.0, 4.0])
    assert median().stops(1.0, [2.0, 3.0, 4.0, 0.5])
    assert not median().stops(2.5, [2.0, 3.0, 4.0, 0.5])


def test_the_scheduler_compares_the_same_milestone_only() -> None:
    earlier = {"classify": {n: 10.0 + n for n in range(6)}, "match": {n: 40.0 + n for n in range(6)}}
    scheduler = MilestoneStopping(everywhere(median()), earlier)
    decide = lambda number, stage, score: scheduler.on_trial_result(None, RayTrial(number), milestone(stage, score))  # noqa: E731
    assert decide(7, "classify", 14.0) == TrialScheduler.CONTINUE  # far below every score of match
    assert decide(7, "match", 14.0) == TrialScheduler.STOP
    assert decide(0, "match", 1.0) == TrialScheduler.CONTINUE  # the default is never stopped
    assert decide(8, "refine", 1.0) == TrialScheduler.CONTINUE  # nobody has been there
    assert scheduler.on_trial_result(None, RayTrial(7), encode(Progress("match", 1, 9))) == TrialScheduler.CONTINUE


def test_nobody_is_stopped_before_the_default_has_passed() -> None:
    scheduler = MilestoneStopping(everywhere(median()), {"match": {n: 40.0 + n for n in range(1, 7)}})
    assert scheduler.on_trial_result(None, RayTrial(7), milestone("match", 1.0)) == TrialScheduler.CONTINUE
