"""A sweep with passwords in all three URLs leaves none of them anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sweep import mlflow_server, program, sweep_file, trial_runs

from semples.secrets import VARIABLES

pytestmark = pytest.mark.ray
__all__ = ["mlflow_server"]

STUDY_PW, MLFLOW_PW, STORE_PW = "Study-pa55word", "Mlflow-pa55word", "Store-pa55word"

# a file system that lets nobody in without the password, found by every Python process with this folder on its path
VAULT = f"""
import fsspec
from fsspec.spec import AbstractFileSystem

class Vault(AbstractFileSystem):
    protocol = "vault"
    cachable = False

    def __init__(self, username=None, password=None, **options):
        super().__init__()
        if (username, password) != ("eve", "{STORE_PW}"):
            raise PermissionError(f"the vault does not know {{username}} with {{password!r}}")
        self._local = fsspec.filesystem("file", auto_mkdir=False)
        for name in ("cat_file", "ls", "rm_file", "rmdir", "get_file", "put_file", "makedirs", "modified", "info"):
            setattr(self, name, getattr(self._local, name))

    def pipe_file(self, path, value, mode="overwrite", **options):
        with open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("vault://").partition("/")[2] if "://" in str(path) else str(path)

    @staticmethod
    def _get_kwargs_from_urls(path):
        user, at, _ = path.removeprefix("vault://").partition("@")
        name, _, password = user.partition(":")
        return {{"username": name, "password": password}} if at else {{}}

fsspec.register_implementation("vault", Vault)
"""


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(textwrap.dedent(VAULT))
    (tmp_path / "vault").mkdir()
    return tmp_path / "code"


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    server = pytest.importorskip("pgserver").get_server(tmp_path / "postgresql")
    yield server.get_uri().replace("postgres:@", f"postgres:{STUDY_PW}@")
    server.cleanup()


class Watch:
    """Collects the command lines and, of Ray's folders, the files of all processes that run meanwhile."""

    def __init__(self) -> None:
        self.found: set[bytes] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.5):
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.found.add(entry.read_bytes())
                except OSError:
                    continue  # ended while we looked
            for file in Path("/tmp").glob("semples-tune-*/**/*"):
                try:
                    if file.is_file():
                        self.found.update(line for line in file.read_bytes().splitlines() if b"pa55word" in line)
                except OSError:
                    continue


def test_a_sweep_with_passwords_leaves_none_of_them(
    tmp_path: Path, postgresql: str, mlflow_server: str, vault: Path
) -> None:
    out = tmp_path / "sweeps"
    mlflow = mlflow_server.replace("://", f"://ann:{MLFLOW_PW}@")
    store = f"vault://eve:{STORE_PW}@host{tmp_path / 'vault'}"
    file = sweep_file(
        tmp_path, study=postgresql, mlflow=mlflow, store=store, objective="pseudo_miou", trials=2, parallel=1
    )
    environment = {**os.environ, "PYTHONPATH": f"{vault}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state")}
    later = environment | {VARIABLES["study"]: postgresql, VARIABLES["mlflow"]: mlflow, VARIABLES["store"]: store}
    screen = ""

    def run(*words: object, given: dict[str, str], code: int = 0) -> str:
        nonlocal screen
        done = program("semples-tune", *words, env=given)
        screen += done.stdout + done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    with Watch() as watch:
        assert "2 COMPLETE" in run("launch", file, "--out", out, given=environment)
        # later commands have it from the environment, or say what is missing
        assert "2 COMPLETE" in run("status", "--out", out, given=later)
        run("confirm", "--out", out, "--top", 1, "--seeds", 2, given=later)
        run("export", tmp_path / "export", "--out", out, given=later)
        missing = run("export", tmp_path / "none", "--out", out, given=environment, code=2)
        assert VARIABLES["store"] in missing
        # a trial that fails, and what should not happen, do not tell it either
        wrong = file.with_name("wrong.yaml")
        wrong.write_text(file.read_text().replace("host/", "host/proc/").replace("name: tiny", "name: wrong"))
        run("launch", wrong, "--out", out, given=environment, code=2)
    assert len(trial_runs(mlflow_server)) >= 2 and list((tmp_path / "vault").glob("*/result.json"))

    secrets = [word.encode() for word in (STUDY_PW, MLFLOW_PW, STORE_PW)]
    mine = {tmp_path / "tiny.yaml", tmp_path / "wrong.yaml", vault / "sitecustomize.py"}
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p not in mine and vault not in p.parents]
    assert len(left) > 50
    leaks = [str(p) for p in left if any(secret in p.read_bytes() for secret in secrets)]
    assert not leaks, leaks
    assert not any(secret.decode() in screen for secret in secrets), screen
    assert len(watch.found) > 20
    assert not [line for line in watch.found if any(secret in line for secret in secrets)]


def test_ui_gives_mlflow_the_address_by_environment(tmp_path: Path) -> None:
    """Nothing of a database's address is on the command line that everybody sees."""
    code = """
import os, sys
from pathlib import Path
os.execv = lambda program, words: print(words, os.environ["MLFLOW_BACKEND_STORE_URI"])
import tune.sweep_folder
from tune.commands import ui
ui.sweep_folder = lambda out, name: out
tune.sweep_folder.load_launched = lambda folder: None
tune.sweep_folder.tracking_uri = lambda sweep, out: "postgresql://ann:Mlflow-pa55word@db/mlflow"
ui.ui(Path("sweeps"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    words, _, uri = done.stdout.splitlines()[-1].rpartition(" ")
    assert done.returncode == 0, done.stderr
    assert uri == "postgresql://ann:Mlflow-pa55word@db/mlflow" and "Mlflow-pa55word" not in words
