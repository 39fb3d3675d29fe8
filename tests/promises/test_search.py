"""The search prefers what promises more for what it still costs, never asks for the same twice, follows its seed, and
is the same in a replay as under Ray."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from launches import CONTINUOUS, go, sweep_of
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich import progress as rich_progress
from rich.console import Console

from semples.config import find_config, load
from semples.errors import UserError
from tune.columns import Space
from tune.commands import screen
from tune.commands.options import sweep_folder
from tune.commands.progress import ProgressReporter
from tune.cost_aware import CostAwareSampler
from tune.costs import Costs
from tune.messages import Began, Ended, Event, Progress, Restarted, StageDone, State
from tune.needs import affecting
from tune.records import compute_seconds, is_duplicate, trial_record
from tune.samplers import create_sampler
from tune.study import pareto_front, ranked
from tune.summary import summarise
from tune.sweep_file import Sweep
from tune.testing import JUDGED, SECONDS, own

SPACE: dict[str, Any] = {
    "match.lambda_b": {"float": [0.5, 8.0], "log": True}, "prompts.init": {"choice": ["uniform", "normal", "word"]},
    "masks.background": {"float": [0.3, 0.7]},
}  # fmt: skip
SWEEP = sweep_of(sampler="cost-aware", space=SPACE, trials=24)


def trial(
    sweep: Sweep, values: list[float], state: TrialState = TrialState.COMPLETE, last: str = "masks", **user: Any
) -> FrozenTrial:
    given = {**sweep.default_parameters(), **{k.replace("__", "."): v for k, v in user.items()}}
    passed = list(SECONDS)[: list(SECONDS).index(last) + 1] if last else []
    stages = {name: {"seconds": SECONDS[name], "reused": False, "score": 40.0} for name in passed}
    return create_trial(
        state=state, params=given, distributions=sweep.distributions(), user_attrs={"stages": stages},
        values=values if state == TrialState.COMPLETE else None,
    )  # fmt: skip


def test_a_sampler_follows_its_seed() -> None:
    judge = lambda p: 40.0 + p["masks.background"]  # noqa: E731
    for sampler in ("cost-aware", "tpe", "random", "sobol", "nsga2", "nsga3", "gp", "cmaes"):
        sweep = sweep_of(sampler=sampler, space=SPACE, trials=4)
        first, same, other = (
            [t.params for t in go(sweep.changed(seed=seed), judge=judge).study.get_trials()] for seed in (3, 3, 4)
        )
        assert first == same and not [p for p in first[1:] if p in other], sampler


def test_every_name_of_a_sampler_is_that_sampler() -> None:
    names = {
        "cost-aware": "CostAwareSampler", "tpe": "TPESampler", "gp": "GPSampler", "nsga2": "NSGAIISampler",
        "nsga3": "NSGAIIISampler", "cmaes": "CmaEsSampler", "sobol": "QMCSampler", "random": "RandomSampler",
    }  # fmt: skip
    assert {name: type(create_sampler(sweep_of(sampler=name), 0)).__name__ for name in names} == names


def test_what_a_running_trial_computes_costs_nothing_any_more() -> None:
    space = Space(SWEEP)
    running = trial(SWEEP, [], TrialState.RUNNING, "", match__lambda_b=2.0)
    costs = Costs(space, affecting(SWEEP), [trial(SWEEP, [50.0]), running])
    rows = np.array([space.row({**SWEEP.default_parameters(), "match.lambda_b": x}) for x in (1.0, 2.0, 3.0)])
    whole = sum(SECONDS[name] for name in JUDGED)
    assert costs.remaining(rows).tolist() == [0.0, 0.0, whole - SECONDS["classify"]] and costs.whole == whole


def test_of_equal_promises_the_cheaper_one_is_suggested() -> None:
    """All scores are equal, so that only costs differ: early stages are kept in most suggestions."""
    done = go(SWEEP, judge=lambda p: 50.0)
    trials = done.study.get_trials()[6:]
    reused = [trial_record(t).stages["heatmaps"].reused for t in trials]
    assert np.mean(reused) > 0.5
    free = go(SWEEP.changed(sampler="random"), judge=lambda p: 50.0)
    assert done.ends[-1].spent < free.ends[-1].spent / 1.5


def test_what_promises_more_is_found() -> None:
    study = go(SWEEP, judge=lambda p: 50.0 - 20 * abs(p["masks.background"] - 0.62)).study
    assert ranked(study, SWEEP)[0].params["masks.background"] == pytest.approx(0.62, abs=0.01)


def test_nothing_is_suggested_twice_while_there_is_something_new() -> None:
    sweep = sweep_of(sampler="cost-aware", space={"prompts.epochs": {"int": [1, 40]}}, trials=25)
    study = go(sweep, judge=lambda p: 50.0 - abs(p["prompts.epochs"] - 20), workers=4).study
    repeated = [t for t in study.get_trials()[8:] if is_duplicate(t)]
    epochs = [t.params["prompts.epochs"] for t in study.get_trials()[8:]]
    assert not repeated and len(epochs) == len({*epochs})


def test_a_value_that_was_rounded_otherwise_is_not_tried_again() -> None:
    """0.3 + 3 * 0.1 is not quite the 0.6 that trials begin with."""
    space = {"masks.background": {"float": [0.3, 1.0], "step": 0.1}, "match.epochs": {"int": [10, 11]}}
    for sampler in ("cost-aware", "random", "tpe"):
        sweep = sweep_of(sampler=sampler, space=space, base={"masks.background": 0.6}, trials=16)
        study = go(sweep, judge=lambda p: 40.0 + p["masks.background"]).study
        tried = [(round(t.params["masks.background"], 6), t.params["match.epochs"]) for t in own(study)]
        assert len(tried) == len({*tried}) and tried[0] == (0.6, 10), sampler
        exact = [t.params["masks.background"] for t in own(study)]
        assert sampler != "cost-aware" or {*exact} <= {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}


def test_variations_are_those_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(direction="maximize", sampler=(sampler := CostAwareSampler(SWEEP, 0)))
    for i in range(12):
        study.add_trial(trial(SWEEP, [40.0 + i], match__lambda_b=0.5 + i / 2))
    leaders: list[list[float]] = []
    vary = sampler._variations

    def remember(rows: np.ndarray, kept: tuple[int, ...]) -> np.ndarray:
        leaders.append(rows[:, 0].tolist())
        return vary(rows, kept)

    monkeypatch.setattr(sampler, "_variations", remember)
    sampler.sample_relative(study, study.ask({}), {})
    assert leaders and all(rows == [0.5 + i / 2 for i in range(11, 3, -1)] for rows in leaders)


def test_of_two_objectives_each_is_taken_in_its_own_direction() -> None:
    sweep = sweep_of(sampler="cost-aware", objective=["pseudo_miou", "seconds"], space=SPACE)
    study = optuna.create_study(directions=sweep.directions)
    for weight, values in ((2.0, [50.0, 10.0]), (3.0, [40.0, 20.0]), (4.0, [60.0, 5.0])):
        study.add_trial(trial(sweep, values, match__lambda_b=weight))
    for seed in range(9):
        _, values = CostAwareSampler(sweep, seed)._observations(study.get_trials())
        assert values.argsort().tolist() == [1, 0, 2]


def test_of_choices_none_is_nearer_to_another() -> None:
    space = Space(SWEEP)
    rows = np.array(
        [space.row({**SWEEP.default_parameters(), "prompts.init": x}) for x in ("uniform", "normal", "word")]
    )
    features = space.features(rows)
    apart = [float(np.abs(features[i] - features[j]).sum()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert apart == [2.0, 2.0, 2.0] and features.shape == (3, 5)


def test_a_replay_judges_by_the_images_that_may_choose() -> None:
    for selection, value in (("holdout", 49.0), ("oracle", 50.0)):
        study = go(sweep_of(selection=selection, trials=1)).study
        (only,) = own(study)
        assert only.values == [value] and trial_record(only).metrics == {"pseudo_miou": 50.0}
        assert trial_record(only).stages["match"].score == value


def test_a_shared_stage_is_there_when_whoever_computes_it_has_done_so() -> None:
    sweep = sweep_of(sampler="random", space={"masks.background": {"float": [0.3, 0.7]}}, trials=3)
    done = go(sweep, judge=lambda p: 50.0, workers=3)
    whole = sum(SECONDS[name] for name in JUDGED)
    assert [end.clock for end in done.ends] == pytest.approx([whole] * 3, abs=1.0)
    assert done.ends[-1].spent == whole + 2 * SECONDS["masks"]
    assert len(done.computing) == 6 + 2


def test_a_retried_trial_begins_anew_and_finds_what_it_had_finished() -> None:
    done = go(sweep_of(trials=1), injected_fault=lambda number: "retried")
    whole = sum(SECONDS[name] for name in JUDGED)
    (end,) = done.ends
    assert end.state == "COMPLETE" and end.spent == whole and end.clock == pytest.approx(whole, abs=1.0)


def test_objectives_of_a_replay_are_in_their_order() -> None:
    sweep = sweep_of(objective=["seconds", "pseudo_miou"], trials=2)
    whole = sum(SECONDS[name] for name in JUDGED)
    study = go(sweep).study
    assert [t.values for t in own(study)] == [[whole, 49.0], [whole, 48.0]]
    assert [t.number for t in pareto_front(study, sweep)] == [0]


def test_a_replay_knows_no_proxy() -> None:
    with pytest.raises(UserError, match="cannot be replayed"):
        go(sweep_of(selection="proxy", trials=1))


def test_a_stopped_trial_is_not_worth_its_last_score() -> None:
    """Optuna gives it one as value; nothing ranks it, reports it, or learns from it as a final one."""
    sweep = sweep_of(early_stopping="median", space=CONTINUOUS, sampler="random", trials=20)
    done = go(sweep)
    study, pruned = done.study, [t for t in own(done.study) if t.state == TrialState.PRUNED]
    numbers = {t.number for t in pruned}
    assert pruned and all(t.intermediate_values for t in pruned)
    assert numbers.isdisjoint(t.number for t in ranked(study, sweep))
    assert numbers == {end.number for end in done.ends if not end.values}
    assert study.best_trial.state == TrialState.COMPLETE


def shown(sweep: Sweep, *events: tuple[int, Event]) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        console = Console(record=True, width=200, file=io.StringIO())
        patch.setattr(screen, "console", console)
        with rich_progress.Progress(console=console, disable=True) as progress:
            on_screen = ProgressReporter(progress, sweep, 2, 41.0)
            for number, event in events:
                on_screen(number, event)
            (bar,) = [task for task in progress.tasks if task.description == "sweep"]
            lines = console.export_text().splitlines()
            return [*lines, f"{bar.completed:g} of {bar.total:g}"]


def test_the_screen_says_what_chooses_and_which_is_the_best() -> None:
    stage = StageDone("match", {}, ({}, {}), 3.0, reused=True, score=33.26)
    spent = {"seconds_computed": 60.0, "seconds_saved": 7.0}
    lines = shown(
        sweep_of(),
        (2, Began({})), (2, Progress("match", 1, 2)), (2, stage),
        (2, Ended(State.COMPLETE, values=(40.04,), **spent)), (3, Began({})), (3, replace(stage, reused=False)),
        (3, Ended(State.COMPLETE, values=(43.0,), **spent)), (4, Began({})),
        (4, Restarted("its process or node died")), (4, Ended(State.FAILED, "diverged", **spent)),
    )  # fmt: skip
    assert lines == [
        "trial   2  match     holdout mIoU 33.3 (stored)",
        "trial   2  COMPLETE  holdout/pseudo_miou 40.0, best 41.0, computed 60 s, saved 7 s",
        "trial   3  match     holdout mIoU 33.3 (computed)",
        "trial   3  COMPLETE  holdout/pseudo_miou 43.0, best 43.0, computed 60 s, saved 7 s",
        "trial   4  again     its process or node died",
        "trial   4  FAILED    diverged, computed 60 s, saved 7 s",
        "5 of 8",
    ]
    several = shown(
        sweep_of(objective=["seg_miou", "seconds"], selection="oracle"),
        (0, Began({})), (0, Ended(State.COMPLETE, values=(40.0, 9.0), **spent)),
    )  # fmt: skip
    assert several[0] == "trial   0  COMPLETE  oracle/seg_miou 40.0, seconds 9.0, computed 60 s, saved 7 s"


def test_where_less_is_better_the_screen_says_the_least() -> None:
    objective = {"name": "metric", "metric": "label_cosine", "stage": "masks", "direction": "minimize"}
    told = [(n, event) for n in (2, 3) for event in (Began({}), Ended(State.COMPLETE, values=(38.0 + n,)))]
    lines = shown(sweep_of(objective=objective), *told)
    assert [line.partition("_cosine ")[2][:15] for line in lines[:2]] == ["40.0, best 40.0", "41.0, best 40.0"]


def test_the_end_of_a_sweep_says_how_its_trials_ended() -> None:
    with pytest.MonkeyPatch.context() as patch:
        console = Console(record=True, width=200, file=io.StringIO())
        patch.setattr(screen, "console", console)
        sweep = sweep_of(trials=8)
        study = go(sweep, injected_fault=lambda number: "fail" if number == 2 else "").study
        study.enqueue_trial({"match.lambda_b": 2.0}, skip_if_exists=False)  # waits
        screen.show(summarise(study, sweep))
        text = console.export_text()
    computed = compute_seconds(map(trial_record, own(study)))[0]
    assert "7 of 8 trials done: 7 COMPLETE, 1 FAILED\n" in text and "trial 2 FAILED: as the replay was told" in text
    assert f"{computed / 60:.1f} minutes of compute" in text and "(chosen on holdout masks)" in text
    row = next(line for line in text.splitlines() if line.startswith("│ match.lambda_b"))
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["1", "2", "4", "5", "6"]
    assert next(line for line in text.splitlines() if "trial " in line and "default" in line).count("default") == 1


@pytest.mark.parametrize(("selection", "of_objective"), [("holdout", 1.25), ("oracle", 2.5)])
def test_a_figure_stands_there_with_its_standard_error(selection: str, of_objective: float) -> None:
    sweep = sweep_of(selection=selection)
    study, given = optuna.create_study(direction="maximize"), sweep.default_parameters()
    known = {"pseudo_miou": 60.0, "pseudo_miou_se": 2.5, "holdout/pseudo_miou_se": 1.25, "seg_miou_se": float("nan")}
    for metrics in (known, {"pseudo_miou": 61.0}):
        study.add_trial(
            optuna.trial.create_trial(
                value=70.0, params=given, distributions=sweep.distributions(), user_attrs={"metrics": metrics}
            )
        )
    first, second = summarise(study, sweep).best
    assert (first.objective_error, first.metrics_error) == ({"pseudo_miou": of_objective}, {"pseudo_miou": 2.5})
    assert second.objective_error == second.metrics_error == {}
    with pytest.MonkeyPatch.context() as patch:
        console = Console(record=True, width=200, file=io.StringIO())
        patch.setattr(screen, "console", console)
        screen.show(summarise(study, sweep))
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert ["objective", f"70.0 ± {of_objective:.1f}", "70.0"] in rows
    assert ["pseudo_miou", "60.0 ± 2.5", "61.0"] in rows


def test_a_base_stands_above_its_preset() -> None:
    sweep = sweep_of(preset="scenes-weaktr", base={"refine.start": "classify", "match.epochs": 9})
    base, preset = sweep.base_config(), load(find_config("scenes-weaktr"))
    assert (preset.refine.start, preset.generator.kind) == ("match", "weaktr")
    assert (base.refine.start, base.match.epochs, base.generator) == ("classify", 9, preset.generator)


def test_what_trials_must_share_is_not_searched() -> None:
    for key, ends in {
        "seed": {"int": [0, 3]}, "selection": {"choice": ["holdout", "oracle"]}, "data.train": {"int": [9, 999]},
        "segment.train_on": {"choice": ["pseudo", "ground_truth"]}, "runtime.threads": {"int": [1, 4]},
        "runtime.precision": {"choice": ["float32", "bfloat16"]}, "generator.kind": {"choice": ["cnn", "weaktr"]},
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"{key} cannot be searched"):
            sweep_of(space={key: ends}).distributions()


def test_a_value_within_a_range_that_is_not_allowed_is_said_at_once() -> None:
    with pytest.raises(UserError, match=r"segment\.size = 33 is not allowed"):
        sweep_of(space={"segment.size": {"int": [32, 96]}}).distributions()
    assert sweep_of(space={"segment.size": {"int": [32, 96], "step": 32}}).distributions()


def test_a_grid_of_steps_has_both_ends() -> None:
    grid = lambda **ends: [p["masks.background"] for p in sweep_of(space={"masks.background": ends}).grid()]  # noqa: E731
    assert grid(float=[0.2, 0.5], step=0.1) == [0.2, 0.3, 0.4, 0.5]
    assert grid(float=[0.5, 0.8], step=0.1) == [0.5, 0.6, 0.7, 0.8]
    assert [p["match.epochs"] for p in sweep_of(space={"match.epochs": {"int": [3, 5]}}).grid()] == [3, 4, 5]


def test_a_trial_goes_on_until_all_of_its_objectives_are_known() -> None:
    for objective, last, directions in (
        (["pseudo_miou"], "masks", ["maximize"]),
        (["pseudo_miou", "seg_miou", "gpu_gb"], "segment", ["maximize", "maximize", "minimize"]),
        (["seconds", "pseudo_miou"], "masks", ["minimize", "maximize"]),
    ):
        sweep = sweep_of(objective=objective)
        assert (sweep.last_stage, sweep.directions) == (last, directions)


def test_the_sweep_that_was_launched_last_is_meant(tmp_path: Path) -> None:
    for when, name in ((300, "b"), (100, "c"), (200, "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.yaml").write_text("")
        os.utime(tmp_path / name / "sweep.yaml", (when, when))
    assert sweep_folder(tmp_path, None) == tmp_path / "b" and sweep_folder(tmp_path, "c") == tmp_path / "c"


def test_an_extent_is_said_in_words() -> None:
    assert screen.extent(sweep_of(trials=3, budget=60, time_limit=9)) == "3 trials or 60 s of compute or 9 s"
    assert screen.extent(sweep_of(trials=None)) == "every point of its grid"
