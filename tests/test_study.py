"""Where a study is kept: locked, damaged, of another sweep, in every database, and warm starts from it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from optuna.exceptions import StorageInternalError
from searches import SWEEP, World, complete, milestone

from semples.errors import UserError
from tune.driver import launch
from tune.space import Dimension
from tune.study import ranked
from tune.sweep_folder import check_same
from tune.warm_start import open_study


@pytest.mark.parametrize("seconds", [7.0, None])
def test_a_study_that_others_lock_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    monkeypatch.setattr("tune.storage.LOCKED", 60.0 if seconds else 0.5)
    world = World(tmp_path, study="")
    lock = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    if seconds is None:  # longer than anybody waits
        with pytest.raises(StorageInternalError):
            world.searcher.suggest("a")
        with pytest.raises(UserError, match=r"study\.db cannot be used: .*locked"):
            World(tmp_path, study="")
    else:
        timer = threading.Timer(seconds, lock.rollback)  # SQLite by itself gives up after 5
        timer.start()
        assert isinstance(world.searcher.suggest("a"), dict)
        timer.join()
    lock.close()


@pytest.mark.parametrize("selection", ["oracle", None])
def test_a_warm_start_that_is_none_is_said_before_anything_is_written(tmp_path: Path, selection: str | None) -> None:
    other = tmp_path / "other"
    if selection:
        other.mkdir()
        base = {**SWEEP.base, "selection": selection}
        tree = SWEEP.changed(**{"selection": selection, "base": base}).model_dump(mode="json", exclude_none=True)
        (other / "sweep.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"warm_start: .*(by oracle|no sweep here)"):
        launch(SWEEP.changed(warm_start=str(other)), tmp_path, None, lambda *_: None)
    assert not (tmp_path / "s" / "sweep.yaml").exists() and not (tmp_path / "s" / "study.db").exists()


def test_one_database_holds_one_sweep_of_a_name(tmp_path: Path) -> None:
    sweep = SWEEP.changed(**{"study": f"sqlite:///{tmp_path / 'shared.db'}"})
    open_study(tmp_path / "a" / "s", sweep)
    (tmp_path / "b" / "s").mkdir(parents=True)
    with pytest.raises(UserError, match="already holds a sweep 's'; launch with another --name"):
        check_same(sweep, tmp_path / "b" / "s")


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    World(tmp_path, study="journal")
    with (tmp_path / "study.journal").open("a") as journal:
        journal.write('{"op_code": 4, "wor\n{}\n')
    with pytest.raises(UserError, match=r"study\.journal has a damaged line"):
        World(tmp_path, study="journal")


def test_a_sweep_is_warm_started_with_the_keys_that_it_shares(tmp_path: Path) -> None:
    first = tmp_path / "s"
    first.mkdir()
    other = SWEEP.changed(space={**SWEEP.space, "prompts.count": Dimension(int=(1, 4))}, sampler="random")
    world = World(first, space=other.space, sampler="random")
    (first / "sweep.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json", exclude_none=True)))
    best: list[tuple[float, float]] = []
    for i in range(8):
        suggestion = world.searcher.suggest(str(i))
        assert isinstance(suggestion, dict)
        weight = suggestion["parameters"]["match.lambda_b"]
        best.append((weight, weight))
        world.searcher.on_trial_complete(str(i), complete(weight))
    second = tmp_path / "second"
    second.mkdir()
    warm = World(second, warm_start=str(first), space={"match.lambda_b": Dimension(float=(1, 4))})
    given = [warm.searcher.suggest(str(i))["parameters"] for i in range(6)]  # type: ignore[index]
    leading = [weight for weight, _ in sorted(best, reverse=True)][:5]
    assert given == [{"match.lambda_b": weight} for weight in (1.0, *leading)]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = pytest.importorskip("pgserver").get_server(tmp_path_factory.mktemp("postgresql"))
    yield server.get_uri()
    server.cleanup()


@pytest.mark.parametrize("where", ["", "journal", "postgresql"])
def test_every_place_keeps_the_study(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(where) if where == "postgresql" else where
    folder = tmp_path / f"of-{where}"
    folder.mkdir()
    world = World(folder, study=place, early_stopping="median")
    for name, last in (("a", complete(50.0)), ("b", milestone("match", 10.0)), ("c", milestone("match", 20.0))):
        world.searcher.suggest(name)
        world.searcher.on_trial_result(name, last)
        if name != "c":  # which is cut off
            world.searcher.on_trial_complete(name, last)
    before = world.study.get_trials()

    world = World(folder, study=place, early_stopping="median")
    assert [(t.state, t.params, t.user_attrs) for t in world.study.get_trials()] == [
        (t.state, t.params, t.user_attrs) for t in before
    ]
    again = world.searcher.suggest("again")
    assert isinstance(again, dict) and again["number"] == 2 and again["parameters"] == before[2].params
    world.searcher.on_trial_complete("again", complete(60.0))
    assert [t.number for t in ranked(world.study, SWEEP)] == [2, 0]
    assert sorted(path.name for path in folder.glob("study.*")) == {"": ["study.db"], "journal": ["study.journal"]}.get(
        where, []
    )


def test_a_study_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study nowhere://x cannot be used"):
        World(tmp_path, study="nowhere://x")
