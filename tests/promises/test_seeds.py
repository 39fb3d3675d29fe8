"""Two seeds are two different runs, and one seed is the same bits.

The random stream of a stage depends on the run's seed and the stage's name, on nothing else: not on what the process
drew before, nor on which stages it computed. What draws numbers elsewhere (scenes, splits, samplers) has a seed, too.
That confirm's seeds are none of the sweep's is in test_choosing.py.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from conftest import SMALL
from trees import DATA, write_coco_toco, write_folder, write_voc

from semples.clip import load_clip
from semples.config import ClipConfig, Config, DataConfig, parse, with_changes
from semples.data import load_data, scenes
from semples.data.listing import draw_test
from semples.manifest import read_mark
from semples.pipeline import STAGES, Result, run
from semples.store import Store
from semples.training import label_batches, seed_stream
from tune.space import Sweep
from tune.study import prepare

DRAWING = ("classify", "match", "prompts", "refine", "segment")


def draw() -> tuple[float, float, float]:
    """A number of each of the three streams that a stage may use."""
    return random.random(), float(np.random.random()), float(torch.rand(()))


def drawn(seed: int, stage: str) -> tuple[float, float, float]:
    seed_stream(seed, stage)
    return draw()


def files(result: Result) -> dict[str, Any]:
    return {stage: read_mark(folder)["files"] for stage, folder in result.folders.items()}


def test_a_stream_depends_on_seed_and_stage_and_on_nothing_else() -> None:
    first = drawn(0, "match")
    draw()
    assert drawn(0, "match") == first
    streams = [drawn(seed, stage) for seed in range(3) for stage in STAGES]
    for kind in zip(*streams, strict=True):
        assert len({*kind}) == len(streams)
    assert drawn(1, "1match") != drawn(11, "match")


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    config = parse({**SMALL, "seed": 1}, "small")
    return run(config, Store(tmp_path_factory.mktemp("seed") / "store"), lambda event: None)


def test_two_seeds_differ_in_every_stage(small_run: Result, other_seed: Result) -> None:
    one, two = files(small_run), files(other_seed)
    assert [stage for stage in STAGES if one[stage] == two[stage]] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_draws_numbers_draws_others_with_another_seed(
    stage: str, small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same inputs, so that nothing but its own stream can make the difference."""
    monkeypatch.setattr("semples.pipeline.STAGES", {stage: dataclasses.replace(STAGES[stage], inputs=lambda c: ())})
    of_stage = STAGES[stage].run

    def from_small_run(config: Config, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        return of_stage(config, data, small_run.folders, out, log)

    monkeypatch.setitem(
        __import__("semples.pipeline", fromlist=["STAGES"]).STAGES,
        stage,
        dataclasses.replace(STAGES[stage], inputs=lambda c: (), run=from_small_run),
    )
