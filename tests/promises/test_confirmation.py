"""A sweep that asks for it ends with its finalists over seeds: once, within its budget, whatever comes in between."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import TINY
from launches import CONTINUOUS, Machine, launched, sweep_of
from searches import complete, milestone

from semples.errors import UserError
from tune.api import load
from tune.commands.app import app
from tune.confirm import has_verdict, judge_finalists, seeds_within
from tune.driver import launch
from tune.messages import State
from tune.mlflow_writer import entries
from tune.records import StageRecord, TrialRecord, compute_seconds, trial_record, whole_seconds
from tune.searcher import StudySearcher
from tune.study import load_study, ranked
from tune.tracking import NullTracker
from tune.verdict import read_record, read_verdict
from tune.warm_start import prepare

ASKED: dict[str, Any] = {
    "confirm": {"top": 2, "seeds": 3}, "sampler": "random", "space": CONTINUOUS, "trials": 4, "base": TINY,
    "study": "journal",
}  # fmt: skip


def again(out: Path, **changes: Any) -> tuple[str, list[tuple[str, int, str]]]:
    """Launch it and hear why it ended and which runs of finalists did."""
    said: list[tuple[str, int, str]] = []
    why = launch(sweep_of(**{**ASKED, **changes}), out, None, lambda *_: None, lambda *words: said.append(words))
    return why, said


def test_a_sweep_ends_with_its_finalists_over_seeds_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    why, said = again(tmp_path)
    assert why == "all of its trials have run" and [problem for _, _, problem in said] == [""] * 9
    assert {seed for _, seed, _ in said} == {1, 2, 3} and len({name for name, _, _ in said}) == 3
    verdict, ran = read_verdict(tmp_path / "s"), len(machine.configs)
    assert {*verdict.reported} == {name for name, _, _ in said} and verdict.looks == 1
    assert load(tmp_path / "s").verdict == verdict
    queue = [entry for _, entry in entries(tmp_path / "s")]
    of_sweep, *_, of_verdict = [entry for entry in queue if entry["what"] == "start"]
    assert of_verdict["parent"] == of_sweep["run"] and of_verdict["tags"]["verdict"] == verdict.sentence
    ends = [(entry["run"], entry["tags"]["state"]) for entry in queue if entry["what"] == "end"]
    assert ends[-2:] == [(of_verdict["run"], "COMPLETE"), (of_sweep["run"], "COMPLETE")]
    assert again(tmp_path) == ("all of its trials have run", []) and len(machine.configs) == ran


def test_a_sweep_that_does_not_ask_has_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    assert again(tmp_path, confirm=None)[1] == [] and load(tmp_path / "s").verdict is None
    # and may ask later
    assert len(again(tmp_path)[1]) == 9 and load(tmp_path / "s").verdict is not None


def test_an_interrupted_confirmation_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    again(tmp_path, confirm=None)
    machine.left = 30
    with pytest.raises(KeyboardInterrupt):
        again(tmp_path)
    there = len([*(tmp_path / "s" / "confirm").rglob("result.json")])
    assert there > 0 and load(tmp_path / "s").verdict is None
    ends = [entry["tags"]["state"] for _, entry in entries(tmp_path / "s") if entry["what"] == "end"]
    assert ends[-1] == "STOPPED", "the sweep is not complete"
    machine.left, ran = 10**9, len(machine.configs)
    assert len(again(tmp_path)[1]) == 9 and len(machine.configs) == ran + 9 - there
    assert read_verdict(tmp_path / "s").looks == 1


def test_more_trials_or_seeds_are_confirmed_anew_and_that_is_another_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    again(tmp_path)
    assert len(again(tmp_path, confirm={"top": 2, "seeds": 4})[1]) == 12
    assert read_verdict(tmp_path / "s").looks == 2
    first = {*read_record(tmp_path / "s").values}
    again(tmp_path, trials=12, confirm={"top": 2, "seeds": 4})
    assert {*read_record(tmp_path / "s").values} != first, "there are better trials now"
    assert read_verdict(tmp_path / "s").looks == 3
    ran = len(machine.configs)
    assert again(tmp_path, trials=12) == ("all of its trials have run", []), "fewer seeds are there already"
    assert len(machine.configs) == ran


def test_how_often_was_looked_is_not_forgotten_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    again(tmp_path)
    (tmp_path / "s" / "confirm.json").write_text("{")
    ran, sweep, said = (
        len(machine.configs),
        sweep_of(**ASKED),
        "damaged .* delete it and run semples-tune confirm again",
    )
    with pytest.raises(UserError, match=said):
        again(tmp_path)
    with pytest.raises(UserError, match=said):
        judge_finalists(sweep, tmp_path / "s", 2, 3, lambda *_: None, lambda *_: None)
    assert len(machine.configs) == ran


def test_a_confirmation_that_fails_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(monkeypatch)
    again(tmp_path, confirm=None)
    machine.diverges = sweep_of(**ASKED).base_config().match.lambda_b
    with caplog.at_level(logging.WARNING):
        assert again(tmp_path)[0] == "all of its trials have run"
    assert "no confirmation: nothing is left to compare: default with seed" in caplog.text
    assert (tmp_path / "s" / "best.yaml").exists() and load(tmp_path / "s").verdict is None
    machine.diverges = 13.0
    assert len(again(tmp_path)[1]) == 9 and load(tmp_path / "s").verdict is not None, "the next launch tries again"


def searching(**changes: Any) -> StudySearcher:
    sweep = sweep_of(**{"sampler": "random", "space": CONTINUOUS, "trials": None, **changes})
    study = prepare(optuna.create_study(directions=sweep.directions), sweep)
    return StudySearcher(study, sweep, NullTracker(), lambda number, parameters: "run", lambda *_: None)


@pytest.mark.parametrize(("budget", "another"), [(24.1, True), (24.0, False), (11.9, False), (12.1, True)])
def test_a_budget_keeps_what_the_confirmation_takes_but_half_of_it_at_most(budget: float, another: bool) -> None:
    """A trial takes 6 s, and four runs 24: more than half of any of these budgets."""
    searcher = searching(budget=budget, confirm={"top": 1, "seeds": 2})
    for name in ("a", "b") if budget > 20 else ("a",):
        searcher.suggest(name)
        for stage in ("match", "refine"):  # three seconds each
            searcher.on_trial_result(name, milestone(stage, 33.0))
        searcher.on_trial_complete(name, complete(50.0))
    assert isinstance(searcher.suggest("c"), dict) is another
    if not another:
        assert searcher.exhausted.startswith(f"the budget of {budget:.0f} compute seconds is spent but for the ")


def test_where_the_confirmation_takes_less_than_half_no_more_is_kept() -> None:
    searcher = searching(budget=100.0, confirm={"top": 1, "seeds": 2})
    trials = 0
    while isinstance(searcher.suggest(str(trials)), dict):
        for stage in ("match", "refine"):
            searcher.on_trial_result(str(trials), milestone(stage, 33.0))
        searcher.on_trial_complete(str(trials), complete(50.0))
        trials += 1
    assert trials == 13, "76 s and what the last one takes"


def test_what_is_left_of_the_budget_says_how_many_seeds_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    _, study = launched(tmp_path, **{**ASKED, "confirm": None})
    records = [*map(trial_record, study.get_trials())]
    spent, whole = compute_seconds(records)[0], whole_seconds(records)
    for left, asked, seeds in ((9.5, 5, 3), (9.5, 2, 2), (1.0, 5, 2), (1000.0, 5, 5)):
        sweep = sweep_of(**{**ASKED, "budget": spent + left * whole, "confirm": {"top": 2, "seeds": asked}})
        assert seeds_within(study, sweep) == seeds
    assert seeds_within(study, sweep_of(**ASKED)) == 3


def test_the_seconds_of_a_whole_trial_are_those_of_its_stages_where_they_were_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(duplicate_of: int | None = None, **stages: StageRecord) -> TrialRecord:
        return TrialRecord(State.COMPLETE, "", stages, {}, None, duplicate_of, "", True)

    records = [
        of(match=StageRecord(2.0, False), masks=StageRecord(1.0, False)),
        of(match=StageRecord(9.0, True), masks=StageRecord(4.0, False)),
        of(match=StageRecord(4.0, False)),
        of(duplicate_of=0, match=StageRecord(100.0, False)),
    ]
    assert whole_seconds(records) == 3.0 + 2.5 and whole_seconds([]) == 0.0


def test_a_sweep_of_the_default_alone_has_nothing_to_confirm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    why, said = again(tmp_path, trials=1)
    assert why == "all of its trials have run" and said == []
    sweep = sweep_of(**{**ASKED, "trials": 1})
    study = load_study(tmp_path / "s", sweep)
    assert len(ranked(study, sweep)) == 1 and has_verdict(study, sweep, tmp_path / "s")


def test_a_launch_says_at_its_end_who_won_and_how_to_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch)
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**sweep_of(**ASKED).model_dump(mode="json", exclude={"preset"})}))
    app(["launch", str(file), "--out", str(tmp_path / "sweeps")], standalone_mode=False)
    said, verdict = capsys.readouterr().out.splitlines(), read_verdict(tmp_path / "sweeps" / "s")
    assert "then 3 finalists over 3 seeds" in said[0] and "default, seed 1: done" in said
    assert verdict.sentence in said and verdict.winner
    number = verdict.winner.removeprefix("trial ")
    assert f"take it: semples-tune export FOLDER --out {tmp_path / 'sweeps'} --name s --trial {number}" in said
