"""Commands that read a sweep leave every byte as it was, find it wherever it lies, and say in one sentence what is
wrong with it; a launch replaces nothing that is somebody's."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import TINY
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from searches import ONCE, SWEEP, World, complete

import tune.commands.app
from semples.config import dump, parse
from semples.errors import UserError
from semples.folders import MARKER, claim
from semples.guard import guard
from tune.driver import launch
from tune.mlflow_writer import Store, Writer
from tune.study import load_study, study_exists
from tune.sweep_folder import SERIES, alone, check_same, load_launched, moved, record
from tune.tracking import MlflowQueue, default_uri

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `semples-tune` in this process: exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semples-tune", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            guard(tune.commands.app.app)
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def sweep_in(out: Path, study: str = "", name: str = "s") -> Path:
    """The folder of a sweep with two complete trials, without having run them."""
    shutil.copytree(_made_sweep(study, name), out / name)
    return out / name


@functools.cache
def _made_sweep(study: str, name: str) -> Path:
    folder = ONCE / f"{name}-{study}" / name
    folder.mkdir(parents=True)
    sweep = SWEEP.changed(**{"study": study, "name": name})
    record(sweep, folder)
    world = World(folder, study=study, name=name)
    for number, value in enumerate((50.0, 60.0)):
        suggestion = world.searcher.suggest(str(number))
        assert isinstance(suggestion, dict)
        world.searcher.on_trial_complete(str(number), complete(value))
        trial = folder / "trials" / f"{number:04d}"
        trial.mkdir(parents=True)
        (trial / "config.yaml").write_text(dump(parse(TINY, "tiny")))
        keys = {"segment": "0" * 32}
        result = {"selection": "holdout", "metrics": {"seg_miou": value}, "keys": keys, "classes": ["a"]}
        (trial / "result.json").write_text(json.dumps(result))
    world.study._storage.remove_session()
    return folder


def digests(folder: Path) -> dict[str, tuple[str, float]]:
    """Content and time of every file, of folders the time."""
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes() if p.is_file() else b"").hexdigest(), p.lstat()[8])
        for p in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize("study", ["", "journal"])
def test_reading_leaves_every_byte_as_it_was(tmp_path: Path, command: Command, study: str) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out, study)
    before = digests(out)
    code, shown, _ = command("status", "--out", out)
    assert code == 0 and "2 COMPLETE" in shown
    assert command("best", "--out", out)[0] == 0
    assert command("export", tmp_path / "export", "--out", out)[0] == 2, "its weights are gone"
    other = SWEEP.changed(**{"warm_start": str(folder), "name": "other"})
    assert World(_made(tmp_path / "w"), warm_start=str(folder), space=other.space).searcher
    assert digests(out) == before


def test_status_and_best_as_json_say_what_the_words_say(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out)
    code, text, err = command("status", "--out", out, "--json")
    facts = json.loads(text)
    assert (code, err) == (0, "") and facts["states"] == {"COMPLETE": 2} and facts["failures"] == []
    assert (facts["sweep"], facts["selection"], facts["objective"]) == ("s", "holdout", ["seg_miou"])
    assert (facts["trials"], facts["done"], facts["seconds_saved"]) == (9, 2, 0)
    first, second = facts["best"]
    assert (first["trial"], first["default"], first["objective"]) == (1, False, {"seg_miou": 60.0})
    assert 1 < first["parameters"]["match.lambda_b"] <= 4
    assert first["metrics"] == {"pseudo_miou": 50.0, "seg_miou": 59.0}  # as given to the study by `complete`
    assert (second["trial"], second["default"], second["parameters"]) == (0, True, {"match.lambda_b": 1.0})
    code, text, err = command("best", "--out", out, "--trial", 0, "--json")
    facts = json.loads(text)
    assert (code, err, facts["sweep"], facts["trial"]) == (0, "", "s", 0)
    assert (facts["selection"], facts["metrics"]) == ("holdout", {"seg_miou": 50.0})
    assert facts["configuration"] == yaml.safe_load(command("best", "--out", out, "--trial", 0)[1])
    shutil.rmtree(folder / "trials")
    code, text, err = command("best", "--out", out, "--json")
    assert code == 2 and text == "" and "no finished run here" in err


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a folder one that may only be read, even by root."""
    made: list[Path] = []

    def seal(folder: Path) -> None:
        for words in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
            if subprocess.run(["mount", *words], capture_output=True).returncode:
                pytest.skip("no file system may be mounted here")
            made.append(folder)

    yield seal
    for folder in dict.fromkeys(made):
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("study", ["", "journal"])
def test_a_share_that_may_only_be_read_is_read(
    tmp_path: Path, command: Command, read_only: Callable[[Path], None], study: str
) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out, study)
    read_only(out)
    with pytest.raises(OSError, match="Read-only"):
        (out / "x").touch()
    code, shown, err = command("status", "--out", out)
    assert code == 0 and "2 COMPLETE" in shown, err
    assert command("best", "--out", out)[0] == 0
    warm = World(_made(tmp_path / "warm"), warm_start=str(folder), name="other")
    assert isinstance(warm.searcher.suggest("a"), dict)
    code, _, err = command("confirm", "--out", out)  # at once, before a process of Ray is started
    assert code == 2 and err.count("\n") == 1 and "cannot be written (Read-only file system)" in err


@pytest.mark.parametrize("how", ["renamed", "moved", "copied"])
def test_a_sweep_is_found_by_what_it_says_itself(tmp_path: Path, command: Command, how: str) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out)
    there = {"renamed": out / "new name", "moved": tmp_path / "else" / "s", "copied": tmp_path / "copy" / "s2"}[how]
    there.parent.mkdir(exist_ok=True)
    shutil.copytree(folder, there)
    if how != "copied":
        shutil.rmtree(folder)
    before = digests(there)
    code, shown, _ = command("status", there.name, "--out", there.parent)
    assert code == 0 and "2 COMPLETE" in shown
    assert digests(there) == before
    asked = SWEEP.changed(name="s2", study="")
    assert check_same(asked, there).name == "s", "a launch goes on with it under its own name"


@pytest.mark.parametrize("damage", ["gone", "zeros", "text", "folder", "empty", "other", "foreign"])
@pytest.mark.parametrize("study", ["", "journal"])
def test_a_study_that_is_none_is_one_sentence(tmp_path: Path, command: Command, damage: str, study: str) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out, study)
    file = folder / ("study.journal" if study else "study.db")
    file.unlink()
    if damage == "zeros":
        file.write_bytes(bytes(8192))
    elif damage == "text":
        file.write_text("hello\n" * 300)
    elif damage == "folder":
        file.mkdir()
    elif damage == "empty":
        file.touch()
    elif damage in ("other", "foreign"):  # another sweep's; one of this name by somebody else
        storage: Any = JournalStorage(JournalFileBackend(str(file))) if study else f"sqlite:///{file}"
        name = "x" if damage == "other" else "s"
        optuna.create_study(storage=storage, study_name=name).enqueue_trial({})
        made = optuna.load_study(storage=storage, study_name=name)
        made.tell(made.ask(), 1.0)
    before = digests(out)
    for words in (["status"], ["best"], ["export", tmp_path / "export"], ["confirm"], ["launch", _file(tmp_path)]):
        code, _, err = command(*words, "--out", out)
        assert code == 2 and err.count("\n") == 1 and str(folder) in err, (words, err)
    changed = {n for n, digest in digests(out).items() if before.get(n) != digest}
    assert changed <= {".", MARKER, f"s/{MARKER}", "s/.lock", "s"}, changed


def _file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(SWEEP.model_dump(mode="json", exclude_none=True, exclude={"study"})))
    return path


@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b"name: s\n", "name: \u00fc".encode("utf-16"), b"\x00\x01", b"a: &a [*a]", b"name: ["]
)
def test_a_sweep_file_that_is_none_is_one_sentence(tmp_path: Path, command: Command, content: bytes) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out)
    (folder / "sweep.yaml").write_bytes(content)
    readers: list[list[object]] = [["status"], ["best"], ["export", tmp_path / "export"], ["confirm"], ["ui"]]
    for words in (*readers, ["launch", _file(tmp_path)]):
        code, _, err = command(*words, "--out", out)
        assert code == 2 and err.count("\n") == 1 and "sweep.yaml" in err, (words, err)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"metrics": 3}', b"\xff\xfe"])
def test_a_result_that_is_none_is_one_sentence(tmp_path: Path, command: Command, content: bytes) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out)
    (folder / "trials" / "0001" / "result.json").write_bytes(content)
    for words in (["best"], ["export", tmp_path / "export"], ["confirm"]):
        code, _, err = command(*words, "--out", out)
        assert code == 2 and err.count("\n") == 1 and "0001" in err, (words, err)
    assert not (tmp_path / "export").exists()


def test_keys_of_a_result_never_become_paths(tmp_path: Path, command: Command) -> None:
    out, victim = tmp_path / "sweeps", tmp_path / "victim"
    folder = sweep_in(out)
    victim.mkdir()
    (victim / "file").write_text("mine")
    path = folder / "trials" / "0001" / "result.json"
    for key in (str(victim), "../../../../victim"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "keys": {"segment": key}}))
        code, _, err = command("export", tmp_path / "export", "--out", out)
        assert code == 2 and err.count("\n") == 1
        assert (victim / "file").read_text() == "mine"


def test_a_study_left_in_the_middle_of_a_change_is_read_as_it_was_before(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "sweeps"
    folder = sweep_in(out)
    copy = tmp_path / "copy"
    database = sqlite3.connect(folder / "study.db", isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("CREATE TABLE half (x)")
    database.executemany("INSERT INTO half VALUES (?)", [("x" * 1000,) for _ in range(500)])
    shutil.copytree(out, copy)  # as a machine that loses its power leaves it
    database.rollback()
    assert (copy / "s" / "study.db-journal").stat().st_size > 0
    before = digests(copy)
    code, shown, _ = command("status", "--out", copy)
    assert code == 0 and "2 COMPLETE" in shown
    assert digests(copy) == before


def test_a_launch_refuses_a_sweep_of_which_the_study_is_gone(tmp_path: Path) -> None:
    folder = sweep_in(tmp_path / "sweeps")
    (folder / "study.db").unlink()
    assert not study_exists(folder, load_launched(folder))
    with pytest.raises(UserError, match=r"its study is gone .* but not its trials/"):
        launch(SWEEP.changed(study=""), tmp_path / "sweeps", None, lambda *_: None)
    assert (folder / "trials" / "0000" / "result.json").exists() and not (folder / "study.db").exists()


@pytest.mark.parametrize("where", ["out", "folder"])
def test_a_launch_into_somebodys_folder_is_refused(tmp_path: Path, where: str) -> None:
    out = tmp_path / "sweeps"
    place = out if where == "out" else out / "s"
    if where == "folder":
        claim(out, SERIES)
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that no .* has written \('thesis.tex'\)"):
        launch(SWEEP, out, None, lambda *_: None)
    assert {p.name for p in out.rglob("*")} <= {"s", "thesis.tex", MARKER}


def test_an_export_into_somebodys_folder_is_refused(tmp_path: Path, command: Command) -> None:
    out, to = tmp_path / "sweeps", tmp_path / "mine"
    sweep_in(out)
    to.mkdir()
    (to / "config.yaml").write_text("mine")
    code, _, err = command("export", to, "--out", out)
    assert code == 2 and "holds files that no export has written" in err
    assert (to / "config.yaml").read_text() == "mine" and len(list(to.iterdir())) == 1


def test_a_lock_is_neither_cut_nor_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="cannot be used as a lock"), alone(tmp_path):
        pass
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").write_text("kept")
    with alone(tmp_path), pytest.raises(UserError, match="is being run by another process"), alone(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / ".lock").read_text() == "kept"


def test_printed_commands_can_be_given_to_a_shell(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "my sweeps & co"
    out.mkdir()
    _, _, err = command("status", "--out", out)
    assert f"--out '{out}'" in err
    sweep_in(out)
    _, _, err = command("best", "--trial", 99, "--out", out)
    assert f"semples-tune status s --out '{out}'" in err


def test_a_tilde_is_the_home_also_behind_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep_in(tmp_path / "x")
    assert command("status", "--out=~/x")[0] == 0


def test_artifacts_of_a_moved_folder_are_said_with_the_remedy(tmp_path: Path) -> None:
    out, there = tmp_path / "sweeps", tmp_path / "else where"
    folder = sweep_in(out)
    tracker = MlflowQueue(folder)
    tracker.start("k", "s", "", {}, {})
    Writer(Store(default_uri(out), folder), folder).catch_up()
    assert moved(out) == ""
    out.rename(there)
    before = digests(there)
    said = moved(there)
    assert str(out / "mlartifacts") in said and "ln -s" in said
    subprocess.run(said.rpartition(": ")[2], shell=True, check=True)
    assert (out / "mlartifacts").resolve() == there / "mlartifacts"
    assert digests(there) == before


def test_a_queue_takes_no_file_from_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "own").write_text("x")
    store = Store("sqlite://", folder)
    assert store._own_file("own") == folder / "own"
    for name in ("link", "../secret", str(tmp_path / "secret"), "none"):
        assert store._own_file(name) is None


def test_a_study_is_loaded_under_its_recorded_name(tmp_path: Path) -> None:
    folder = sweep_in(tmp_path / "sweeps")
    sweep = load_launched(folder)
    assert len(load_study(folder, sweep).get_trials()) == 2
    with pytest.raises(UserError, match=r"there is no study 'other', but 's'"):
        load_study(folder, sweep.changed(name="other"))
