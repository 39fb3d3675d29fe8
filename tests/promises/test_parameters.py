"""Parameters arrive whole: what the sampler suggests is what a trial runs, and what study, MLflow, best.yaml and export
say of it, with the same names, values and types; and so do the figures that come back.

One real launch (but for Ray and the method, whose stages are made up: what is reported ranks the trials the other way
round than what chooses) is looked at from all sides.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from conftest import MADE, TINY, Command
from launches import Machine
from mlflow import MlflowClient

from semples.config import Config, flatten, load, to_dict, with_changes
from semples.pipeline.graph import STAGES
from semples.run_folder import read_run
from tune.confirm import confirm, finalists
from tune.driver import launch
from tune.messages import Usage
from tune.objectives import choosing
from tune.outside import compute, is_there
from tune.records import trial_record
from tune.stage_tasks import WAITING
from tune.study import load_study
from tune.sweep_file import Sweep, make_sweep
from tune.sweep_folder import load_launched
from tune.tracking import EXPERIMENT, PARENT
from tune.values import Resources
from tune.verdict import DEFAULT

SWEEP: dict[str, Any] = {
    "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 6, "gate": 1, "sampler": "random",
    "seed": 4,
    "base": {**TINY, "match.mask_eps": 0.125}, "resources": {"cpu": 2}, "study": "journal",
    "limits": {"seconds": 1e6},
    "space": {
        "match.lambda_b": {"float": [0.25, 4.0], "log": True}, "prompts.count": {"int": [1, 4]},
        "prompts.length": {"int": [4, 12], "step": 4}, "prompts.init": {"choice": ["uniform", "normal", "word"]},
        "masks.band": {"float": [0.0, 0.2], "step": 0.1, "when": {"prompts.init": ["normal", "word"]}},
        "masks.crf.iterations": {"choice": [0, 10]}, "segment.test.flip": {"choice": [True, False]},
        "masks.crf.bilateral_compat": {"float": [0.0, 10.0], "step": 0.5, "when": {"masks.crf.iterations": 10}},
    },
}  # fmt: skip


@dataclass
class Launched:
    out: Path
    sweep: Sweep
    configs: list[Config]
    study: optuna.Study
    runs: dict[str, Any]
    client: MlflowClient
    asked: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.out / "s"

    @property
    def best(self) -> int:
        """By what chooses, the trial with the smallest weight."""
        return min(range(6), key=lambda n: self.configs[n].match.lambda_b)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    out = tmp_path_factory.mktemp("whole") / "sweeps"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        machine = Machine(patch, mlflow=True)
        sweep = make_sweep(SWEEP)
        launch(sweep, out, None, lambda *_: None)
        client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        study = load_study(out / "s", load_launched(out / "s"))
        yield Launched(out, sweep, machine.configs, study, runs, client, machine.asked)


def test_a_trial_runs_what_was_suggested_and_the_base_in_all_else(world: Launched) -> None:
    base = world.sweep.base_config()
    assert base.match.mask_eps == 0.125 and base.runtime.threads == 2
    for trial, config in zip(world.study.get_trials(), world.configs, strict=True):
        assert config == with_changes(base, trial.params, "test")
        flat = dict(flatten(to_dict(config)))
        for key, value in trial.params.items():
            assert flat[key] == value and type(flat[key]) is type(value), key


def test_conditional_keys_are_there_where_their_condition_holds_and_nowhere_else(world: Launched) -> None:
    searched = [{*trial.params} for trial in world.study.get_trials()]
    for key, other, values in (
        ("masks.band", "prompts.init", ("normal", "word")),
        ("masks.crf.bilateral_compat", "masks.crf.iterations", (10,)),
    ):
        holds = [trial.params[other] in values for trial in world.study.get_trials()]
        assert [key in keys for keys in searched] == holds and {*holds} == {True, False}
    assert all({*world.sweep.space} - {"masks.band", "masks.crf.bilateral_compat"} <= keys for keys in searched)


def test_suggestions_lie_in_their_dimension(world: Launched) -> None:
    for trial in world.study.get_trials():
        p = trial.params
        assert 0.25 <= p["match.lambda_b"] <= 4 and p["prompts.count"] in (1, 2, 3, 4)
        assert p["prompts.length"] in (4, 8, 12) and p["segment.test.flip"] in (True, False)
        assert p.get("masks.band", 0.0) in (0.0, 0.1, 0.2) and p.get("masks.crf.bilateral_compat", 0) % 0.5 == 0


def test_the_first_trial_is_the_base(world: Launched) -> None:
    assert world.configs[0] == world.sweep.base_config()


def test_the_folder_of_a_trial_holds_what_it_ran_and_what_came_of_it(world: Launched) -> None:
    for trial, config in zip(world.study.get_trials(), world.configs, strict=True):
        written, result = read_run(world.folder / "trials" / f"{trial.number:04d}")
        assert written == config and result["metrics"] == trial_record(trial).metrics


def test_the_study_keeps_what_chose_and_what_is_reported_apart(world: Launched) -> None:
    for trial, config in zip(world.study.get_trials(), world.configs, strict=True):
        chosen = 50.0 - config.match.lambda_b
        record = trial_record(trial)
        assert trial.values == [chosen] and record.metrics["seg_miou"] == 100.0 - chosen
        assert tuple(record.stages) == MADE
        scores = {name: stage.score for name, stage in record.stages.items() if stage.score is not None}
        assert scores == {name: 50.0 if name == "classify" else chosen for name in STAGES if name != "prompts"}
        assert list(trial.intermediate_values.values()) == list(scores.values())
        seconds = sum(stage.seconds for stage in record.stages.values())
        assert record.usage == Usage(pytest.approx(seconds), 0.0)
        assert trial.constraints == {"seconds": pytest.approx(seconds - 1e6)}


def test_mlflow_has_every_key_of_a_trial(world: Launched) -> None:
    for number, config in enumerate(world.configs):
        run = world.runs[f"s-{number:04d}"]
        assert run.data.params == {key: str(value) for key, value in flatten(to_dict(config))}


def test_mlflow_has_the_figures_of_a_trial_under_their_names(world: Launched) -> None:
    for trial in world.study.get_trials():
        metrics = world.runs[f"s-{trial.number:04d}"].data.metrics
        (chosen,) = trial.values
        assert metrics["objective/seg_miou"] == chosen and metrics["seg_miou"] == 100.0 - chosen
        assert metrics["pseudo_miou"] == 100.0 - chosen and metrics["holdout/pseudo_miou"] == chosen
        stages = trial_record(trial).stages
        for name in STAGES:
            milestone, value = STAGES[name].milestone, 50.0 if name == "classify" else chosen
            expected = {milestone: 100.0 - value, f"holdout/{milestone}": value} if milestone else {"nouns": 3.0}
            own = {k.removeprefix(f"{name}/"): v for k, v in metrics.items() if k.startswith(f"{name}/")}
            course = {STAGES[name].course: chosen} if STAGES[name].course else {}
            spent = {what: own.pop(what) for what in ("seconds", "cpu_seconds")}
            assert spent == {what: getattr(stages[name], what) for what in spent} and spent["cpu_seconds"] > 0
            assert own == {"loss": 0.5, "lr": 0.2, **course, **expected}, name
        computed = sum(stage.seconds for stage in stages.values() if not stage.reused)
        saved = sum(stage.seconds for stage in stages.values() if stage.reused)
        assert (metrics["seconds_computed"], metrics["seconds_saved"]) == pytest.approx((computed, saved))
        assert metrics["seconds"] == pytest.approx(computed + saved) and metrics["gpu_gb"] == 0.0


def test_curves_begin_at_step_one_and_the_figures_of_a_stage_stand_at_their_end(world: Launched) -> None:
    run = world.runs["s-0001"].info.run_id
    history = lambda name: [(m.step, m.value) for m in world.client.get_metric_history(run, name)]  # noqa: E731
    for stage in STAGES:
        assert history(f"{stage}/loss") == [(1, 1.0), (2, 0.5)] and history(f"{stage}/lr") == [(1, 0.1), (2, 0.2)]
    assert [step for step, _ in history("match/cam_miou")] == [2]


def test_tags_say_what_a_run_is(world: Launched) -> None:
    parent = world.runs["s"]
    assert {k: parent.data.tags[k] for k in ("kind", "selection", "objective", "state")} == {
        "kind": "sweep", "selection": "holdout", "objective": "seg_miou", "state": "COMPLETE",
    }  # fmt: skip
    for trial in world.study.get_trials():
        tags = world.runs[f"s-{trial.number:04d}"].data.tags
        assert tags[PARENT] == parent.info.run_id and tags["kind"] == "trial" and tags["selection"] == "holdout"
        assert tags["trial"] == str(trial.number) and tags["state"] == "COMPLETE" and tags["milestone"] == "segment"
        assert tags["node"] == os.uname().nodename
        reused = [name for name, stage in trial_record(trial).stages.items() if stage.reused]
        assert tags["reused"] == ", ".join(reused) and ("classify" in reused) is (trial.number > 0)
    assert {run.info.status for run in world.runs.values()} == {"FINISHED"} and len(world.runs) == 7


def test_the_run_of_a_sweep_has_its_file_and_its_best(world: Launched) -> None:
    parent = world.runs["s"]
    best = world.study.get_trials()[world.best]
    metrics = parent.data.metrics
    assert metrics["best_objective/seg_miou"] == best.value
    assert metrics["best_seg_miou"] == 100.0 - best.value == metrics["best_pseudo_miou"]
    assert metrics["trials"] == 6 and metrics["seconds_saved"] > 0 and metrics["seconds_computed"] > 0
    files = {f.path for f in world.client.list_artifacts(parent.info.run_id)}
    assert files == {"sweep.yaml", "best.yaml"}
    assert {f.path for f in world.client.list_artifacts(world.runs["s-0002"].info.run_id)} == {
        "config.yaml", "result.json", "gallery.png",
    }  # fmt: skip
    assert parent.data.params["space.prompts.count.int"] == "[1, 4]" and parent.data.params["seed"] == "4"


def test_the_best_is_chosen_by_what_chooses_and_says_so(world: Launched) -> None:
    best = world.folder / "best.yaml"
    assert load(best) == world.configs[world.best]
    (first, second, *_) = best.read_text().splitlines()
    value = 50.0 + world.configs[world.best].match.lambda_b
    assert first == f"# trial {world.best} of sweep 's'"
    assert second == f"# pseudo mask mIoU {value:.1f}, segmentation mIoU {value:.1f} (chosen on holdout masks)"


def test_a_sweep_file_is_recorded_with_every_value(world: Launched) -> None:
    recorded = load_launched(world.folder)
    assert recorded.base_config() == world.sweep.base_config() and recorded.space == world.sweep.space
    assert {*dict(flatten(recorded.base))} == {*dict(flatten(to_dict(world.sweep.base_config())))}


def test_an_export_is_the_trial_that_was_asked_for(command: Command, world: Launched) -> None:
    for number in (None, 0, 3):
        words = ["--out", world.out, *([] if number is None else ["--trial", number])]
        to = Path(f"to-{number}")
        assert command("semples-tune", "export", to, *words)[0] == 0
        config, result = read_run(to)
        assert config == world.configs[world.best if number is None else number]
        weight = config.match.lambda_b
        assert result["metrics"]["seg_miou"] == 50.0 + weight
        for file, stage in {"generator": "refine", "prompts": "prompts", "network": "segment"}.items():
            assert (to / f"{file}.safetensors").read_text() == f"{stage} {weight}"
        _, out, _ = command("semples-tune", "best", *words)
        Path("again.yaml").write_text(out)
        assert load(Path("again.yaml")) == config


def test_status_shows_the_best_first_with_both_figures(command: Command, world: Launched) -> None:
    _, out, _ = command("semples-tune", "status", "--out", world.out)
    rows = {line.split("│")[1].strip(): [w.strip() for w in line.split("│")[2:-1]] for line in out.splitlines()
            if line.startswith("│")}  # fmt: skip
    trials = sorted(world.study.get_trials(), key=lambda t: -t.value)[:5]
    assert rows["objective"] == [f"{t.value:.1f}" for t in trials]
    assert rows["seg_miou"] == [f"{100 - t.value:.1f}" for t in trials]
    assert rows["prompts.init"] == [t.params["prompts.init"] for t in trials]
    assert rows["masks.band"] == [f"{v:.3g}" if (v := t.params.get("masks.band")) is not None else "-" for t in trials]
    assert "6 of 6 trials done: 6 COMPLETE" in out


def test_a_score_is_of_the_images_that_may_choose() -> None:
    metrics = {"seg_miou": 1.0, "holdout/seg_miou": 2.0, "proxy/seg_miou": 3.0}
    scores = {selection: choosing(metrics, selection)["seg_miou"] for selection in ("oracle", "holdout", "proxy")}
    assert scores == {"oracle": 1.0, "holdout": 2.0, "proxy": 3.0}


def test_what_ray_is_asked_for_is_what_the_sweep_says(world: Launched) -> None:
    asked = world.asked
    assert asked["resources"]({}).required_resources == {"memory": WAITING}  # of a trial, whose stages ask for theirs
    assert asked["of_stages"].of_stage(True) == {"num_cpus": 2.0, "num_gpus": 0}
    assert (
        [one.metric for one in asked["objectives"]] == ["seg_miou"]
        and asked["until"] == "segment"
        and asked["folder"] == str(world.folder)
    )
    assert asked["base"] == to_dict(world.sweep.base_config()) and asked["store"] == str(world.folder / "store")


def with_ray_replaced() -> dict[str, Any]:
    """What stands in tune.confirm in Ray's place: tasks are done at once, and handed back in the opposite order."""
    problems: dict[Any, str] = {}

    def task(function: Any, *words: Any) -> object:
        problems[done := object()] = function(*words)
        return done

    ray = SimpleNamespace(
        remote=lambda function: SimpleNamespace(
            options=lambda **asked: SimpleNamespace(remote=partial(task, function))
        ),
        wait=lambda waiting: ([waiting[-1]], waiting[:-1]),
        get=problems.get,
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    return {
        "tune.confirm.joined": lambda resources, address: nullcontext(""),
        "tune.confirm.watched": lambda give_up, logs: nullcontext(),
        "tune.confirm.catch_up": lambda store, folder: None,
        "tune.outside.ray": ray,
    }


@pytest.fixture(scope="module")
def confirmed(world: Launched) -> Iterator[tuple[Any, list[tuple[str, int, str]], list[Config]]]:
    said: list[tuple[str, int, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        Machine(patch)
        for name, value in with_ray_replaced().items():
            patch.setattr(name, value)
        verdict = confirm(load_launched(world.folder), world.folder, 2, 2, None, lambda *words: said.append(words))
    configs = [read_run(p.parent)[0] for p in sorted((world.folder / "confirm").rglob("result.json"))]
    yield verdict, said, configs


def test_finalists_are_the_default_and_the_best_others(world: Launched) -> None:
    own = sorted(range(1, 6), key=lambda n: world.configs[n].match.lambda_b)
    found = finalists(load_launched(world.folder), world.folder, 2)
    assert found == {DEFAULT: world.configs[0], **{f"trial {n}": world.configs[n] for n in own[:2]}}


def test_a_confirmation_runs_with_seeds_that_no_trial_had_and_changes_nothing_else(
    world: Launched, confirmed: tuple[Any, list[tuple[str, int, str]], list[Config]]
) -> None:
    verdict, said, configs = confirmed
    assert sorted(said) == sorted((name, seed, "") for name in verdict.chosen for seed in (1, 2))
    wanted = [
        with_changes(config, {"seed": seed}, "test")
        for config in finalists(load_launched(world.folder), world.folder, 2).values()
        for seed in (1, 2)
    ]
    assert len(configs) == 6 and all(config in configs for config in wanted)


def test_a_confirmation_leads_by_what_chooses_and_wins_by_what_is_reported(
    world: Launched, confirmed: tuple[Any, list[tuple[str, int, str]], list[Config]]
) -> None:
    verdict, _, _ = confirmed
    leader = min([0, *range(1, 6)], key=lambda n: world.configs[n].match.lambda_b)
    assert verdict.leader == (f"trial {leader}" if leader else DEFAULT) and verdict.metric == "seg_miou"
    for name, spread in verdict.chosen.items():
        weight = world.configs[int(name.removeprefix("trial ")) if name != DEFAULT else 0].match.lambda_b
        assert spread.mean == pytest.approx(50 - weight + 1.5 / 8)
        assert verdict.reported[name].mean == pytest.approx(50 + weight - 1.5 / 8)
    over = {name: of.mean for name, of in verdict.over_default.items() if of.mean > 0}
    assert over and verdict.leader not in over, "its reported figures are the lowest"
    assert verdict.winner == max(over, key=lambda name: verdict.chosen[name].mean)
    written = json.loads((world.folder / "confirm.json").read_text())
    assert written["seeds"] == 2 and written["selection"] == "holdout" and written["winner"] == verdict.winner
    assert {*written["values"]} == {*verdict.chosen} and written["sentence"] == verdict.sentence


def test_a_run_of_a_finalist_that_fails_is_told_with_its_name_and_takes_it_out(
    world: Launched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, bad = tmp_path / "s", world.best
    shutil.copytree(world.folder, folder, ignore=shutil.ignore_patterns("confirm", "store"))
    machine = Machine(monkeypatch)
    machine.diverges = world.configs[bad].match.lambda_b
    for name, value in with_ray_replaced().items():
        monkeypatch.setattr(name, value)
    said: list[tuple[str, int, str]] = []
    verdict = confirm(load_launched(folder), folder, 3, 2, None, lambda *words: said.append(words))
    assert {name for name, _, problem in said if problem} == {f"trial {bad}"}
    assert len(verdict.chosen) == 3 and f"trial {bad}" not in verdict.chosen


def test_a_confirmation_that_goes_on_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, config = Machine(monkeypatch), with_changes(Config(), {**TINY, "runtime.device": "cpu"}, "test")
    out, place = tmp_path / "out", str(tmp_path / "store")

    def run_in_it(config: Config) -> str:
        return compute(to_dict(config), str(out), "run", "masks", place, place, None, "exact", Resources(), "")

    assert not is_there(config, out)
    assert run_in_it(config) == "" and len(machine.computed) == 6 and is_there(config, out)
    other = with_changes(config, {"masks.background": 0.6}, "test")
    assert not is_there(other, out)
    assert run_in_it(other) == "" and machine.computed[6:] == ["masks"]
    assert is_there(other, out) and not is_there(config, out)
    (out / "result.json").write_text("{")
    assert not is_there(other, out), "what is damaged is made again"


def test_a_confirmation_of_which_all_is_there_needs_no_ray(
    world: Launched, confirmed: tuple[Any, list[tuple[str, int, str]], list[Config]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, said, _ = confirmed
    again: list[tuple[str, int, str]] = []
    monkeypatch.setattr("tune.confirm.joined", None)
    monkeypatch.setattr("tune.confirm.catch_up", lambda store, folder: None)
    sweep = load_launched(world.folder)
    assert confirm(sweep, world.folder, 2, 2, None, lambda *words: again.append(words)) == verdict
    assert sorted(again) == sorted(said) and verdict.looks == 1


def test_a_sweep_that_is_written_and_read_again_is_the_same(world: Launched) -> None:
    again = load_launched(world.folder)
    assert again.distributions() == world.sweep.distributions()
    assert again.model_dump(exclude={"base", "preset"}) == world.sweep.model_dump(exclude={"base", "preset"})
