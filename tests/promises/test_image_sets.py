"""What judges a trial comes first, and of that alone a trial is made where no more is wanted.

Heatmaps and masks are made for one set of images after another: those that judge, those on which figures are reported,
and the others that the network learns from. No image is treated twice. What is reported changes no choice, so a trial
that trains no network goes on to it only where the sweep says so, and the best are measured when it ends.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MADE, SMALL, TINY
from launches import Machine, launched, sweep_of

from semples.config import Config, parse, with_changes
from semples.data import load_data, png_archive
from semples.data.dataset import Dataset
from semples.errors import UserError
from semples.pipeline.graph import graph, reporting, training_masks
from semples.pipeline.run import Event, Result, run
from semples.run_folder import headline, read_run
from semples.store import Store
from tune.commands.screen import show
from tune.driver import DONE
from tune.messages import Reported
from tune.mlflow_writer import entries
from tune.records import reported_later, trial_record
from tune.reporting import goes_on
from tune.study import unreported
from tune.summary import summarise
from tune.sweep_folder import load_launched

CONFIG = parse(SMALL, "small")


def half_masked(data: Dataset) -> Dataset:
    """The same images, of which the odd ones of training have no true mask."""
    train = data.train
    masked = tuple(range(0, len(train), 2))
    mask = lambda i: train.mask(i) if i in masked else None  # noqa: E731
    return dataclasses.replace(data, train=dataclasses.replace(train, mask=mask, annotated=masked))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run in which half of the training images have no true mask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semples.pipeline.run.load_data", lambda config, selection: half_masked(load_data(config)))
        with Store(tmp_path_factory.mktemp("store")) as store:
            return run(CONFIG, store, lambda event: None)


def test_every_set_is_treated_after_the_one_that_judges(halves: Result) -> None:
    assert list(halves.folders) == [*graph(CONFIG)]
    order = [*graph(CONFIG)]
    assert [name for name in order if "masks" in name] == ["masks", "measured_masks", "rest_masks"]
    assert order.index("masks") < order.index("measured_heatmaps") < order.index("rest_heatmaps")


def test_an_image_has_the_same_mask_in_whatever_set_it_is(halves: Result, small_run: Result) -> None:
    split = halves.data.train
    made = png_archive.Reader(*(halves.folders[name] / png_archive.FILE for name in training_masks(CONFIG)))
    whole = png_archive.Reader(small_run.folders["measured_masks"] / png_archive.FILE)
    assert all((made.read(name) == whole.read(name)).all() for name in split.names)


def test_no_image_is_treated_twice(halves: Result) -> None:
    found = [halves.folders[name] / png_archive.FILE for name in ("masks", *training_masks(CONFIG))]
    names = [zipfile.ZipFile(path).namelist() for path in found]
    assert [len(of) for of in names] == [4, 4, 4] and len(set().union(*names)) == 12


def test_a_set_without_an_image_is_no_stage_of_a_run(small_run: Result) -> None:
    assert tuple(small_run.folders) == MADE and tuple(graph(CONFIG, small_run.data)) == MADE


@pytest.mark.parametrize(("selection", "stage"), [("holdout", "measured_masks"), ("oracle", None)])
def test_what_reports_is_known_of_every_stage(selection: str, stage: str | None) -> None:
    config = with_changes(Config(), {"selection": selection}, "test")
    assert reporting(config, "masks") == stage and reporting(config, "segment") is None


@pytest.mark.parametrize("further", [None, "measured_masks"])
def test_a_run_goes_on_only_where_it_is_told(further: str | None, tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []
    events: list[Event] = []

    def decide(result: Result) -> str | None:
        asked.append(tuple(result.folders))
        return further

    with Store(tmp_path / "store") as store:
        result = run(CONFIG, store, events.append, until="masks", further=decide)
    assert asked[0] == MADE[:6] and tuple(result.folders) == (MADE[:8] if further else MADE[:6])
    assert ("pseudo_miou" in result.metrics) == bool(further) and "holdout/pseudo_miou" in result.metrics
    assert "on the holdout" in headline(result.metrics, CONFIG) or further


def seconds(judging: float, training: float) -> Callable[[Config], Any]:
    """A result so far: 100 images judge, 1,000 are reported."""

    def result(config: Config) -> Any:
        sets = {"holdout": 100, "measured": 1000}
        data = SimpleNamespace(treating=lambda images: SimpleNamespace(images=range(sets[images])))
        taken = {"match": training, "heatmaps": judging / 4, "masks": 3 * judging / 4}
        return SimpleNamespace(config=config, data=data, seconds=taken)

    return result


@pytest.mark.parametrize(
    ("report", "judging", "training", "goes"),
    [
        ("all", 50.0, 1.0, True), ("leaders", 0.001, 1000.0, False),
        ("auto", 1.0, 100.0, True),  # ten seconds of a hundred and one
        ("auto", 1.0, 98.0, False), ("auto", 0.0, 0.0, True),
    ],
)  # fmt: skip
def test_a_trial_goes_on_to_what_is_reported_where_that_is_wanted_or_cheap(
    report: Any, judging: float, training: float, goes: bool
) -> None:
    stage = goes_on(report, "masks")(seconds(judging, training)(Config()))
    assert stage == ("measured_masks" if goes else None)


def test_where_the_network_is_trained_or_the_two_are_one_nothing_is_left_to_report() -> None:
    assert goes_on("all", "segment")(seconds(1.0, 1.0)(Config())) is None
    oracle = with_changes(Config(), {"selection": "oracle"}, "test")
    assert goes_on("all", "masks")(seconds(1.0, 1.0)(oracle)) is None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def in_result(out: Path, number: int) -> dict[str, float]:
    metrics: dict[str, float] = read_run(out / "s" / "trials" / f"{number:04d}")[1]["metrics"]
    return metrics


def test_the_best_are_measured_when_the_sweep_ends(tmp_path: Path, machine: Machine) -> None:
    why, study = launched(tmp_path, trials=7, report="leaders")
    assert why == DONE and machine.computed.count("masks") == 7 and machine.computed.count("measured_masks") == 5
    assert machine.computed.index("measured_masks") > 7 * 5, "after all trials"
    assert "segment" not in machine.computed
    assert {*reported_later(study)} == {0, 1, 2, 3, 4}  # weights 1 to 5 are the best
    for number in range(7):
        assert in_result(tmp_path, number).get("pseudo_miou") == (51.0 + number if number < 5 else None)
        assert in_result(tmp_path, number)["holdout/pseudo_miou"] == 49.0 - number
    summary = summarise(study, load_launched(tmp_path / "s"))
    assert [leader.metrics["pseudo_miou"] for leader in summary.best] == [51.0, 52.0, 53.0, 54.0, 55.0]
    logged = {
        entry["run"][-4:]: value
        for _, entry in entries(tmp_path / "s")
        if entry["what"] == "log"
        for name, value, _ in entry["metrics"]
        if name == "pseudo_miou"
    }
    assert logged == {f"{number:04d}": 51.0 + number for number in range(5)}


def test_it_is_done_once_and_for_new_leaders_only(tmp_path: Path, machine: Machine) -> None:
    space = {"match.lambda_b": {"choice": [1.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]}}
    _, study = launched(tmp_path, trials=6, report="leaders", space=space)
    assert {*reported_later(study)} == {0, 2, 3, 4, 5}
    machine.configs.clear()
    assert launched(tmp_path, trials=6, report="leaders", space=space)[0] == DONE
    assert not machine.configs, "nothing was run, not even to find it stored"
    _, study = launched(tmp_path, trials=7, report="leaders", space=space)
    assert len(machine.configs) == 2, "the new trial, and what it reports"
    assert {*reported_later(study)} == {0, 2, 3, 4, 5, 6}


def test_what_was_interrupted_there_goes_on_with_the_next_launch(tmp_path: Path, machine: Machine) -> None:
    machine.left = 1 + 3 * 5 + 3  # the three trials, and of what is reported one and a half
    with pytest.raises(KeyboardInterrupt):
        launched(tmp_path, trials=3, report="leaders")
    machine.left = 10**9
    why, study = launched(tmp_path, trials=3, report="leaders")
    assert why == DONE and {*reported_later(study)} == {0, 1, 2}
    assert machine.computed.count("measured_heatmaps") == machine.computed.count("measured_masks") == 3


def test_a_leader_that_cannot_be_measured_is_said_and_tried_again(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("tune.outside.run", fails)
        why, study = launched(tmp_path, trials=2, report="leaders")
    assert why == DONE and not reported_later(study)
    assert "trial 0 is not measured on the reported images: the disk is full" in caplog.text
    _, study = launched(tmp_path, trials=2, report="leaders")
    assert {*reported_later(study)} == {0, 1}


def test_whoever_watches_hears_of_it(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    from tune.driver import launch  # noqa: PLC0415

    heard: list[tuple[int, Any]] = []
    sweep = sweep_of(base=TINY, study="journal", trials=2, report="leaders")
    launch(sweep, tmp_path, None, lambda number, event: heard.append((number, event)))
    assert [(n, e.metrics["pseudo_miou"]) for n, e in heard if isinstance(e, Reported)] == [(0, 51.0), (1, 52.0)]


def test_a_table_says_where_nothing_was_measured(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tune.driver.report_leaders", lambda *_: None)
        _, study = launched(tmp_path, trials=2, report="leaders")
    sweep = load_launched(tmp_path / "s")
    assert [t.number for t in unreported(study, sweep)] == [0, 1]
    show(summarise(study, sweep))
    assert "Not measured yet on the images on which figures are reported: trials 0, 1" in capsys.readouterr().out


def test_where_all_are_measured_their_stages_say_so(tmp_path: Path, machine: Machine) -> None:
    _, study = launched(tmp_path, trials=2, report="all")
    assert all([*trial_record(t).stages][-1] == "measured_masks" for t in study.get_trials() if t.state.is_finished())
    assert not reported_later(study)
    assert all(np.isfinite(in_result(tmp_path, number)["pseudo_miou"]) for number in range(2))
