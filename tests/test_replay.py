"""Sweeps on the measured table: the same searcher as under Ray, in virtual time."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from semples.pipeline.graph import graph
from tune.mlflow_writer import Store, Writer
from tune.records import trial_record
from tune.replay import PROFILES, TABLE, Table, replay
from tune.study import load_study, ranked
from tune.sweep_file import Sweep
from tune.testing import JUDGED
from tune.tracking import EXPERIMENT, MlflowQueue, default_uri


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


def sweep(table: Table, **changes: object) -> Sweep:
    changes = {"sampler": "random", "early_stopping": "none", "trials": 30, "objective": ("pseudo_miou",), **changes}
    return table.sweep.changed(**changes)


def test_the_table_is_small_and_says_what_was_measured(table: Table) -> None:
    assert TABLE.stat().st_size < 5e6
    assert len(table.rows) >= 100
    for row in table.rows[::7]:
        scores = table.scores(row["parameters"])
        assert {name: scores[name] for name in row["milestones"]} == row["milestones"]


def test_what_was_left_out_is_interpolated(table: Table, tmp_path: Path) -> None:
    stored = json.loads(TABLE.read_text())
    left_out, kept = stored["rows"][5::12], [row for i, row in enumerate(stored["rows"]) if i % 12 != 5]
    (tmp_path / "less.json").write_text(json.dumps({**stored, "rows": kept}))
    less = Table(tmp_path / "less.json")
    true = np.array([row["milestones"]["masks"][0] for row in left_out])
    guessed = np.array([less.scores(row["parameters"])["masks"][0] for row in left_out])
    assert np.abs(guessed - true).mean() < np.abs(true - true.mean()).mean() / 2
    assert np.corrcoef(guessed, true)[0, 1] > 0.8


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_says_how_long_every_stage_takes(table: Table, profile: str) -> None:
    seconds = table.stage_seconds(profile)
    assert {*seconds} == {*graph(table.sweep.base_config())}
    done = replay(sweep(table, trials=1), table, profile=profile)
    assert done.ends[0].spent == pytest.approx(sum(seconds[name] for name in JUDGED))
    done = replay(sweep(table, trials=1).changed(objective="seg_miou"), table, profile=profile)
    assert done.ends[0].spent == pytest.approx(sum(seconds.values()))


def test_sharing_stages_saves_compute_and_changes_no_value(table: Table) -> None:
    with_store, without = (replay(sweep(table, seed=3), table, reuse=reuse) for reuse in (True, False))
    values = [[t.value for t in done.study.get_trials()] for done in (with_store, without)]
    assert values[0] == values[1] and len(values[0]) == 30
    assert with_store.ends[-1].spent < without.ends[-1].spent


def test_more_workers_are_faster_and_busy(table: Table) -> None:
    one, eight = (replay(sweep(table, trials=80), table, workers) for workers in (1, 8))
    assert eight.ends[-1].clock < one.ends[-1].clock / 6
    assert eight.busy > 0.9


@pytest.mark.parametrize("stopping", ["median", "asha"])
def test_early_stopping_saves_compute_and_spares_the_default(table: Table, stopping: str) -> None:
    stopped = replay(sweep(table, early_stopping=stopping, trials=60), table)
    free = replay(sweep(table, trials=60), table)
    states = Counter(end.state for end in stopped.ends)
    assert states["PRUNED"] > 10 and states["COMPLETE"] + states["PRUNED"] == 60
    assert stopped.ends[-1].spent < 0.9 * free.ends[-1].spent
    assert stopped.study.get_trials()[0].state == TrialState.COMPLETE
    reasons = {trial_record(t).reason for t in stopped.study.get_trials() if t.state == TrialState.PRUNED}
    assert all("median" in reason if stopping == "median" else "best 1/3" in reason for reason in reasons)


def test_the_study_and_mlflow_agree_on_every_end(table: Table, tmp_path: Path) -> None:
    """100 trials of which some complete, are pruned, fail, give NaN, are lost or retried."""
    folder = tmp_path / "t"
    folder.mkdir()
    tracker = MlflowQueue(folder)

    def start_run(number: int, parameters: dict[str, Any]) -> str:
        tracker.start(f"t-{number}", f"t-{number}", "", parameters, {"trial": str(number)})
        return f"t-{number}"

    fates = ["", "", "", "fail", "nan", "lost", "retried"]
    spec = sweep(table, early_stopping="median", trials=90)
    done = replay(
        spec,
        table,
        workers=4,
        tracker=tracker,
        start_run=start_run,
        injected_fault=lambda number: fates[number % len(fates)],
    )
    trials = done.study.get_trials()
    assert len(trials) >= 100
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    Writer(Store(default_uri(tmp_path), folder), folder).catch_up()
    client = MlflowClient(default_uri(tmp_path))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == len(trials)
    for trial in trials:
        tags = runs[str(trial.number)].data.tags
        assert tags["state"] == trial_record(trial).state and tags.get("reason", "") == trial_record(trial).reason
    assert {trial_record(t).state for t in trials} == {"COMPLETE", "PRUNED", "FAILED", "LOST"}
    assert {t.state for t in ranked(done.study, spec)} == {TrialState.COMPLETE}


DRIVER = """
import sys
from pathlib import Path
from typing import Any
from tune.replay import Table, replay
from tune.study import create_study
folder, table = Path(sys.argv[1]), Table()
changes = {"sampler": "tpe", "early_stopping": "asha", "trials": 150, "objective": ("pseudo_miou",)}
sweep = table.sweep.changed(**{"name": folder.name, **changes})
study = create_study(folder, sweep)
print("ready", flush=True)
replay(sweep, table, workers=4, study=study)
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_and_repeats_nothing(table: Table, tmp_path: Path) -> None:
    folder, draw, kills = tmp_path / "killed", random.Random(0), 0
    folder.mkdir()
    command = [sys.executable, "-c", DRIVER, str(folder)]
    spec = sweep(table, name="killed", sampler="tpe", early_stopping="asha", trials=150)
    finished: dict[int, float | None] = {}
    while kills < 20:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0, 0.4))
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        kills += 1
        trials = load_study(folder, spec).get_trials()
        now = {t.number: t.value for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        assert finished.items() <= now.items()  # what was finished stays as it was
        finished = now
    assert len(finished) < 150  # it was not done before the kills were
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("done\n")
    trials = load_study(folder, spec).get_trials()
    own = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(own) == 150 and not [t for t in trials if t.state == TrialState.RUNNING]
    assert len({tuple(t.params.items()) for t in own}) == 150
