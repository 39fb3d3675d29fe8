"""The contract of a stage of another package, see semples.stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from semples.analytic import SCORES
from semples.config import Config
from semples.data import load_data, png_archive
from semples.manifest import STAGE, read_manifest
from semples.pipeline.graph import graph
from semples.pipeline.keys import stage_keys
from semples.pipeline.run import Result, run
from semples.store import Store


class StageContract:
    """What a run relies on. Take it as base class and give the fixtures `config`, a configuration with the stage in its
    section `stages` that runs in seconds, and `name`, the name of the stage there."""

    @pytest.fixture
    def config(self) -> Config:
        raise NotImplementedError

    @pytest.fixture
    def name(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Any:
        with Store(tmp_path / "store") as store:
            yield store

    @pytest.fixture
    def result(self, config: Config, name: str, store: Store) -> Result:
        return run(config, store, lambda event: None, until=name)

    def test_it_has_a_place_among_the_stages(self, config: Config, name: str) -> None:
        assert STAGE.fullmatch(name)
        before = [*graph(config)][: [*graph(config)].index(name)]
        assert {*graph(config)[name].sources.values()} <= {*before}

    def test_its_settings_say_what_they_mean(self, config: Config, name: str) -> None:
        model = graph(config)[name].settings
        for key, field in model.model_fields.items() if model else ():
            assert field.description, key

    def test_it_gives_files_and_finite_metrics(self, result: Result, name: str) -> None:
        manifest = read_manifest(result.folders[name])
        assert manifest["files"] and all(math.isfinite(value) for value in manifest["metrics"].values())

    def test_its_result_is_reused(self, result: Result, config: Config, name: str, store: Store) -> None:
        again = run(config, store, lambda event: None, until=name)
        assert name in again.reused and again.metrics == result.metrics

    def test_it_gives_the_same_bits_again(self, result: Result, config: Config, name: str, tmp_path: Path) -> None:
        with Store(tmp_path / "other") as other:
            again = run(config, other, lambda event: None, until=name)
            assert read_manifest(again.folders[name])["files"] == read_manifest(result.folders[name])["files"]

    def test_its_settings_count(self, config: Config, name: str) -> None:
        """Whatever is set makes another result: that a setting may mean nothing is not known here."""
        keys = stage_keys(config, "data")
        for setting in config.stages[name]:
            stages = {**config.stages, name: {**config.stages[name], setting: "something else"}}
            assert stage_keys(config.model_copy(update={"stages": stages}), "data")[name] != keys[name]

    def test_what_refines_a_result_gives_it_in_the_same_form(self, result: Result, config: Config, name: str) -> None:
        refined = graph(config)[name].refines
        if not refined:
            pytest.skip("it refines nothing")
        before, after = result.folders[graph(config)[name].sources[refined]], result.folders[name]
        # scores of what was there before say nothing of this
        assert {*read_manifest(before)["files"]} - {SCORES} <= {*read_manifest(after)["files"]}
        if images := graph(config)[name].images:
            old, new = (png_archive.Reader(folder / png_archive.FILE) for folder in (before, after))
            for image in load_data(config.data, config.selection).treating(images).images.names:
                assert new.read(image).shape == old.read(image).shape
                assert new.read(image).dtype == old.read(image).dtype
