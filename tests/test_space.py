from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from semples.errors import UserError
from tune.space import Dimension
from tune.sweep_file import SWEEPS, find_sweep_file, load_sweep

SWEEP = {
    "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 3,
    "space": {"match.lambda_b": {"float": [1, 4], "log": True}, "prompts.count": {"int": [1, 3]},
              "prompts.init": {"choice": ["uniform", "word"]}},
}  # fmt: skip


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**SWEEP, **changes}.items() if v is not None}, sort_keys=False))
    return path


def test_a_sweep_becomes_distributions(tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path))
    assert sweep.distributions() == {
        "match.lambda_b": FloatDistribution(1, 4, log=True),
        "prompts.count": IntDistribution(1, 3),
        "prompts.init": CategoricalDistribution(("uniform", "word")),
    }
    assert sweep.default_parameters() == {"match.lambda_b": 1.0, "prompts.count": 1, "prompts.init": "uniform"}


def test_so_do_its_steps(tmp_path: Path) -> None:
    space = {"masks.band": {"float": [0.0, 0.2], "step": 0.1}, "prompts.length": {"int": [10, 30], "step": 10}}
    assert load_sweep(written(tmp_path, space=space)).distributions() == {
        "masks.band": FloatDistribution(0.0, 0.2, step=0.1), "prompts.length": IntDistribution(10, 30, step=10),
    }  # fmt: skip


def test_a_condition_that_is_not_searched_itself_holds_for_nothing(tmp_path: Path) -> None:
    space = {
        "prompts.init": {"choice": ["uniform", "word"]},
        "prompts.count": {"int": [1, 3], "when": {"prompts.init": "word"}},
        "masks.band": {"float": [0.0, 0.2], "when": {"prompts.count": 1}},
    }
    sweep, values = load_sweep(written(tmp_path, space=space)), {"prompts.count": 1, "masks.band": 0.1}
    assert sweep.searched({"prompts.init": "uniform", **values}) == {"prompts.init": "uniform"}
    assert sweep.searched({"prompts.init": "word", **values}) == {"prompts.init": "word", **values}


def test_all_conditions_of_a_key_must_hold() -> None:
    when = {"prompts.init": ["word", "normal"], "prompts.count": 1}
    both = Dimension.model_validate({"float": [0.1, 0.9], "when": when})
    for init, count, active in (("word", 1, True), ("normal", 1, True), ("uniform", 1, False), ("word", 2, False)):
        assert both.is_active({"prompts.init": init, "prompts.count": count}) is active
    assert not both.is_active({"prompts.init": "word"}) and not both.is_active({"prompts.count": 1})
    assert Dimension.model_validate({"float": [0.1, 0.9]}).is_active({})


def test_changes_reach_the_sweep_or_its_base(tmp_path: Path) -> None:
    path = written(tmp_path, base={"segment": {"epochs": 2}, "match.lambda_b": 2.0})
    sweep = load_sweep(path, {"trials": 9, "resources.cpu": 2, "data.train": 50, "selection": "oracle"})
    base = sweep.base_config()
    assert (sweep.trials, base.data.train, base.segment.epochs, base.match.lambda_b) == (9, 50, 2, 2.0)
    assert base.runtime.threads == 2 and base.selection == "oracle"
    assert base.runtime.device == "cpu"
    assert load_sweep(path, {"resources.gpu": 0.5}).base_config().runtime.device == "cuda"


def test_free_form_arguments_can_be_emptied(tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path, base={"generator": {"args": {}}}), {"segment.args": {}})
    assert sweep.base_config().generator.args == {} == sweep.base_config().segment.args


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": None}, "key 'selection' is missing"),
        (
            {"objective": "accuracy"},
            "objective is not allowed: objective 'accuracy' is neither pseudo_miou, seg_miou, ",
        ),
        ({"objective": "seconds"}, "at least one that a stage reports"),
        ({"objective": ["seg_miou", "seg_miou"]}, "name every objective once"),
        ({"trials": None}, "sweep.yaml: say when it ends: give trials, budget or time_limit"),
        ({"budget": "6 hours"}, "budget is not allowed: give a time like 90s, 30m, 6h"),
        ({"limits": {"gpu": 3}}, r"limits is not allowed: 'gpu' cannot be limited \(did you mean 'gpu_gb'\?\)"),
        ({"sampler": "tpes"}, r"sampler 'tpes' is neither cost-aware, .* \(did you mean 'tpe'\?\)"),
        ({"early_stopping": {"name": "meridian"}}, "early_stopping 'meridian' is neither median, asha, none"),
        ({"trackers": ["lines", {"name": "lines", "x": 1}]}, "name every tracker once"),
        ({"trackers": ["wandb"]}, "trackers 'wandb' is no entry point of the group tune.trackers"),
        ({"sampler": {"n_startup_trials": 3}}, "key 'sampler.name' is missing"),
        ({"objective": {"name": "metric", "metric": "x", "stage": "mask"}}, "'mask' is no stage"),
        ({"objective": {"name": "metric", "metric": "x"}}, "objective 'metric' does not take these settings"),
        ({"sampler": {"name": "tpe", "gamma": float("nan")}}, "gamma must be a finite number"),
        ({"sampler": "grid"}, "a grid needs a step for match.lambda_b, or choices"),
        (
            {"space": {"match.lambda_b": {"float": [1, 4], "log": True, "step": 0.5}}},
            "a step needs numbers",
        ),
        ({"space": {"seed": {"int": [0, 9]}}}, "seed cannot be searched"),
        (
            {"space": {"masks.band": {"float": [0, 1], "when": {"prompts.init": "word"}}}},
            "masks.band is searched when prompts.init has a value, so prompts.init must stand before it",
        ),
        ({"trails": 3}, r"unknown key 'trails' \(did you mean 'trials'\?\)"),
        (
            {"space": {"match.lamda": {"float": [1, 2]}}},
            r"space: unknown key 'match.lamda' \(did you mean 'match.lambda_b'",
        ),
        ({"space": {"masks.background": {"float": [0.5, 1.5]}}}, "space: masks.background = 1.5 is not allowed"),
        (
            {"space": {"masks.background": {"float": [0.6, 0.9]}}},
            "masks.background does not include its base value 0.5",
        ),
        ({"space": {"prompts.count": {"float": [1, 4]}}}, "prompts.count = 2.1.* is not allowed"),
        ({"space": {"segment.size": {"int": [32, 128]}}}, "segment.size = 33 is not allowed"),
        ({"space": {"match.lambda_b": {"float": [1, float("inf")]}}}, "should be a finite number"),
        ({"space": {"prompts.count": {"int": [1, 4], "step": 20}}}, "the step is larger than the range"),
        (
            {
                "space": {
                    "prompts.count": {"int": [1, 3]},
                    "masks.band": {"float": [0, 1], "when": {"prompts.count": 9}},
                }
            },
            "masks.band is searched when prompts.count is 9, which it never is",
        ),
        ({"resources": {"gpu": 1.5}}, "above 1 Ray knows whole numbers only"),
        ({"seed": 5_000_000_000}, "seed is not allowed"),
        ({"sampler": "cmaes", "objective": ["seg_miou", "seconds"]}, "cmaes knows one objective only"),
        ({"selection": "proxy", "base": {"segment.train_on": "ground_truth"}}, "none may train either"),
        (
            {"selection": "proxy", "space": {"clip.prompt": {"choice": ["a photo of {}", "a {}"]}}},
            "clip.prompt cannot be searched where CLIP is the judge",
        ),
        ({"space": {"prompts.count": {"int": [3, 1]}}}, "the low end must be below the high end"),
        ({"space": {"prompts.count": {"int": [1, 3], "float": [1, 3]}}}, "give exactly one of int, float, choice"),
        ({"space": {"match.lambda_b": {"float": [0, 3], "log": True}}}, "a log scale needs numbers above 0"),
        ({"base": {"selection": "oracle"}}, "base.selection differs from selection"),
        ({"base": {"matsh": {"lr": 1}}}, r"base: unknown key 'matsh'"),
        ({"name": "a/b"}, "name is not allowed"),
        ({"space": {"selection": {"choice": ["holdout", "oracle"]}}}, "selection cannot be searched"),
        (
            {"space": {"segment.train_on": {"choice": ["pseudo", "ground_truth"]}}},
            "segment.train_on cannot be searched",
        ),
        ({"preset": "none"}, "none: no such file"),
        ({"base": "voc"}, "base = 'voc' is not allowed"),
        ({"space": {"generator.kind": {"choice": ["cnn", "weaktr"]}}}, "generator.kind cannot be searched"),
        ({"space": {"data.seed": {"int": [0, 3]}}}, r"data\.seed cannot be searched"),
        ({"space": {"prompts.init": {"choice": ["normal", "word"]}}}, "does not include its base value uniform"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_sweep(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("6h", 21600), ("1h30m", 5400), ("2d", 172800), (45, 45)]
)
def test_budgets_are_times(tmp_path: Path, text: object, seconds: float) -> None:
    sweep = load_sweep(written(tmp_path, trials=None, budget=text))
    assert sweep.budget == seconds and sweep.trials is None


def test_no_budget_is_none(tmp_path: Path) -> None:
    assert load_sweep(written(tmp_path), {"budget": None, "time_limit": None}).budget is None


def test_files_mean_the_same_wherever_a_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    base = load_sweep(written(tmp_path, base={"data": {"kind": "folder", "root": "mine"}})).base_config()
    assert base.data.kind == "folder" and base.data.root == str(tmp_path / "mine")


def test_trials_end_where_their_objectives_are_known(tmp_path: Path) -> None:
    assert load_sweep(written(tmp_path)).last_stage == "segment"
    both = load_sweep(written(tmp_path, objective=["seconds", "pseudo_miou"]))
    assert both.last_stage == "masks" and both.directions == ["minimize", "maximize"]


def test_a_grid_is_every_point_once(tmp_path: Path) -> None:
    space = {
        "prompts.count": {"int": [1, 3]},
        "masks.background": {"float": [0.3, 0.5], "step": 0.1},
        "prompts.init": {"choice": ["uniform", "word"]},
        "masks.band": {"choice": [0.0, 0.1], "when": {"prompts.init": "word"}},
    }
    points = list(load_sweep(written(tmp_path, sampler="grid", trials=None, space=space)).grid())
    assert len(points) == 3 * 3 * (1 + 2) == len({tuple(point.items()) for point in points})
    assert {point["masks.background"] for point in points} == {0.3, 0.4, 0.5}
    assert all(("masks.band" in point) == (point["prompts.init"] == "word") for point in points)


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_sweep_is_valid_and_opens_with_its_command(path: Path) -> None:
    assert path.read_text().splitlines()[1].startswith(f"# semples-tune launch {path.stem}")
    assert find_sweep_file(path.stem) == path
    sweep = load_sweep(path, {"data.root": "somewhere"} if sweep_needs_data(path) else {})
    assert sweep.name == path.stem


def test_the_sweep_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    sweep = load_sweep(path)
    assert sweep.name == "mine" and sweep.base_config().data.root == "/data/VOCdevkit/VOC2012"
    assert sweep.space["masks.crf.bilateral_compat"].when == {"masks.crf.iterations": 10}


def sweep_needs_data(path: Path) -> bool:
    return bool(yaml.safe_load(path.read_text()).get("preset", "").startswith(("voc", "coco")))


def test_the_scenes_sweep_searches_what_the_paper_leaves_open() -> None:
    space = load_sweep(find_sweep_file("scenes")).space
    assert {"prompts.count", "prompts.length", "prompts.lambda_t", "match.lambda_b", "refine.lambda_r"} < set(space)
    assert {"masks.background", "masks.crf.gaussian_compat", "masks.crf.bilateral_compat"} < set(space)
