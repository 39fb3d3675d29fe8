from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; read where numpy is imported first

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packages import install_other

import semples.commands.app
import tune.commands.app
from semples import spread
from semples.config import Config, parse
from semples.pipeline.run import Event, Result, run
from semples.store import Store
from tune.environment import quiet

Command = Callable[..., tuple[int, str, str]]

# the stages of a run where every training image has a true mask
MADE = (
    "classify", "match", "prompts", "refine", "heatmaps", "masks", "measured_heatmaps", "measured_masks", "segment",
)  # fmt: skip

# every stage in seconds: one epoch of few images
TINY: dict[str, Any] = {
    "data": {"train": 24, "holdout": 8, "test": 8},
    "classify": {"epochs": 1},
    "match": {"epochs": 1},
    "prompts": {"epochs": 1, "length": 8},
    "refine": {"epochs": 1},
    "heatmaps": {"scales": [1.0]},
    "segment": {"epochs": 2},
}

# every stage in tenths of a second, where only bits are compared: they are of no use as masks
SMALL: dict[str, Any] = {
    "data": {"train": 8, "holdout": 4, "test": 4, "seed": 3},
    "generator": {"args": {"channels": [8, 8, 16, 16], "stem_width": 8}},
    "augment": {"size": 32},
    "classify": {"epochs": 1, "batch": 4},
    "match": {"epochs": 1, "batch": 4},
    "prompts": {"epochs": 1, "batch": 4, "length": 8},
    "refine": {"epochs": 1, "batch": 4},
    "heatmaps": {"scales": [1.0]},
    "segment": {"size": 32, "epochs": 1, "batch": 4, "lr": 0.01},
    "runtime": {"device": "cpu"},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run side by side, and what one asked torch for is not left to the next."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def libraries_are_quiet() -> Iterator[None]:
    """As they are where a command works; a test says what else it wants."""
    with quiet():
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [str(w) for w in words])
        with pytest.raises(SystemExit) as exit_:
            (semples if words[0] == "semples" else tune).commands.app.main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return call


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder into which tests/other_package is installed, on the path."""
    site = tmp_path / "site"
    install_other(site)
    before = {*sys.modules}
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in {*sys.modules} - before if name.startswith("other_")]:
        del sys.modules[name]  # the next test may find another one there


@pytest.fixture
def tiny() -> Config:
    return parse(TINY, "tiny")


@pytest.fixture
def small() -> Config:
    return parse(SMALL, "small")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of TINY, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    program = Path(sys.executable).parent / "semples"
    words = [str(program), "run", str(folder / "tiny.yaml"), "--out", str(folder / "run")]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "run"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished run of SMALL, to be read."""
    return run(parse(SMALL, "small"), Store(tmp_path_factory.mktemp("small") / "store"), lambda event: None)


@pytest.fixture
def run_in(tmp_path: Path) -> Callable[..., Result]:
    """Run a configuration with the store folder of that name, collecting events."""

    def start(
        config: Config, store: str = "store", events: list[Event] | None = None, until: str | None = None
    ) -> Result:
        return run(config, Store(tmp_path / store), (events if events is not None else []).append, until)

    return start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little work it is, it is handed over, a few images at a time."""
    monkeypatch.setattr(spread, "WORTH", 0.0)
    monkeypatch.setattr(spread, "PART", 1e-9)
