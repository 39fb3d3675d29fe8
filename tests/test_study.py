"""Where a study is kept: locked, damaged, of another sweep, in every database, and warm starts from it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from launches import Machine, launched
from optuna.exceptions import StorageInternalError
from searches import SWEEP, World, complete, milestone

from semples.errors import UserError
from tune.driver import launch
from tune.space import Dimension
from tune.storage import NETWORKS, network
from tune.study import ranked
from tune.sweep_folder import check_same, load_launched
from tune.testing import own
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


# ------------------------------------------------------------------------------------- network file systems
Mount = Callable[..., None]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """Says what kinds of file systems are mounted where, the root of this machine a local one."""
    file = tmp_path / "mountinfo"
    monkeypatch.setattr("tune.storage.MOUNTS", file)

    def mounted(*kinds: tuple[Path | str, str]) -> None:
        points = [(str(point).replace(" ", r"\040"), kind) for point, kind in [("/", "ext4"), *kinds]]
        lines = [
            f"{n} 1 0:{n} / {point} rw,relatime shared:{n} - {kind} x rw" for n, (point, kind) in enumerate(points)
        ]
        file.write_text("\n".join([*lines, "a line of a later kernel", ""]))

    return mounted


def test_a_network_file_system_is_known_by_the_mount_that_a_path_is_under(tmp_path: Path, mount: Mount) -> None:
    shared = tmp_path / "my share"
    for kind in NETWORKS:
        mount((shared, kind))
        assert (network(shared), network(shared / "sweeps" / "s"), network(tmp_path)) == (kind, kind, "")
        assert network(tmp_path / "my shared") == "", "another folder, whose name only begins alike"
    mount((shared, "nfs4"), (shared / "scratch", "xfs"))
    assert network(shared / "scratch" / "s") == "" and network(shared / "s") == "nfs4"
    mount((shared, "autofs"), (shared, "nfs"), (tmp_path / "other", "ext4"))
    assert network(shared / "s") == "nfs", "the one that lies on top"
    (tmp_path / "link").symlink_to(shared)
    assert network(tmp_path / "link" / "s") == "nfs"
    mount(("/", "nfs"))
    assert network(shared) == "nfs", "a machine without a disk"


def test_where_mounts_cannot_be_read_no_network_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.storage.MOUNTS", tmp_path / "missing")
    assert network(tmp_path) == ""


def studies(out: Path) -> tuple[str, list[str]]:
    """What the recorded sweep says of its study, and the files that are one."""
    return load_launched(out / "s").study, sorted(path.name for path in (out / "s").glob("study.*"))


def test_on_a_network_file_system_a_study_is_a_journal_of_its_own_accord(
    tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch)
    for name, kind, word, file in (
        ("disk", "ext4", "sqlite", "study.db"),
        ("share", "nfs4", "journal", "study.journal"),
    ):
        caplog.clear()
        out = tmp_path / name
        mount((out, kind))
        assert len(own(launched(out, trials=1, study="")[1])) == 1
        assert studies(out) == (word, [file])
        said = [record.getMessage() for record in caplog.records if "network file system" in record.getMessage()]
        expected = f"{out / 's'} is on a network file system (nfs4): the study is a journal there"
        assert said == ([expected] if kind == "nfs4" else [])
        # on a node that sees the same folder otherwise, and with what the sweep file says now
        mount((out, "ext4" if kind == "nfs4" else "nfs4"))
        for study in ("", word):
            assert len(own(launched(out, trials=2, study=study)[1])) == 2
        assert studies(out) == (word, [file])
        with pytest.raises(UserError, match="holds a sweep with another 'study'"):
            launched(out, trials=2, study="journal" if word == "sqlite" else "sqlite")
    caplog.clear()
    mount((out, "nfs4"))
    launched(out, trials=2, study="journal")
    assert "network file system" not in caplog.text, "it was asked for"


def test_a_study_whose_sweep_file_is_gone_is_not_taken_for_none(tmp_path: Path, mount: Mount) -> None:
    mount((tmp_path, "nfs"))
    (tmp_path / "s").mkdir()
    open_study(tmp_path / "s", SWEEP.changed(study="sqlite"))
    with pytest.raises(UserError, match=r"its sweep\.yaml is gone, but not its study"):
        check_same(SWEEP.changed(study=""), tmp_path / "s")


@pytest.mark.parametrize("begun", ["with 0.1.0", "by name", "by URL"])
def test_a_sqlite_file_on_a_network_file_system_is_warned_of_and_gone_on_with(
    tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begun: str
) -> None:
    Machine(monkeypatch)
    out, study = tmp_path / "out", {"by URL": f"sqlite:///{tmp_path}/other.db"}.get(begun, "sqlite")
    mount()
    with caplog.at_level(logging.WARNING):
        launched(out, trials=1, study=study)
        assert "network file system" not in caplog.text
    if begun == "with 0.1.0":
        recorded = out / "s" / "sweep.yaml"
        tree = {**yaml.safe_load(recorded.read_text()), "study": "", "trials": 2}
        for own_file in (".semples-tune", ".runner"):
            (out / "s" / own_file).unlink()
        recorded.write_text(yaml.safe_dump(tree))
        study = ""
    mount((tmp_path, "lustre"))
    for word in (study, study or "sqlite"):
        assert len(own(launched(out, trials=2, study=word)[1])) == 2
    file = tmp_path / "other.db" if begun == "by URL" else out / "s" / "study.db"
    said = [record.getMessage() for record in caplog.records if "network file system" in record.getMessage()]
    assert len({*said}) == 1 and said[0].startswith(f"{file}: a SQLite file on a network file system (lustre) may be")
    assert file.exists() and not (out / "s" / "study.journal").exists()
