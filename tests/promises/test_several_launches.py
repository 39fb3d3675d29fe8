"""A sweep may be launched as often as one likes: together the launches do what a single one would have done.

What was finished is never repeated, what failed is made up for, what was interrupted is handed out again, and what
earlier launches spent, scored and suggested counts in later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from launches import CONTINUOUS, LAMBDAS, Machine, go, launched, sweep_of
from optuna.trial import TrialState
from searches import World, complete

from semples.errors import UserError
from semples.folders import claim, kind_of
from tune.driver import DONE, trials_to_go
from tune.places import STORE
from tune.records import compute_seconds, is_duplicate, trial_record
from tune.replay import TrialEnd
from tune.study import create_study, load_study, pareto_front, passed_milestones, ranked
from tune.sweep_file import Sweep
from tune.sweep_folder import check_same, load_launched, record
from tune.testing import JUDGED, SECONDS, own
from tune.warm_start import open_study


def outcome(study: optuna.Study) -> list[tuple[int, dict[str, Any], TrialState, list[float] | None]]:
    return [(t.number, t.params, t.state, t.values) for t in study.get_trials() if t.state != TrialState.WAITING]


def interrupt(after: int) -> Callable[[TrialEnd], bool]:
    """Ends a replay when that many trials have ended."""
    ended: set[int] = set()
    return lambda end: ended.add(end.number) or len(ended) >= after


def test_launches_in_a_row_find_what_a_single_one_finds() -> None:
    single = go(sweep_of()).study
    study = None
    for trials in (3, 4, 8):
        study = go(sweep_of(trials=trials), study).study
    assert study is not None and outcome(study) == outcome(single) and len(outcome(single)) == 8


def test_a_launch_with_nothing_to_do_does_nothing() -> None:
    study = go(sweep_of()).study
    before = outcome(study)
    again = go(sweep_of(), study)
    assert outcome(study) == before and not again.ends and not again.suggestions


def test_what_is_minimised_stays_minimised(tmp_path: Path) -> None:
    sweep = sweep_of(objective=["seconds", "pseudo_miou"])
    word = {"seconds": "MINIMIZE", "pseudo_miou": "MAXIMIZE"}
    for study in (open_study(tmp_path, sweep), open_study(tmp_path, sweep), load_study(tmp_path, sweep)):
        assert [d.name for d in study.directions] == [word[one.metric] for one in sweep.objectives]


def test_a_front_over_launches_has_the_cheap_and_the_good() -> None:
    changes: dict[str, Any] = {"objective": ["pseudo_miou", "seconds"]}
    study = go(sweep_of(**changes, trials=3)).study
    go(sweep_of(**changes, trials=8), study)
    assert [t.params for t in pareto_front(study, sweep_of(**changes))] == [{"match.lambda_b": 1.0}]


def test_a_sampler_goes_on_where_it_was_instead_of_suggesting_the_same_again() -> None:
    sweep = sweep_of(sampler="random", space=CONTINUOUS, trials=4)
    study = go(sweep).study
    go(sweep_of(sampler="random", space=CONTINUOUS, trials=8), study)
    assert len(study.get_trials()) == 8 and len({t.params["match.lambda_b"] for t in study.get_trials()}) == 8


def test_the_seed_of_a_sweep_is_that_of_its_suggestions() -> None:
    given = [
        [t.params for t in go(sweep_of(sampler="random", space=CONTINUOUS, trials=4, seed=s)).study.get_trials()]
        for s in (0, 0, 1)
    ]
    assert given[0] == given[1] and given[0][0] == given[2][0], "the default is first"
    assert not [p for p in given[2][1:] if p in given[0][1:]]


def test_trials_that_failed_are_made_up_for(tmp_path: Path) -> None:
    sweep = sweep_of(sampler="random", space=CONTINUOUS, trials=6, study="journal")
    study = create_study(tmp_path, sweep)
    go(
        sweep,
        study,
        injected_fault=lambda number: {1: "fail", 2: "nan", 3: "lost"}.get(number, ""),
        enough=interrupt(5),
    )
    # two complete ones, three that failed, one that was going on to begin
    assert [t.state for t in own(study)].count(TrialState.FAIL) == 3
    assert trials_to_go(sweep, tmp_path) == 4
    go(sweep, study)
    assert len(ranked(study, sweep)) == 6 and trials_to_go(sweep, tmp_path) == 0


def test_a_trial_that_was_stopped_early_is_done(tmp_path: Path) -> None:
    sweep = sweep_of(early_stopping="median", study="journal")
    study = create_study(tmp_path, sweep)
    go(sweep, study)
    states = [t.state for t in own(study)]
    assert TrialState.PRUNED in states and len(states) == 8 and trials_to_go(sweep, tmp_path) == 0


def test_what_failed_may_be_suggested_again_and_what_came_through_may_not() -> None:
    space = {"prompts.count": {"int": [1, 2]}}
    judge = lambda p: 40.0 + p["prompts.count"]  # noqa: E731
    sweep = sweep_of(sampler="random", space=space, trials=2)
    study = go(sweep, judge=judge, injected_fault=lambda number: "fail" if number else "", enough=interrupt(2)).study
    failed = [t.params for t in study.get_trials() if t.state == TrialState.FAIL]
    assert failed == [{"prompts.count": 2}] or go(sweep, study, judge=judge).ends
    go(sweep_of(sampler="random", space=space, trials=3), study, judge=judge)
    complete = [t.params["prompts.count"] for t in own(study) if t.state == TrialState.COMPLETE]
    assert sorted(complete) == [1, 2]


def test_interrupted_trials_are_handed_out_again_first_with_the_same_parameters(tmp_path: Path) -> None:
    sweep = sweep_of(sampler="random", space=CONTINUOUS, study="journal")
    study = create_study(tmp_path, sweep)
    go(sweep, study, workers=3, enough=interrupt(2))
    running = {t.number: t.params for t in study.get_trials() if t.state == TrialState.RUNNING}
    assert len(running) == 2 and trials_to_go(sweep, tmp_path) == 6
    assert trials_to_go(sweep.changed(trials=1), tmp_path) == 2, "what was begun is ended"
    again = go(sweep, study)
    assert [end.number for end in again.ends][:2] == sorted(running)
    trials = study.get_trials()
    assert {n: trials[n].params for n in running} == running
    assert len(trials) == 8 and {t.state for t in trials} == {TrialState.COMPLETE}


def test_the_budget_counts_what_all_launches_computed_and_nothing_that_was_reused() -> None:
    space = {"masks.background": {"float": [0.3, 0.7]}}
    judge = lambda p: 50.0  # noqa: E731
    whole = sum(SECONDS[name] for name in JUDGED)
    sweep = sweep_of(sampler="random", space=space, trials=None, budget=whole + 7 * SECONDS["masks"])
    single = go(sweep, judge=judge).study
    assert len(own(single)) == 8, "all but the first find everything but their masks in the store"
    study = go(sweep, judge=judge, enough=interrupt(3)).study
    assert compute_seconds(map(trial_record, study.get_trials()))[0] == whole + 2 * SECONDS["masks"]
    go(sweep, study, judge=judge, reuse=True)
    # the store of a replay is new, so the first trial of this launch computed the early stages again
    assert compute_seconds(map(trial_record, study.get_trials()))[0] >= sweep.budget
    before_last = compute_seconds(map(trial_record, study.get_trials()[:-1]))[0]
    assert before_last < sweep.budget  # type: ignore[operator]


def test_scores_of_earlier_launches_stop_a_trial_of_a_later_one() -> None:
    for rule in ("median", "asha"):
        sweep = sweep_of(early_stopping=rule, trials=6)
        study = go(sweep_of(early_stopping="none", trials=6)).study
        assert set(passed_milestones(study)["match"].values()) == {50.0 - x for x in LAMBDAS[:6]}
        last = go(sweep.changed(trials=7), study)
        (end,) = last.ends
        assert end.state == "PRUNED" and study.get_trials()[end.number].params == {"match.lambda_b": 7.0}


def test_a_suggestion_that_an_earlier_launch_tried_is_answered_by_it_and_not_counted() -> None:
    study = go(sweep_of(trials=3)).study
    study.enqueue_trial({"match.lambda_b": 2.0})
    done = go(sweep_of(trials=None), study)
    (repeated,) = (t for t in study.get_trials() if is_duplicate(t))
    assert trial_record(repeated).duplicate_of == 1 and repeated.values == study.get_trials()[1].values
    assert len(done.ends) == 5 and len(ranked(study, sweep_of())) == 8 == len(own(study))


def test_every_point_of_a_grid_runs_once_over_launches() -> None:
    space = {"match.lambda_b": {"choice": LAMBDAS[:2]}, "prompts.count": {"int": [1, 3]}}
    study = None
    for trials in (1, 4, None, None):
        study = go(sweep_of(space=space, trials=trials), study).study
    assert study is not None
    points = [tuple(t.params.values()) for t in study.get_trials()]
    assert len(points) == len(set(points)) == 6
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}


def warm(folder: Path, trials: int = 8) -> Sweep:
    """A sweep that begins with the best of another one in `folder`/first."""
    first = sweep_of(name="first", study="journal")
    if not (folder / "first").exists():
        (folder / "first").mkdir()
        (folder / "first" / "sweep.yaml").write_text(yaml.safe_dump(first.model_dump(mode="json", exclude_none=True)))
    own = first.changed(trials=trials)
    go(own, create_study(folder / "first", first), judge=lambda p: p["match.lambda_b"])
    return sweep_of(warm_start=str(folder / "first"), sampler="random", space=CONTINUOUS)


def test_a_warm_start_comes_once_the_best_first(tmp_path: Path) -> None:
    study = go(warm(tmp_path, 5).changed(trials=3)).study
    go(warm(tmp_path, 8), study)  # meanwhile the other one has found better
    given = [t.params["match.lambda_b"] for t in study.get_trials()]
    assert given[:5] == [1.0, 5.0, 4.0, 3.0, 2.0], "the default, then the others"
    assert len(given) == 8 and not {6.0, 7.0, 8.0} & {*given}


def test_of_a_warm_start_the_best_five_are_tried(tmp_path: Path) -> None:
    assert [t.params["match.lambda_b"] for t in own(go(warm(tmp_path)).study)][:6] == [1.0, 8.0, 7.0, 6.0, 5.0, 4.0]


def test_a_warm_start_leaves_out_what_this_space_does_not_hold(tmp_path: Path) -> None:
    sweep = warm(tmp_path).model_copy(
        update={"space": sweep_of(space={"match.lambda_b": {"float": [1.0, 6.5]}}).space, "trials": 4}
    )
    assert [t.params["match.lambda_b"] for t in own(go(sweep).study)] == [1.0, 6.0, 5.0, 4.0]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(monkeypatch)


def test_real_launches_in_a_row_compute_nothing_twice(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    why, study = launched(tmp_path, trials=2)
    assert why == DONE and len(own(study)) == 2
    first = [Path(p).stat().st_mtime_ns for p in sorted((tmp_path / "s" / "trials").rglob("*.json"))]
    computed = len(machine.computed)
    with monkeypatch.context() as patch:
        patch.setattr("tune.driver.joined", None)  # Ray is not even started
        assert launched(tmp_path, trials=2)[0] == DONE and len(machine.computed) == computed
    why, study = launched(tmp_path, trials=4)
    assert why == DONE and machine.asked["tune_config"].num_samples == 2
    assert [t.params["match.lambda_b"] for t in own(study)] == [1.0, 2.0, 3.0, 4.0]
    assert machine.computed.count("classify") == 1 and machine.computed.count("masks") == 4
    assert "segment" not in machine.computed, "pseudo masks are all that is asked for"
    again = [Path(p).stat().st_mtime_ns for p in sorted((tmp_path / "s" / "trials").rglob("*.json"))]
    assert again[: len(first)] == first
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.name.startswith(".ray-")) == []


def test_a_real_launch_that_is_interrupted_goes_on_with_the_same_trial(tmp_path: Path, machine: Machine) -> None:
    machine.left = 10  # in the second trial
    why, study = launched(tmp_path, trials=3)
    assert why == "" and [t.state.name for t in study.get_trials()][:2] == ["COMPLETE", "RUNNING"]
    assert study.get_trials()[1].params == {"match.lambda_b": 2.0}
    machine.left = 10**9
    why, study = launched(tmp_path, trials=3)
    assert why == DONE and [t.params["match.lambda_b"] for t in own(study)] == [1.0, 2.0, 3.0]
    assert machine.computed.count("match") == 3, "what was finished before the interrupt was kept"


def test_a_real_launch_stops_by_the_scores_of_the_one_before(tmp_path: Path, machine: Machine) -> None:
    launched(tmp_path, trials=5, early_stopping="median")
    _, study = launched(tmp_path, trials=6, early_stopping="median")
    last = own(study)[-1]
    assert last.state == TrialState.PRUNED and trial_record(last).reason == "below the median at match"


def test_a_later_launch_may_change_how_long_it_goes_on_and_nothing_that_was_chosen_by(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    claim(folder, "sweep")
    record(sweep_of(), folder)
    for free in (
        {"trials": 3},
        {"budget": 1e6},
        {"time_limit": 9.0},
        {"parallel": 2},
        {"sampler": "tpe"},
        {"store_gb": 1.0},
        {"report": "leaders"},
        {"gate": 0.25},
        {"stop_when": 0.1, "sampler": "cost-aware"},
    ):
        assert check_same(sweep_of(**free), folder).name == "s"
    fixed: list[dict[str, Any]] = [
        {"selection": "oracle"}, {"objective": "seg_miou"}, {"limits": {"seconds": 9}}, {"seed": 1},
        {"early_stopping": "asha"}, {"warm_start": "x"}, {"study": "journal"}, {"space": CONTINUOUS},
    ]  # fmt: skip
    for changes in fixed:
        with pytest.raises(UserError, match=f"holds a sweep with another '{next(iter(changes))}'"):
            check_same(sweep_of(**changes), folder)
    for base in ({"match.lr": 0.5}, {"seed": 1}, {"data.holdout": 9}):
        with pytest.raises(UserError, match="another base configuration"):
            check_same(sweep_of(base=base), folder)


def test_the_stored_results_are_found_again_wherever_the_launch_is_given(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    launched(out, trials=1, store="shared")
    place = str(tmp_path / "shared")
    assert machine.asked["store"] == load_launched(out / "s").store == place and kind_of(Path(place)) == "store"
    assert not (out / "s" / STORE).exists()


def test_a_driver_that_is_killed_while_it_draws_suggests_nothing_twice_afterwards(tmp_path: Path) -> None:
    """The next two launches see as many trials as each other, so their samplers begin alike."""
    first = World(tmp_path, sampler="random")
    first.searcher.suggest("a")
    first.searcher.on_trial_complete("a", complete(50.0))
    first.study.ask()  # and it is killed before a value is drawn
    drawn = World(tmp_path, sampler="random").searcher.suggest("b")
    third = World(tmp_path, sampler="random").searcher
    suggested = [third.suggest(name) for name in "cde"]
    assert suggested[0] == drawn and [s["number"] for s in suggested if isinstance(s, dict)] == [1, 2, 3]
    assert len({s["parameters"]["match.lambda_b"] for s in suggested if isinstance(s, dict)}) == 3
