"""A small run lands where runs of sound code land.

The bands are four standard deviations around the mean over eight seeds, measured by benchmarks/golden.py: a run that is
wrong and yet the same every time falls out of them. Figures of one machine and those of another lie in the same bands.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semples.config import load
from semples.pipeline.run import run
from semples.store import Store

HERE = Path(__file__).parent
GOLDEN: dict[str, float] = json.loads((HERE / "golden.json").read_text())
NAMES = [name.removeprefix("mean/") for name in GOLDEN if name.startswith("mean/")]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    with Store(tmp_path_factory.mktemp("golden")) as store:
        return run(load(HERE / "golden.yaml"), store, lambda event: None).metrics


@pytest.mark.parametrize("name", NAMES)
def test_a_milestone_lies_where_those_of_sound_code_lie(metrics: dict[str, float], name: str) -> None:
    assert abs(metrics[name] - GOLDEN[f"mean/{name}"]) <= 4 * GOLDEN[f"sd/{name}"]


def test_every_milestone_has_a_band(metrics: dict[str, float]) -> None:
    assert {name for name in metrics if name.endswith("miou")} == {*NAMES}


def test_match_finds_what_classify_does_not(metrics: dict[str, float]) -> None:
    assert metrics["match/holdout/cam_miou"] > 2 * metrics["classify/holdout/cam_miou"]
