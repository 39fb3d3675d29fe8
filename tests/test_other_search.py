"""A package of somebody else adds a sampler, a stopping rule, an objective and a tracker; sweeps take them as ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from launches import Machine, go
from trees import write_tiles

import tune
from semples.errors import UserError
from semples.pipeline.graph import graph
from tune.messages import State
from tune.needs import affecting
from tune.records import trial_record
from tune.replay import StagePlan, replay
from tune.sweep_file import Sweep, load_sweep, make_sweep
from tune.testing import SECONDS

OTHERS: dict[str, Any] = {
    "name": "s", "selection": "holdout", "objective": {"name": "gain", "weight": 2.0}, "trials": 4,
    "sampler": {"name": "highest", "step": 2}, "early_stopping": {"name": "below", "floor": 45.0},
    "trackers": ["lines", "failing"], "base": TINY, "report": "all", "space": {"match.lambda_b": {"float": [1.0, 8.0]}},
}  # fmt: skip


def test_a_launch_has_the_parts_of_another_package(
    other_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch)
    done = tune.launch(OTHERS, out=tmp_path / "sweeps")
    trials = done.trials
    # the first is the default; the others are suggested by `highest`, and stopped by `below` or not
    assert trials["match.lambda_b"].tolist() == [1.0, 6.0, 4.0, 2.0]
    assert trials["state"].tolist() == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert trials["reason"][1] == "below 45 at match"
    # by what may choose: 50 - weight of the masks, 50 of the first CAMs
    assert trials["objective/gain"].dropna().tolist() == [-2.0, -8.0, -4.0]
    assert done.best.match.lambda_b == 1.0 and done.sweep.last_stage == "masks"
    calls = [json.loads(line) for line in (tmp_path / "sweeps" / "s" / "calls.jsonl").read_text().splitlines()]
    assert [call[0] for call in calls].count("start") == 5, "the sweep and four trials"
    assert [call[2] for call in calls if call[0] == "end"] == [*trials["state"], "COMPLETE"]
    assert any("objective/gain" in point for call in calls if call[0] == "log" for point in call[2])
    said = [record.message for record in caplog.records if "failing" in record.message]
    assert len(said) == 1 and "is left out from now on" in said[0], "and the sweep went on without it"
    again = tune.load(tmp_path / "sweeps" / "s")
    assert again.sweep == done.sweep and again.figures["best_objective/gain"] == -2.0


def test_a_tracker_that_cannot_be_made_is_one_sentence(
    other_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    with pytest.raises(UserError, match=r"trackers: 'broken' cannot be opened: RuntimeError\('no account'\)"):
        tune.launch({**OTHERS, "trackers": ["broken"]}, out=tmp_path / "sweeps")


def test_a_replay_has_them_too(other_package: Path) -> None:
    sweep = make_sweep({**OTHERS, "objective": "pseudo_miou", "trackers": []})
    trials = go(sweep).study.get_trials()
    assert [t.params["match.lambda_b"] for t in trials] == [1.0, 6.0, 4.0, 2.0]
    (stopped,) = [t for t in trials if trial_record(t).state == State.PRUNED]
    assert trial_record(stopped).reason == "below 45 at classify" and stopped.number == 1


class WithStage:
    """Made-up stages for a replay, one of another package among them."""

    def __init__(self, sweep: Sweep):
        self._keys, self._graph = affecting(sweep), graph(sweep.base_config())

    def stage_seconds(self, profile: str) -> dict[str, float]:
        return {**SECONDS, "smooth": 1.0}

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        score = 40.0 + parameters["stages.smooth.radius"]
        return [
            StagePlan(
                name,
                repr([parameters[k] for k in keys]).encode(),
                seconds[name],
                [score, score] if self._graph[name].milestone else None,
            )
            for name, keys in self._keys.items()
        ]


def test_a_replay_has_a_stage_of_another_package(other_package: Path) -> None:
    sweep = make_sweep({
        "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 6, "sampler": "cost-aware",
        "base": {"stages": {"smooth": {}}}, "space": {"stages.smooth.radius": {"int": [0, 5]}},
    })  # fmt: skip
    assert affecting(sweep)["smooth"] == affecting(sweep)["masks"] == ("stages.smooth.radius",)
    done = replay(sweep, WithStage(sweep))
    records = [trial_record(t) for t in done.study.get_trials()]
    assert {name: stage.reused for name, stage in records[1].stages.items()} == {
        "classify": True, "match": True, "prompts": True, "refine": True, "heatmaps": True, "smooth": False,
        "masks": False,
    }  # fmt: skip
    assert done.study.best_trial.params == {"stages.smooth.radius": 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": {"name": "highest", "stop": 2}}, "sampler 'highest' does not take these settings: .*'stop'"),
        ({"sampler": {"name": "tpe", "n_startup": 2}}, "sampler 'tpe' does not take these settings: .*n_startup"),
        ({"early_stopping": "below"}, "early_stopping 'below' does not take these settings: .*'floor'"),
        ({"early_stopping": {"name": "asha", "reduction": 1}}, "after is at least 1, and reduction above 1"),
        ({"trackers": [{"name": "lines", "colour": "red"}]}, "trackers 'lines' does not take these settings"),
    ],
)
def test_settings_that_a_part_does_not_take_are_named_before_anything_is_written(
    other_package: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune.launch({**OTHERS, **changes}, out=tmp_path / "sweeps")
    assert not (tmp_path / "sweeps").exists()


def test_a_sweep_whose_parts_are_not_installed_any_more_can_be_read(
    other_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    tree = {**OTHERS, "objective": "pseudo_miou", "trackers": []}
    done = tune.launch(tree, out=tmp_path / "sweeps")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(other_package)])
    assert tune.load(done.folder).figures == done.figures
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"s\.yaml.*sampler 'highest' is neither cost-aware.*is its package installed"):
        load_sweep(tmp_path / "s.yaml")


@pytest.mark.ray
def test_a_sweep_with_every_part_of_another_package(other_package: Path, tmp_path: Path) -> None:
    """For real: generator, layout, stages, sampler, rule, objective and tracker, on Ray's workers."""
    data = write_tiles(tmp_path / "set").model_dump(mode="json")
    tree = {
        **OTHERS, "trials": 2, "early_stopping": {"name": "below", "floor": -100.0}, "trackers": ["lines"],
        "base": {**TINY, "data": data, "generator": {"kind": "patchwise"}, "stages": {"smooth": {}, "count": {}}},
        "space": {"stages.smooth.radius": {"int": [0, 5]}},
    }  # fmt: skip
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(tree))
    path = os.pathsep.join([str(other_package), os.environ.get("PYTHONPATH", "")])
    program = Path(sys.executable).parent / "semples-tune"
    done = subprocess.run(
        [program, "launch", tmp_path / "s.yaml", "--out", tmp_path / "sweeps"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = tune.load(tmp_path / "sweeps" / "s")
    trials = found.trials
    assert trials["state"].tolist() == ["COMPLETE"] * 2 and trials["stages.smooth.radius"].tolist() == [2, 3]
    chosen = trials["holdout/pseudo_miou"] - trials["classify/holdout/cam_miou"]
    assert trials["objective/gain"].tolist() == (2 * chosen).tolist() and "smooth/changed" in trials
    assert (found.folder / "calls.jsonl").is_file()
