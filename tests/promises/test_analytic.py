"""Keys that nobody need search: where no CRF follows, one pass over the heatmaps scores every background score. A trial
takes the best, says so, and the sampler has one key less to look after. Everywhere else the key is searched as any.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, TINY
from launches import Machine, go, launched, sweep_of
from mlflow import MlflowClient
from optuna.trial import TrialState

from semples.analytic import Scores, read_scores, write_scores
from semples.config import MasksConfig, flatten, parse, read_yaml, with_changes
from semples.errors import UserError
from semples.metrics import THRESHOLDS, confusion, miou, sweep_thresholds
from semples.pipeline.run import run
from semples.run_folder import read_run
from semples.stages.masks import make_mask
from semples.store import Store
from tune.columns import Space
from tune.confirm import finalists
from tune.records import given, is_duplicate
from tune.sweep_file import Sweep
from tune.sweep_folder import load_launched
from tune.tracking import EXPERIMENT

KEY = "masks.background"
NO_CRF = {**TINY, "masks": {"crf": {"iterations": 0}}}
SPACE: dict[str, Any] = {"match.lambda_b": {"float": [1.0, 8.0]}, KEY: {"float": [0.3, 0.7]}}


def test_the_best_of_all_scores_at_once_is_that_of_each_by_itself() -> None:
    for seed in range(50):
        rng, classes = np.random.default_rng(seed), 3
        triples = []
        for _ in range(int(rng.integers(1, 4))):
            present = np.sort(rng.choice(classes, int(rng.integers(1, 4)), replace=False))
            truth = rng.choice([0, *(1 + present), 255], (7, 9)).astype(np.uint8)
            warm = np.stack([60 * (truth == 1 + k) for k in present])
            maps = np.clip(warm + rng.normal(90, 50, warm.shape), 0, 255).astype(np.uint8)
            triples.append((truth, maps, present))
        scores = Scores(THRESHOLDS.tolist(), sweep_thresholds(triples, classes).miou.tolist())
        one_by_one = {}
        for background in scores.values:
            settings = MasksConfig.model_validate({"background": background, "crf": {"iterations": 0}})
            counts = sum(
                confusion(truth, make_mask(maps, present, np.zeros((7, 9, 3), np.uint8), settings), classes)
                for truth, maps, present in triples
            )
            one_by_one[background] = miou(np.asarray(counts))
        best = scores.best(scores.values)
        assert best == max(one_by_one, key=one_by_one.__getitem__) and scores.at(best) == one_by_one[best]
        between = float(rng.uniform(1 / 255, 254 / 255))
        assert scores.at(between) == one_by_one[max(value for value in one_by_one if value <= between)]


def test_a_run_has_the_score_that_its_heatmaps_promised(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    config = with_changes(parse(SMALL, "small"), {"masks.crf.iterations": 0}, "test")
    scores = read_scores(run(config, store, lambda event: None, until="heatmaps").folders["heatmaps"])
    for background in (scores.best(scores.values), 0.2, 0.45, 0.8):
        made = run(with_changes(config, {KEY: background}, "test"), store, lambda event: None, until="masks")
        assert made.metrics["holdout/pseudo_miou"] == scores.at(background)
    assert scores.at(scores.best(scores.values)) == made.metrics["heatmaps/holdout/cam_miou"]


def searching(**changes: Any) -> Sweep:
    return sweep_of(**{"sampler": "cost-aware", "base": NO_CRF, "space": SPACE, **changes})


@pytest.mark.parametrize(
    ("changes", "analytic"),
    [
        ({}, True),
        ({"objective": "seg_miou"}, True),
        ({"selection": "oracle"}, True),
        ({"selection": "proxy"}, False),  # no mask scores anything
        ({"base": TINY}, False),  # a CRF follows
        ({"base": {**NO_CRF, "masks": {"crf": {"iterations": 0}, "band": 0.1}}}, False),
        ({"space": {**SPACE, KEY: {"float": [0.0, 0.7]}}}, False),  # 0 is below the least that is scored
        ({"space": {**SPACE, KEY: {"choice": [0.4, 0.5]}}}, False),
        ({"sampler": "grid", "space": {**SPACE, "match.lambda_b": {"choice": [1.0]},
                                       KEY: {"float": [0.3, 0.7], "step": 0.1}}}, False),
        ({"space": {KEY: {"float": [0.3, 0.7], "step": 0.1},
                    "match.lambda_b": {"float": [1.0, 8.0], "when": {KEY: 0.5}}}}, False),
        ({"objective": {"name": "metric", "metric": "classify/cam_miou", "stage": "classify"}}, False),
    ],
)  # fmt: skip
def test_when_trials_decide(changes: dict[str, Any], analytic: bool) -> None:
    sweep = searching(**changes)
    assert {*sweep.analytic} == ({KEY} if analytic else set())
    assert sweep.decided({"match.lambda_b": 2.0}) == ((KEY,) if analytic else ())
    assert sweep.decided({"match.lambda_b": 2.0, KEY: 0.5}) == ()


def test_trials_decide_where_another_searched_key_says_so() -> None:
    space = {KEY: {"float": [0.3, 0.7]}, "masks.crf.iterations": {"choice": [0, 10]}}
    sweep = searching(base=TINY, space=space)
    assert sweep.decided({"masks.crf.iterations": 0}) == (KEY,) and sweep.decided({"masks.crf.iterations": 10}) == ()
    assert sweep.decided({}) == ()  # the base has a CRF
    columns = Space(sweep)
    rows = columns.settled(columns.of_unit(np.random.default_rng(0).random((64, 2))))
    off = [row for row in rows if columns.parameters(row)["masks.crf.iterations"] == 0]
    assert 0 < len(off) < 64 and all(KEY not in columns.parameters(row) for row in off)
    assert len({row.tobytes() for row in off}) == 1, "they are one trial"
    assert all(KEY in columns.parameters(row) for row in rows if row[1] != off[0][1])


@pytest.mark.parametrize("refined", ["heatmaps", "masks"])
def test_what_another_package_refines_is_searched(
    other_package: Path, monkeypatch: pytest.MonkeyPatch, refined: str
) -> None:
    stage = import_module("other_smoothing").STAGE
    monkeypatch.setattr("other_smoothing.STAGE", replace(stage, refines=refined))
    assert searching().analytic
    assert not searching(base={**NO_CRF, "stages": {"smooth": {}}}).analytic


class Decides(Machine):
    """Heatmaps whose best background score depends on the weight, and falls off on both sides."""

    def _stage(self, name: str, config: Any, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        metrics = super()._stage(name, config, data, inputs, out, log)
        if name == "heatmaps" and data.treated == "holdout":
            best = 0.2 + config.match.lambda_b / 10
            write_scores(out, Scores(THRESHOLDS.tolist(), [90 - abs(value - best) for value in THRESHOLDS]))
        return metrics


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Decides(monkeypatch)


def is_best(trial: Any) -> bool:
    """Whether no score of 8 bits is better by what Decides says, below the highest that the range allows."""
    wanted = min(0.2 + trial.params["match.lambda_b"] / 10, 0.7)
    return abs(trial.params[KEY] - wanted) <= 1 / 255


@pytest.mark.parametrize("sampler", ["cost-aware", "tpe", "random", "gp", "cmaes", "nsga2"])
def test_a_trial_takes_the_best_by_its_own_heatmaps(machine: Machine, tmp_path: Path, sampler: str) -> None:
    _, study = launched(tmp_path, sampler=sampler, base=NO_CRF, space=SPACE, trials=7)
    first, *others = [t for t in study.get_trials() if t.state == TrialState.COMPLETE and not is_duplicate(t)]
    assert first.params[KEY] == 0.5, "the default is tried as it is"
    for trial in others:
        assert is_best(trial)
        assert given(trial) == {"match.lambda_b": trial.params["match.lambda_b"]}
    for trial in (first, *others):
        ran, _ = read_run(tmp_path / "s" / "trials" / f"{trial.number:04d}")
        assert ran.masks.background == trial.params[KEY], "that is what ran"
    # one that differed by this key alone would be the same trial
    assert len(others) >= 4 and len({trial.params["match.lambda_b"] for trial in others}) == len(others)
    default, leader = finalists(load_launched(tmp_path / "s"), tmp_path / "s", 1).values()
    assert default.masks.background == 0.5 and leader.masks.background != 0.5


def test_what_was_decided_is_told_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Decides(monkeypatch, mlflow=True)
    _, study = launched(tmp_path, base={**NO_CRF, "match.lambda_b": 8.0}, space=SPACE, trials=3, sampler="random")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    runs = {run.data.tags.get("trial"): run.data.params for run in client.search_runs([experiment.experiment_id])}
    assert [runs[str(trial.number)][KEY] for trial in study.get_trials()] == [
        str(trial.params[KEY]) for trial in study.get_trials()
    ]
    best = dict(flatten(read_yaml(tmp_path / "s" / "best.yaml")))
    assert best[KEY] == study.best_trial.params[KEY] != 0.5


def test_of_steps_the_best_one_is_taken(machine: Machine, tmp_path: Path) -> None:
    _, study = launched(tmp_path, base=NO_CRF, sampler="random", trials=5,
                        space={**SPACE, KEY: {"float": [0.3, 0.7], "step": 0.1}})  # fmt: skip
    for trial in study.get_trials()[1:]:
        wanted = min(0.2 + trial.params["match.lambda_b"] / 10, 0.7)
        assert trial.params[KEY] in (0.3, 0.4, 0.5, 0.6, 0.7) and abs(trial.params[KEY] - wanted) <= 0.05 + 1 / 255


def test_a_trial_that_was_interrupted_goes_on_as_it_decided(machine: Machine, tmp_path: Path) -> None:
    options = {"base": NO_CRF, "sampler": "random", "space": SPACE, "trials": 2, "objective": "seg_miou"}
    machine.left = 14  # of the second trial's stages the masks of the images that judge are made
    _, study = launched(tmp_path, **options)
    before = study.get_trials()[1].params
    assert study.get_trials()[1].state == TrialState.RUNNING and KEY in before
    machine.left = 10**9
    _, study = launched(tmp_path, **options)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2 and trials[1].params == before


def test_a_replay_says_that_it_has_no_heatmaps() -> None:
    with pytest.raises(UserError, match=r"masks\.background cannot be replayed"):
        go(searching(sampler="random"))
