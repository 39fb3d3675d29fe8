"""What a stage took is told: seconds of the clock, of all processors and of the GPU, and how long it was waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL

from semples.config import parse, with_changes
from semples.manifest import read_manifest
from semples.pipeline.compute import SECONDS
from semples.pipeline.graph import graph
from semples.pipeline.run import Event, Result, run
from semples.stage import Stage
from semples.store import WORK, Store
from tune.messages import StageDone
from tune.searcher import spent_on

CONFIG = parse(SMALL, "small")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stages that take what the list says: seconds of the clock, of this process, and of one that it starts."""
    takes = [0.0, 0.0, 0.0]

    def compute(config: Any, data: Any, inputs: Any, out: Path, log: Callable[..., None]) -> dict[str, float]:
        (out / "file").touch()
        time.sleep(takes[0])
        burn(takes[1])
        if takes[2]:
            if not (child := os.fork()):
                burn(takes[2])
                os._exit(0)
            os.waitpid(child, 0)
        log(1, 1)
        return {}

    monkeypatch.setattr(Stage, "load", lambda stage: compute)
    return takes


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def ended(store: Path, until: str = "classify") -> tuple[Result, Event]:
    events: list[Event] = []
    with Store(store) as opened:
        result = run(CONFIG, opened, events.append, until=until)
    return result, events[-1]


def test_time_of_the_clock_and_of_processors_are_two_things(made_up: list[float], tmp_path: Path) -> None:
    made_up[:] = 0.6, 0.3, 0.4
    result, event = ended(tmp_path)
    assert event.seconds >= 1.2 and 0.65 <= event.cpu_seconds <= event.seconds
    manifest = read_manifest(result.folders["classify"])
    assert (manifest["seconds"], manifest["cpu_seconds"]) == (event.seconds, event.cpu_seconds)
    assert manifest["node"] == os.uname().nodename
    _, again = ended(tmp_path)
    assert again.reused and (again.seconds, again.cpu_seconds) == (event.seconds, event.cpu_seconds)


def test_what_an_earlier_attempt_took_counts(made_up: list[float], tmp_path: Path) -> None:
    first, _ = ended(tmp_path / "first")
    work = tmp_path / "second" / WORK / f"{first.folders['classify'].name}.1"
    with Store(tmp_path / "second"):
        work.mkdir(parents=True)
    (work / SECONDS).write_text("100.0 200.0")
    _, event = ended(tmp_path / "second")
    assert 100 <= event.seconds < 110 and 200 <= event.cpu_seconds < 210


def test_it_is_known_how_long_a_stage_was_waited_for(
    made_up: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.get_or_compute

    def busy(self: Store, key: str, write: Any, waiting: Any) -> tuple[Path, bool]:
        for _ in range(2):
            waiting("another process")
            time.sleep(0.3)
        return real(self, key, write, waiting)

    monkeypatch.setattr(Store, "get_or_compute", busy)
    made_up[0] = 0.5  # it is computed by this run after all
    assert 0.6 <= ended(tmp_path)[1].waited < 1.0
    assert 0.6 <= ended(tmp_path)[1].waited < 1.0, "or found"
    monkeypatch.setattr(Store, "get_or_compute", real)
    assert ended(tmp_path)[1].waited == 0.0


def test_the_masks_need_a_gpu_only_where_clip_judges_them() -> None:
    def without_gpu(selection: str) -> list[str]:
        config = with_changes(CONFIG, {"selection": selection}, "test")
        return [name for name, stage in graph(config).items() if not stage.gpu(config)]

    assert without_gpu("holdout") == ["masks", "measured_masks", "rest_masks"]
    assert without_gpu("oracle") == ["masks", "rest_masks"] and without_gpu("proxy") == []


def test_the_run_of_a_trial_has_what_every_stage_took() -> None:
    done = StageDone("match", {}, (), 20.0, False, None, 35.0, 18.0, 2.5)
    assert spent_on(done) == {"seconds": 20.0, "cpu_seconds": 35.0, "gpu_seconds": 18.0, "waited_seconds": 2.5}
    assert spent_on(StageDone("match", {}, (), 20.0, True)) == {"seconds": 20.0, "cpu_seconds": 0.0}
