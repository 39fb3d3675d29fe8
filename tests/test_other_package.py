"""A package of somebody else adds a data layout and stages; runs, keys and sweeps take them as ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL, Command
from jsonschema import Draft202012Validator
from pydantic import BaseModel
from trees import write_tiles

from semples.config import Config, parse, read_config, with_changes
from semples.data import png_archive
from semples.errors import UserError
from semples.pipeline import graph as graphs
from semples.pipeline.graph import STAGES, graph, latest
from semples.pipeline.keys import differences, key_parts, stage_keys, view
from semples.pipeline.run import Result
from semples.preflight import check
from semples.results import make_key
from semples.stage import Stage, fixed
from semples.testing.stages import StageContract
from tune.keys import sweep_schema
from tune.sweep_file import make_sweep

BOTH: dict[str, Any] = {**SMALL, "stages": {"smooth": {"radius": 3}, "count": {}}}


@pytest.fixture
def both(other_package: Path) -> Config:
    return parse(BOTH, "test")


class TestStages(StageContract):
    @pytest.fixture
    def config(self, both: Config) -> Config:
        return both

    @pytest.fixture(params=["smooth", "count"])
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


def test_what_a_stage_refines_is_read_by_whoever_reads_that(both: Config, run_in: Callable[..., Result]) -> None:
    refined, plain = run_in(both), run_in(with_changes(both, {"stages": {}}, "test"))
    assert list(refined.folders) == [
        "classify", "match", "prompts", "refine", "heatmaps", "smooth", "masks", "count", "measured_heatmaps",
        "measured_smooth", "measured_masks", "segment",
    ]  # fmt: skip
    assert plain.reused == ("classify", "match", "prompts", "refine", "heatmaps", "measured_heatmaps")
    assert refined.metrics["smooth/changed"] > 1 and 0 < refined.metrics["count/share"] < 1
    assert refined.metrics["heatmaps/cam_miou"] == plain.metrics["heatmaps/cam_miou"]
    for stage, split in (("masks", plain.data.holdout), ("measured_masks", plain.data.train)):
        old, new = (png_archive.Reader(run.folders[stage] / png_archive.FILE) for run in (plain, refined))
        assert any((old.read(name) != new.read(name)).any() for name in split.names)
    assert run_in(both).reused == tuple(graph(both, refined.data))
    assert latest(both, refined.folders)["heatmaps"] == refined.folders["smooth"]
    without = run_in(with_changes(both, {"stages.smooth.radius": 0}, "test"))
    assert without.metrics["pseudo_miou"] == plain.metrics["pseudo_miou"]


def test_a_stage_that_only_measures_changes_no_result(both: Config) -> None:
    with_it = stage_keys(both, "data")
    without = stage_keys(parse({**SMALL, "stages": {"smooth": {"radius": 3}}}, "test"), "data")
    assert {name: with_it[name] for name in without} == without


def test_why_tells_the_setting_and_the_package(both: Config, other_package: Path) -> None:
    before = key_parts(both, "data")
    other = key_parts(with_changes(both, {"stages.smooth.radius": 4}, "test"), "data")
    known = {make_key(**parts): parts for parts in (*before.values(), *other.values())}
    assert differences(before["segment"], other["segment"], known) == ["stages.smooth.radius: 3, 4"]
    assert before["refine"] == other["refine"]
    file = other_package / "other_smoothing.py"
    file.write_text(file.read_text().replace("BoxBlur", "GaussianBlur"))
    importlib.reload(sys.modules["other_smoothing"])
    edited = key_parts(both, "data")
    known |= {make_key(**parts): parts for parts in edited.values()}
    (why,) = differences(before["masks"], edited["masks"], known)
    assert why.startswith("code of other_smoothing: ")
    assert {name for name in edited if edited[name] != before[name]} == {
        *(f"{of}{name}" for of in ("", "measured_", "rest_") for name in ("smooth", "masks")),
        "count", "segment",
    }  # fmt: skip


def test_a_stage_is_given_its_own_settings_only(both: Config) -> None:
    assert view(both, "smooth").stages == {"smooth": {"radius": 3}} and view(both, "count").stages == {"count": {}}
    with pytest.raises(AttributeError, match=r"stage masks reads stages, which its `reads` does not name"):
        _ = view(both, "masks").stages


def test_settings_that_are_not_given_have_their_defaults(other_package: Path) -> None:
    assert parse({"stages": {"smooth": {}}}, "test").stages == {"smooth": {"radius": 2}}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"smoothe": {}}, r"'smoothe' is no entry point of the group semples\.stages \(did you mean 'smooth'\?\)"),
        ({"masks": {}}, r"test: stages\.masks cannot be the name of a stage"),
        ({"Smooth": {}}, r"test: stages\.Smooth cannot be the name of a stage"),
        ({"smooth": 3}, r"test: stages\.smooth = 3 is not allowed"),
        ({"smooth": {"radius": "far"}}, r"test: stages\.smooth\.radius = 'far' is not allowed"),
        ({"smooth": {"radius": 99}}, r"test: stages\.smooth\.radius = 99 is not allowed"),
        ({"smooth": {"radios": 1}}, r"unknown key 'stages\.smooth\.radios' \(did you mean 'stages\.smooth\.radius'"),
        ({"count": {"x": 1}}, r"unknown key 'stages\.count\.x'"),
    ],
)
def test_what_cannot_be_a_stage_is_named(other_package: Path, stages: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse({"stages": stages}, "test")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("other_count", r"stages\.count: its package gives <module 'other_count'"),
        ("other_nowhere:STAGE", r"stages: 'count': its package gives no other_nowhere:STAGE"),
    ],
)
def test_a_package_that_gives_no_stage_is_named(other_package: Path, entry: str, message: str) -> None:
    (file,) = other_package.rglob("entry_points.txt")
    file.write_text(file.read_text().replace("count = other_count:STAGE", f"count = {entry}"))
    with pytest.raises(UserError, match=message):
        parse({"stages": {"count": {}}}, "test")


@pytest.mark.parametrize("settings", [BaseModel, {"radius": 3}])
def test_settings_that_are_no_section_are_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semples.config.tree.find", lambda name: Stage("other", settings=settings))
    with pytest.raises(UserError, match=r"stages\.mine: its settings .* are no Section of semples\.config"):
        parse({"stages": {"mine": {}}}, "test")


@pytest.mark.parametrize("module", ["other_nowhere", "other_layout"])
def test_a_stage_without_code_is_named_before_a_run(other_package: Path, module: str) -> None:
    file = other_package / "other_count.py"
    file.write_text(file.read_text().replace('Stage("other_count"', f'Stage("{module}"'))
    with pytest.raises(UserError, match=f"stages: {module} is no module with a `run`"):
        check(parse({**SMALL, "stages": {"count": {}}}, "test"))


def of_stages(monkeypatch: pytest.MonkeyPatch, **stages: Stage) -> Config:
    monkeypatch.setattr(graphs, "find", stages.__getitem__)
    return Config().model_copy(update={"stages": {name: {} for name in stages}})


def test_several_refine_in_the_order_in_which_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    config = of_stages(
        monkeypatch,
        b=Stage("b", refines="heatmaps"),
        last=Stage("last", inputs=fixed("masks")),
        a=Stage("a", refines="heatmaps", inputs=fixed("masks_of_others", "refine")),
        masks_of_others=Stage("m"),
        thin=Stage("thin", refines="masks"),
    )
    stages = graph(config)
    assert stages["b"].sources == {"heatmaps": "heatmaps"}
    assert stages["a"].sources == {"heatmaps": "b", "masks_of_others": "masks_of_others", "refine": "refine"}
    assert stages["masks"].sources == {"heatmaps": "a"} and stages["thin"].sources == {"masks": "masks"}
    assert stages["last"].sources == {"masks": "thin"}
    of_training = {"measured_masks": "measured_thin", "rest_masks": "rest_thin"}
    assert stages["segment"].sources == of_training
    assert stages["measured_b"].sources == {"heatmaps": "measured_heatmaps", "judged": "b"}
    assert stages["rest_a"].sources == {
        "heatmaps": "rest_b", "masks_of_others": "masks_of_others", "refine": "refine",
    }  # fmt: skip
    assert stages["measured_masks"].sources == {"heatmaps": "measured_a", "judged": "masks"}
    assert [name for name in stages if name in STAGES] == list(STAGES)
    order = list(stages)
    assert all(order.index(source) < order.index(name) for name in order for source in stages[name].sources.values())
    assert latest(config, {name: name for name in stages}) == {
        **{name: name for name in stages}, "heatmaps": "a", "masks": "thin", **of_training,
        "measured_heatmaps": "measured_a", "rest_heatmaps": "rest_a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": Stage("a", refines="heatmaps", inputs=fixed("masks"))}, "stages: a cannot be run"),
        ({"a": Stage("a", inputs=fixed("b")), "b": Stage("b", inputs=fixed("a"))}, "stages: a, b cannot be run"),
        ({"a": Stage("a", inputs=fixed("a"))}, "stages: a cannot be run"),
        ({"a": Stage("a", inputs=fixed("mask"))}, r"stages\.a: is made from 'mask', which is no stage of this run"),
        ({"a": Stage("a", refines="crf")}, r"stages\.a: refines 'crf', which is no stage of classify, "),
    ],
)
def test_stages_that_do_not_fit_together_are_named(
    monkeypatch: pytest.MonkeyPatch, stages: dict[str, Stage], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        graph(of_stages(monkeypatch, **stages))


def test_a_run_on_a_layout_of_another_package(other_package: Path, tmp_path: Path, command: Command) -> None:
    write_tiles(tmp_path / "set")
    code, out, err = command("semples", "data", "check", "set", "args.every=5", "holdout=8")
    assert code == 0 and "layout: tiles" in out and "kind: tiles" in out, err
    tree = {**BOTH, "data": {"kind": "tiles", "root": "set", "holdout": 8, "args": {"every": 5}}}
    Path("c.yaml").write_text(yaml.safe_dump(tree))
    code, out, err = command("semples", "run", "c.yaml", "--out", "r")
    assert code == 0 and "pseudo mask mIoU" in out, err
    assert read_config(Path("r/config.yaml"))["stages"] == {"smooth": {"radius": 3}, "count": {}}
    assert len(list(Path("r/masks").iterdir())) == 24
    code, out, err = command("semples", "stages", "c.yaml", "--out", "r")
    assert code == 0 and out.count(" stored ") == 12 and "smooth" in out, err
    code, out, err = command("semples", "store", "du", "r/store")
    assert code == 0 and "smooth" in out and "count" in out, err


def test_a_sweep_searches_settings_of_a_stage(other_package: Path, tmp_path: Path) -> None:
    config = write_tiles(tmp_path / "set").model_dump(mode="json")
    tree = {
        "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 3,
        "base": {"data": config, "stages": {"smooth": {}}}, "space": {"stages.smooth.radius": {"int": [0, 5]}},
    }  # fmt: skip
    assert [*Draft202012Validator(sweep_schema()).iter_errors(tree)] == []
    sweep = make_sweep(tree)
    assert list(sweep.distributions()) == ["stages.smooth.radius"]
    assert sweep.base["stages"] == {"smooth": {"radius": 2}} and sweep.base["data"]["kind"] == "tiles"
    with pytest.raises(UserError, match=r"stages\.smooth\.radius"):
        make_sweep({**tree, "space": {"stages.smooth.radius": {"int": [0, 50]}}}).distributions()
