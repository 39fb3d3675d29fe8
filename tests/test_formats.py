"""Files of version 0.1.0 load for ever, those that are written say their format, and a newer one is one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from semples import config as configuration
from semples.config import RENAMED, CnnConfig, Config, dump, load, read_yaml
from semples.errors import UserError
from semples.formats import WRITTEN_BY
from semples.manifest import NewerError, intact, parse, read_manifest, seal
from semples.run_folder import RESULT_FORMAT, read_run
from tune import sweep_file, verdict
from tune.samplers import create_sampler
from tune.sweep_file import load_sweep, make_sweep
from tune.sweep_folder import check_same, load_launched, record
from tune.verdict import read_verdict

OLD = Path(__file__).parent / "fixtures" / "0.1.0"
STORED = next((OLD / "store").iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder that version 0.1.0 left behind, to be changed."""
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def test_a_sweep_of_0_1_0_loads() -> None:
    sweep = load_launched(OLD)
    assert (sweep.name, sweep.time_limit, [*sweep.space]) == ("tiny", 1800, ["generator.backbone", "masks.background"])
    assert sweep.distributions() and sweep.default_parameters() == {
        "generator.backbone": "resnet10t",
        "masks.background": 0.5,
    }


def test_an_export_of_0_1_0_loads() -> None:
    config, result = read_run(OLD / "export")
    assert isinstance(config.generator, CnnConfig)
    assert (config.generator.backbone, config.generator.out_indices) == ("resnet10t", (1, 2, 3, 4))
    assert result["metrics"]["seg_miou"] == pytest.approx(14.3037, abs=1e-4)
    assert load(OLD / "export" / "config.yaml") == config


def test_a_confirmation_of_0_1_0_loads() -> None:
    stored = json.loads((OLD / "confirm.json").read_text())
    verdict = read_verdict(OLD)
    assert (verdict.metric, verdict.winner, verdict.looks) == ("seg_miou", "", 1)
    # its interval was two-sided, and is another one now
    assert verdict.sentence.startswith("no winner: trial 1 leads with -1.7 points over the default") and (
        stored["sentence"].partition(",")[0] == verdict.sentence.partition(",")[0]
    )
    assert {*verdict.reported} == {"default", "trial 1"}


def test_a_stored_result_of_0_1_0_is_sound() -> None:
    assert intact(STORED) and read_manifest(STORED)["stage"] == "masks"


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_seed_suggests_what_it_did_in_0_1_0(sampler: str, tmp_path: Path) -> None:
    stored = json.loads((OLD / "suggestions.json").read_text())
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(stored["sweep"], sort_keys=False))
    sweep = load_sweep(tmp_path / "s.yaml", {"sampler": sampler})
    assert sweep.base_config().segment.train_on == "ground_truth" and sweep.time_limit == 8 * 3600
    assert sweep.space["prompts.count"].when == {"generator.backbone": "resnet14t"}
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sweep, sweep.seed))
    for expected in stored[sampler]:
        trial = study.ask(sweep.distributions())
        study.tell(trial, 50 - trial.params["match.lambda_b"] + trial.params["prompts.count"])
        assert nearly(trial.params) == nearly({RENAMED.get(key, key): value for key, value in expected.items()})


def nearly(parameters: dict[str, Any]) -> list[tuple[str, Any]]:
    """In their order, without the last digits."""
    return [(key, round(value, 9) if isinstance(value, float) else value) for key, value in parameters.items()]


def new_config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(dump(Config(), "a heading"))
    return folder / "config.yaml"


def new_sweep(folder: Path) -> Path:
    tree = {"name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 1}
    sweep = make_sweep({**tree, "space": {"masks.background": {"float": [0.3, 0.7]}}})
    record(sweep, folder)
    assert load_launched(folder).space == sweep.space
    return folder / "sweep.yaml"


@pytest.mark.parametrize("write", [new_config, new_sweep])
def test_what_is_written_says_its_format_and_who_wrote_it(write: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    tree = read_yaml(write(tmp_path / "folder"))
    assert [*tree.items()][:2] == [("format", 2), ("written_by", WRITTEN_BY)]


def test_a_stored_result_says_its_format_and_who_wrote_it() -> None:
    manifest = seal({**read_manifest(STORED)})
    assert (manifest["format"], manifest["written_by"]) == (2, WRITTEN_BY)


READERS: dict[str, Callable[[Path], object]] = {
    "sweep.yaml": load_launched,
    "export/config.yaml": lambda folder: read_run(folder / "export"),
    "export/result.json": lambda folder: read_run(folder / "export"),
    "confirm.json": read_verdict,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        (
            {"format": 3, "written_by": "semples-tune 0.3.0"},
            r": written by semples-tune 0\.3\.0 \(format 3\); this is \S+, which reads up to format 2: "
            r"update semples-tune$",
        ),
        ({"format": 99}, r": written by a later version of semples-tune \(format 99\); this is"),
        ({"format": "two"}, r": format 'two' is none; put back what was there"),
        ({"format": True}, r": format True is none"),
        ({"format": 0}, r": format 0 is none"),
    ],
)
def test_a_format_that_is_not_known_is_one_sentence(name: str, stamp: dict[str, Any], message: str, old: Path) -> None:
    tree = yaml.safe_load((old / name).read_text())
    (old / name).write_text(json.dumps({**stamp, **tree}))
    with pytest.raises(UserError, match=re.escape(str(old / name)) + message):
        READERS[name](old)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"values": {"default": []}}', '{"format": 2, "x": 1}'])
def test_a_damaged_file_is_one_sentence(name: str, text: str, old: Path) -> None:
    (old / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(str(old / name))) as error:
        READERS[name](old)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", [{"trial 1": [[1, 2]]}, {"default": [[1, 2]], "trial 1": []}, {"default": [[1, 2]], "a": [[1, 2]] * 2}]
)
def test_a_confirmation_that_compares_nothing_is_damaged(values: dict[str, Any], old: Path) -> None:
    (old / "confirm.json").write_text(json.dumps({"metric": "seg_miou", "values": values}))
    with pytest.raises(UserError, match="damaged"):
        read_verdict(old)


def test_a_manifest_of_a_newer_format_is_not_damaged() -> None:
    manifest = {**read_manifest(STORED), "format": 3, "written_by": "semples-tune 0.3.0"}
    with pytest.raises(NewerError, match=r"semples-tune 0\.3\.0 \(format 3\); this is .* up to format 2: update"):
        parse(json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"generator": {"body": "resnet14t"}}, r"'generator\.body' \(it is 'generator\.backbone' now\)"),
        ({"generator": {"maps": [4]}}, r"'generator\.maps' \(it is 'generator\.out_indices' now\)"),
        ({"segment": {"train_on": "truth"}}, "train_on = 'truth' is not allowed: .*'ground_truth'"),
    ],
)
def test_an_old_name_is_known_without_a_format_and_an_error_in_the_new_one(
    tree: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    for stamp in ({}, {"format": 1}):
        file.write_text(yaml.safe_dump({**stamp, **tree}))
        assert load(file) != Config()
    file.write_text(yaml.safe_dump({"format": 2, **tree}))
    with pytest.raises(UserError, match=f"^{re.escape(str(file))}: .*{message}"):
        load(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wall": "8h"}, r"unknown key 'wall' \(it is 'time_limit' now\)"),
        ({"base": {"generator.body": "resnet14t"}}, r"'generator\.body' \(it is 'generator\.backbone' now\)"),
        (
            {"space": {"generator.body": {"choice": ["resnet10t", "resnet14t"]}}},
            r"'generator\.body' \(it is 'generator\.backbone' now\)",
        ),
    ],
)
def test_so_it_is_in_a_sweep_file(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    tree = {
        "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 3,
        "space": {"match.lambda_b": {"float": [1, 4]}}, **changes,
    }  # fmt: skip
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(tree))
    load_sweep(file)
    file.write_text(yaml.safe_dump({"format": 2, **tree}))
    with pytest.raises(UserError, match=message):
        load_sweep(file)


def test_an_old_name_on_the_command_line_is_an_error_that_names_the_new_one() -> None:
    with pytest.raises(UserError, match=r"'generator\.body' \(it is 'generator\.backbone' now\)"):
        load(None, {"generator.body": "resnet14t"})
    with pytest.raises(UserError, match=r"'wall' \(it is 'time_limit' now\)"):
        load_sweep(sweep_file.find_sweep_file("scenes"), {"wall": "8h"})


def test_both_names_of_a_key_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("generator: {body: resnet14t, backbone: resnet10t}")
    with pytest.raises(UserError, match=r"c\.yaml: the key 'generator\.body' is 'generator\.backbone' now, and both"):
        load(tmp_path / "c.yaml")


def test_all_formats_have_one_number() -> None:
    formats = (configuration.FORMAT, sweep_file.FORMAT, RESULT_FORMAT, verdict.FORMAT)
    assert {known.number for known in formats} == {2}


def test_a_study_of_0_1_0_that_searched_a_renamed_key_is_not_gone_on_with(old: Path) -> None:
    sweep = load_launched(old)
    study = optuna.create_study(storage=f"sqlite:///{old / 'study.db'}", study_name="tiny", direction="maximize")
    study.enqueue_trial({"generator.body": "resnet10t"})
    study.ask({"generator.body": optuna.distributions.CategoricalDistribution(("resnet10t", "resnet14t"))})
    with pytest.raises(UserError, match=r"searched 'generator\.body', which has another name now; launch with another"):
        check_same(sweep, old)
