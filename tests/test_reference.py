"""Every key says what it means: in a table, and to editors by JSON schemas that take what the loaders take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from semples.config import PRESETS, UNIONS, Config, dump, keys, load
from semples.errors import UserError
from semples.keys import config_schema, walk
from tune.keys import sweep_schema
from tune.sweep_file import SWEEPS, Sweep, load_sweep

ROOT = Path(__file__).parent.parent
COMMITTED = {"semples": ROOT / "semples/schemas/config.json", "semples-tune": ROOT / "tune/schemas/sweep.json"}


def undescribed(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of properties, in a schema and its definitions, of which it says nothing."""
    found = [f"{prefix}{name}" for name, of in schema.get("properties", {}).items() if not of.get("description")]
    return found + [key for name, of in schema.get("$defs", {}).items() for key in undescribed(of, f"{name}.")]


@pytest.mark.parametrize("model", [Config, Sweep], ids=lambda model: model.__name__)
def test_every_key_is_described(model: type[BaseModel]) -> None:
    assert not undescribed(model.model_json_schema())


@pytest.mark.parametrize("program", COMMITTED)
def test_the_committed_schemas_are_what_the_command_prints(program: str, command: Command) -> None:
    code, out, _ = command(program, "keys", "--json")
    assert code == 0 and COMMITTED[program].read_text() == out, f"run: {program} keys --json > {COMMITTED[program]}"
    Draft202012Validator.check_schema(json.loads(out))


def mistakes(schema: dict[str, Any], tree: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(tree)]


@pytest.mark.parametrize(
    ("file", "schema"),
    [(file, config_schema()) for file in sorted(PRESETS.glob("*.yaml"))]
    + [(file, sweep_schema()) for file in sorted(SWEEPS.glob("*.yaml"))],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_shipped_files_name_the_schema_that_takes_them(file: Path, schema: dict[str, Any]) -> None:
    first = file.read_text().splitlines()[0]
    named = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert json.loads(named.read_text()) == schema and not mistakes(schema, yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"masks": {"crf": {"iterations": 0}}},
        {"data": {"train": 9}},
        {"data": {"holdout": 9}},
        {"data": {"kind": "voc"}},
        {"data": {"kind": "coco", "root": "x", "measured": 9}},
        {"data": {"kind": "folder", "root": "x"}},
        {"data": {"kind": "sun", "root": "x", "args": {"every": 5}}},
        {"generator": {"out_indices": [3, 4]}},
        {"generator": {"kind": "cnn", "args": {"stem_width": 8}}},
        {"generator": {"kind": "weaktr", "pool": "mean"}},
        {"generator": {"kind": "mine", "args": {"width": 8}}},
        yaml.safe_load(dump(Config())),
    ],
    ids=str,
)
def test_the_schema_takes_parts_of_a_configuration(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    needs_root = tree.get("data", {}).get("kind", "scenes") != "scenes"
    load(tmp_path / "c.yaml", {"data.root": "x"} if needs_root else {})
    assert not mistakes(config_schema(), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"matsh": {}},
        {"match": {"lambda": 1}},
        {"match": {"epochs": 0}},
        {"masks": {"background": 1.5}},
        {"data": {"root": "x"}},
        {"data": {"kind": "sun", "measured": 9}},
        {"data": {"kind": "voc", "root": "x", "measured": 9}},
        {"generator": {"pool": "mean"}},
        {"generator": {"kind": "weaktr", "stride": 8}},
        {"generator": {"kind": "mine", "backbone": "x"}},
        {"generator": {"body": "resnet14t"}},
        {"segment": {"train_on": "truth"}},
        {"segment": {"size": 50}},
        {"format": 3},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_loader_refuses(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"format": 2, **tree}))
    with pytest.raises(UserError):
        load(tmp_path / "c.yaml")
    assert mistakes(config_schema(), tree)


SWEEP = {
    "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 3,
    "space": {"match.lambda_b": {"float": [1, 4]}},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": ["seg_miou", "seconds"], "limits": {"gpu_gb": 3}},
        {"budget": "1h30m", "time_limit": 90},
        {"base": {"segment": {"epochs": 2}, "match.lambda_b": 2.0, "masks.crf": {"iterations": 2}}},
        {"base": {"generator.kind": "weaktr", "generator.pool": "mean"}},
        {"base": {"generator.args.stem_width": 16}},
        {"space": {"generator.args.stem_width": {"int": [8, 16]}}},
        {"space": {"prompts.init": {"choice": ["uniform", "word"]}, "prompts.count": {"int": [1, 4], "step": 3}}},
        {
            "space": {
                "prompts.count": {"int": [1, 4]},
                "masks.band": {"float": [0, 1], "when": {"prompts.count": [2, 3]}},
            }
        },
    ],
    ids=str,
)
def test_the_schema_of_sweeps_knows_the_keys_of_base_and_space(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    load_sweep(tmp_path / "s.yaml")
    assert not mistakes(sweep_schema(), {**SWEEP, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"trails": 3},
        {"wall": "8h"},
        {"budget": "6 hours"},
        {"objective": []},
        {"limits": {"gpu": 3}},
        {"base": {"match": {"lambda": 1}}},
        {"base": {"match.lambda": 1}},
        {"space": {"match.lambda": {"float": [1, 4]}}},
        {"space": {"seed": {"int": [0, 4]}}},
        {"space": {"data.seed": {"int": [0, 4]}}},
        {"space": {"generator.kind": {"choice": ["cnn"]}}},
        {"space": {"prompts.count": {"int": [1, 2.5]}}},
        {"space": {}},
    ],
    ids=str,
)
def test_the_schema_of_sweeps_refuses_what_the_loader_refuses(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"format": 2, **SWEEP, **changes}))
    with pytest.raises(UserError):
        load_sweep(tmp_path / "s.yaml")
    assert mistakes(sweep_schema(), {**SWEEP, **changes})


def test_the_table_has_every_key() -> None:
    found = [key for key in walk(config_schema()) if not key.is_section]
    own = {key.partition(".args.")[0] + (".args" if ".args." in key else "") for key in keys(Config())}
    assert own <= {key.name for key in found}
    for section, forms in UNIONS.items():
        for kind, form in forms.items():
            of_kind = {key.name for key in found if key.kind == kind and key.name.startswith(f"{section}.")}
            assert of_kind == {f"{section}.{name}" for name in form.model_fields}


def test_keys_are_shown_with_values_default_and_meaning(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = command("semples", "keys", "prompts.count")
    assert code == 0 and "prompts.lambda_t" not in out
    (line,) = [line for line in out.splitlines() if "prompts.count" in line]
    assert [word.strip() for word in line.split("│")[1:-1]] == [
        "prompts.count", "integer 1 to 16", "1", "Prompts of a class; released: 1."
    ]  # fmt: skip
    code, out, _ = command("semples-tune", "keys", "store_gb")
    assert code == 0 and "10^9 bytes" in out and "number > 0 or empty" in out
    code, _, err = command("semples", "keys", "promts.")
    assert code == 2 and "no key begins with 'promts.'" in err and "did you mean 'prompts." in err
