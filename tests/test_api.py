"""The method from Python: what a notebook, a thread or a program of somebody's own needs of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import MADE, SMALL, Command
from PIL import Image

import semples
from semples.data.files import read_mask


def metrics_in(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "result.json").read_text())["metrics"]
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `a`, of SMALL."""
    folder = tmp_path_factory.mktemp("runs")
    semples.run(SMALL, out=folder / "a")
    return folder


def test_importing_takes_nothing_and_changes_nothing() -> None:
    code = """
import logging, os, signal, sys
state = lambda: (dict(os.environ), logging.root.level, [signal.getsignal(n) for n in sorted(signal.valid_signals())])
before, loaded = state(), {*sys.modules}
import semples
assert {*semples.__all__} <= {*dir(semples)} and state() == before
new = {name.partition(".")[0] for name in {*sys.modules} - loaded}
assert new <= {"semples", *sys.stdlib_module_names}, new
semples.run, semples.predict, semples.load, semples.Config, semples.UserError
assert state() == before
print(semples.__version__, isinstance(semples.load(), semples.Config))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "True" and done.stdout[0].isdigit()
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = semples.nothing_of_the_kind  # type: ignore[attr-defined]


def test_types_are_there_for_users_of_both_packages() -> None:
    root = Path(semples.__file__).parent
    assert (root / "py.typed").is_file() and (root.parent / "tune" / "py.typed").is_file()


def test_a_run_is_that_of_the_command(runs: Path, command: Command) -> None:
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    code, _, err = command("semples", "run", "small.yaml", "--out", "b")
    assert (code, err) == (0, "") and metrics_in(Path("b")) == metrics_in(runs / "a")
    names = lambda folder: {p.name for p in folder.iterdir()}  # noqa: E731
    assert names(Path("b")) == names(runs / "a") and "masks" in names(runs / "a")


def test_configurations_come_as_files_mappings_and_objects(tmp_path: Path) -> None:
    changes = {"match.lambda_b": 1.5}
    (tmp_path / "c.yaml").write_text("match: {epochs: 3}")
    for source in (tmp_path / "c.yaml", str(tmp_path / "c.yaml"), {"match": {"epochs": 3}}):
        config = semples.load(source, changes)
        assert (config.match.epochs, config.match.lambda_b) == (3, 1.5)
        assert semples.load(config, {"match.epochs": 4}).match.lambda_b == 1.5
    assert semples.load("voc", {"data.root": "."}).data.kind == "voc" and semples.load().data.kind == "scenes"
    assert semples.load({"generator": {"kind": "cnn", "body": "resnet18"}}).generator.backbone == "resnet18"
    with pytest.raises(semples.UserError, match=r"^configuration: unknown key 'mtach' \(did you mean 'match'"):
        semples.load(None, {"mtach.lr": 1})
    with pytest.raises(semples.UserError, match=r"nowhere\.yaml"):
        semples.run("nowhere.yaml")


def test_events_and_figures_reach_the_caller(runs: Path) -> None:
    events: list[semples.Event] = []
    result = semples.run(SMALL, {"segment.lr": 0.02}, out=runs / "b", store=runs / "a" / "store", report=events.append)
    assert [event.stage for event in events if event.metrics is not None] == list(MADE)
    assert result.reused == tuple(MADE)[:-1] and result.metrics == metrics_in(runs / "b")
    assert result.config.segment.lr == 0.02


@pytest.mark.parametrize("quota", [0.0, -1.0, float("nan"), float("inf")])
def test_a_quota_that_is_none_is_refused(quota: float, tmp_path: Path) -> None:
    with pytest.raises(semples.UserError, match=r"quota .*: give a number of GB above 0"):
        semples.run(SMALL, out=tmp_path / "run", quota=quota)
    assert not any(tmp_path.iterdir())


def state() -> tuple[Any, ...]:
    """What a run uses of its process."""
    draws = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes(), torch.get_rng_state().sum()
    flags = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, torch.get_num_threads()
    return *draws, *flags, torch.utils.deterministic.fill_uninitialized_memory, dict(os.environ)


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that is set in another way than a run sets it."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.benchmark = True
    yield
    torch.backends.cudnn.benchmark = False


@pytest.mark.usefixtures("own_settings")
def test_the_process_is_as_before_when_a_run_or_a_prediction_ends(runs: Path, tmp_path: Path) -> None:
    def stop(event: semples.Event) -> None:
        raise KeyboardInterrupt

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    before = state()
    semples.run(SMALL, {"seed": 5}, out=tmp_path / "run")
    assert state() == before
    semples.predict(runs / "a", tmp_path / "a.png", tmp_path / "masks")
    assert state() == before
    with pytest.raises(KeyboardInterrupt):
        semples.run(SMALL, {"seed": 6}, out=tmp_path / "other", report=stop)
    assert state() == before


def test_runs_in_threads_take_turns_and_each_has_the_bits_of_its_seed(runs: Path, tmp_path: Path) -> None:
    seeds = (SMALL.get("seed", 0), 7)
    work = [
        threading.Thread(target=semples.run, args=(SMALL, {"seed": seed}), kwargs={"out": tmp_path / str(seed)})
        for seed in seeds
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    first, second = (metrics_in(tmp_path / str(seed)) for seed in seeds)
    assert first == metrics_in(runs / "a")
    semples.run(SMALL, {"seed": 7}, out=tmp_path / "again")
    assert second == metrics_in(tmp_path / "again") != first


def test_a_prediction_says_where_its_mask_is_and_what_is_in_it(runs: Path, tmp_path: Path) -> None:
    classes = json.loads((runs / "a" / "result.json").read_text())["classes"]
    for number, name in enumerate("ab"):
        Image.effect_noise((48 + number, 40), 90).convert("RGB").save(tmp_path / f"{name}.png")
    images, told = [tmp_path / "a.png", str(tmp_path / "b.png")], []
    made = semples.predict(str(runs / "a"), images, tmp_path / "masks", told.append)
    assert made == told and [one.mask.name for one in made] == ["a.png", "b.png"]
    for one, width in zip(made, (48, 49), strict=True):
        mask = read_mask(one.mask)
        assert mask.shape == (40, width) and one.mask.parent == tmp_path / "masks"
        assert one.classes == tuple(classes[k - 1] for k in np.unique(mask) if k)
    with pytest.raises(semples.UserError, match=r"c\.png: no such image file"):
        semples.predict(runs / "a", tmp_path / "c.png", tmp_path / "masks")
    with pytest.raises(semples.UserError, match="no finished run here"):
        semples.predict(tmp_path, images)
