from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semples import generators
from semples.config import PRESETS, Config, assignments, dump, find_config, keys, load, override, parse, to_dict
from semples.errors import UserError
from semples.stages.segment import build_network


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


def test_another_kind_replaces_the_section() -> None:
    full = to_dict(load(None, {"generator.stride": 16, "data.train": 50}))
    config = parse(override(full, {"generator.pool": "mean", "generator.kind": "weaktr"}), "test")
    assert config.generator.kind == "weaktr" and config.generator.pool == "mean"
    assert parse(override(full, {"data.kind": "folder", "data.root": "x"}), "test").data.root == "x"
    assert parse(override(full, {"generator.kind": "cnn"}), "test").generator.stride == 16


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
        (["data.kind=[voc]"], r"data.kind = \['voc'\] is not allowed"),
        (
            ["data.kind=sun", "data.train=4"],
            "unknown key 'data.train': only the kinds scenes, voc, coco and folder can",
        ),
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


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_valid_and_opens_with_its_command(path: Path) -> None:
    assert path.read_text().splitlines()[1].startswith(f"# semples run {path.stem}")
    assert find_config(path.stem) == path
    config = load(path, {"data.root": "somewhere"} if "data.root=" in path.read_text() else {})
    classes = len(getattr(config.data, "classes", "12345678"))
    assert generators.build(config.generator, classes).refinement_parameters()
    assert build_network(config.segment, classes)


def test_the_presets_have_the_released_values() -> None:
    voc, coco = (load(find_config(name), {"data.root": "somewhere"}) for name in ("voc", "coco"))
    assert len(voc.data.classes) == 20 and len(coco.data.classes) == 80
    for config, b, c, d in ((voc, 64, 128, 64), (coco, 32, 128, 24)):
        assert (config.match.batch, config.prompts.batch, config.refine.batch) == (b, c, d)
        assert {config.match.epochs, config.prompts.epochs, config.refine.epochs} == {60}
        assert {config.match.weight_decay, config.prompts.weight_decay, config.refine.weight_decay} == {0.03}
        assert (config.prompts.count, config.prompts.length, config.prompts.init) == (1, 30, "uniform")
    # effective learning rate = lr of the command * batch / 512
    assert voc.match.lr == voc.refine.lr == pytest.approx(5.12e-4 * 64 / 512)
    assert (voc.prompts.lr, coco.prompts.lr) == pytest.approx((0.1 * 128 / 512, 0.01 * 128 / 512))
    assert (coco.match.lr, coco.refine.lr) == pytest.approx((5.12e-6 * 32 / 512, 5.12e-6 * 24 / 512))
    assert voc.classify.lr == pytest.approx(6e-4 * 64 / 512) and voc.classify.warmup == 5
    assert (voc.match.lambda_b, voc.prompts.lambda_t, voc.refine.lambda_r) == (2.4, 0.02, 0.05)
    assert (coco.match.lambda_b, coco.prompts.lambda_t, coco.refine.lambda_r) == (0.75, 0.01, 0.2)
    assert {voc.match.mask_eps, coco.match.mask_eps} == {0.1}
    assert {voc.prompts.mask_eps, coco.prompts.mask_eps} == {1e-4}
    assert (voc.heatmaps.scales, coco.heatmaps.scales) == ((1.0, 1.2), (0.8, 1.0, 1.2))
    assert [getattr(voc.masks.crf, k) for k in CRF] == [10, 0.7, 4, 3, 83, 5, 3]
    assert [getattr(coco.masks.crf, k) for k in CRF] == [10, 0.7, 3, 3, 50, 5, 10]


CRF = (
    "iterations", "gt_prob", "gaussian_sxy", "gaussian_compat", "bilateral_sxy", "bilateral_srgb", "bilateral_compat"
)  # fmt: skip


def test_the_resolved_configuration_lists_every_key() -> None:
    tree = yaml.safe_load(dump(Config()))
    assert tree["runtime"]["threads"] == 1 and tree["selection"] == "holdout"
