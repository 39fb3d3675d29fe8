from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semples.config import Config, assignments, dump, keys, load, override, parse, to_dict
from semples.errors import UserError


def test_what_is_dumped_loads_as_the_same(tmp_path: Path) -> None:
    config = parse({"match": {"lambda_b": 1.25}, "heatmaps": {"scales": [0.5, 1]}}, "test")
    path = tmp_path / "config.yaml"
    path.write_text(dump(config, "a heading\nof two lines"))
    assert load(path) == config


def test_dotted_changes() -> None:
    config = load(None, assignments(["masks.crf.gt_prob=0.8", "prompts.init=word", "heatmaps.scales=[1.0, 2.0]"]))
    assert config.masks.crf.gt_prob == 0.8
    assert config.prompts.init == "word"
    assert config.heatmaps.scales == (1.0, 2.0)
    assert config.match == Config().match


def test_every_key_can_be_set_from_the_command_line() -> None:
    tree = to_dict(Config())
    for key in keys(Config()):
        if ".args." in key:
            continue  # free-form: giving a part of them gives all of them
        value = tree
        for part in key.split("."):
            value = value[part]
        assert parse(override({}, {key: value}), "test") == Config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["mtach.lambda_b=1"], r"unknown key 'mtach' \(did you mean 'match'\?\)"),
        (["match.lamda_b=1"], r"unknown key 'match.lamda_b' \(did you mean 'match.lambda_b'\?\)"),
        (["masks.background=1.5"], "masks.background = 1.5 is not allowed: input should be less than or equal to 1"),
        (["prompts.count=0"], "prompts.count = 0 is not allowed"),
        (["match.lr=fast"], "match.lr = 'fast' is not allowed"),
        (["data.kind=imagenet"], "data"),
        (["data.kind=voc"], "key 'data.root' is missing"),
        (["data.trian=4"], r"unknown key 'data.trian' \(did you mean 'data.train'\?\)"),
        (["lambda_b"], "not of the form key=value"),
        (["match=[1"], "not valid YAML"),
    ],
)
def test_mistakes_are_named(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(None, assignments(changes))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.yaml")
    for text, message in (("a: [1", "not valid YAML"), ("- 1", "expected 'key: value' lines")):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(path)


def test_the_resolved_configuration_lists_every_key() -> None:
    tree = yaml.safe_load(dump(Config()))
    assert tree["runtime"]["threads"] == 1 and tree["selection"] == "holdout"
