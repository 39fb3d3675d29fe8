"""What is read of a study's SQLite file is what Optuna reads of it, at once."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from tune.sqlite_file import SCHEMA, opened, read_studies, schema


def study_in(file: Path, name: str, directions: list[str]) -> optuna.Study:
    return optuna.create_study(storage=RDBStorage(f"sqlite:///{file}"), study_name=name, directions=directions)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two studies, the first with trials in every state and values of every kind."""
    path = tmp_path / "study.db"
    study = study_in(path, "one", ["maximize"])
    study.set_user_attr("run", "0123abc")
    with pytest.warns(ExperimentalWarning):
        study.set_metric_names(["mIoU"])  # kept as an attribute of Optuna's own
    study.enqueue_trial({"a": 0.5, "b": 3})
    for number, value in enumerate((1.5, math.inf, -math.inf)):
        trial = study.ask()
        trial.suggest_float("b", 1e-3, 10, log=True)
        trial.suggest_int("c", 0, 9, step=3)
        trial.suggest_categorical("a", [0.5, "word", True, None])
        trial.set_user_attr("stages", {"match": {"seconds": 1.5, "names": ["x", "ü"]}, "none": None})
        trial.report(math.nan if number else 0.25, 0)
        trial.report(2.0, 3)
        study.tell(trial, value)
    study.tell(study.ask(), state=TrialState.FAIL)
    pruned = study.ask()
    pruned.report(7.0, 1)
    study.tell(pruned, state=TrialState.PRUNED)
    study.ask().suggest_float("b", 1e-3, 10, log=True)  # goes on
    study.enqueue_trial({"a": "word"})
    other = study_in(path, "two", ["minimize", "maximize"])
    other.tell(other.ask(), [1.0, 2.0])
    return path


def facts(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial says but the number of its row, as text, for NaN is not itself."""
    return {key: repr(value) for key, value in vars(trial).items() if key != "_trial_id"}


def test_studies_are_read_as_optuna_reads_them(file: Path) -> None:
    with opened(file, 1.0) as db:
        assert schema(db) == SCHEMA
        storage = read_studies(db)
    assert isinstance(storage, InMemoryStorage)
    for name in ("one", "two"):
        own = optuna.load_study(study_name=name, storage=storage)
        theirs = optuna.load_study(study_name=name, storage=f"sqlite:///{file}")
        assert own.user_attrs == theirs.user_attrs == ({"run": "0123abc"} if name == "one" else {})
        assert own.metric_names == theirs.metric_names == (["mIoU"] if name == "one" else None)
        assert own.directions == theirs.directions and len(own.trials) == (7 if name == "one" else 1)
        assert [facts(trial) for trial in own.trials] == [facts(trial) for trial in theirs.trials]
        assert [t.params.keys() for t in own.trials] == [t.params.keys() for t in theirs.trials]


def test_a_state_is_read_that_was_there_at_one_moment(file: Path) -> None:
    with opened(file, 1.0) as db:
        assert schema(db) == SCHEMA
        with pytest.raises(sqlite3.OperationalError, match="locked"), sqlite3.connect(file, timeout=0) as writer:
            writer.execute("UPDATE trials SET state = 'FAIL'")
            writer.commit()
        assert "COMPLETE" in {trial.state.name for trial in read_studies(db).get_all_trials(0)}


def test_files_without_tables_and_of_another_number_are_told_apart(file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with opened(tmp_path / "empty.db", 1.0) as db:
        assert schema(db) is None
    with sqlite3.connect(file) as writer:
        writer.execute("UPDATE version_info SET schema_version = 13")
    with opened(file, 1.0) as db:
        assert schema(db) == 13
    (tmp_path / "text.db").write_text("no database" * 99)
    with pytest.raises(sqlite3.DatabaseError), opened(tmp_path / "text.db", 1.0) as db:
        schema(db)


def test_looking_at_a_sweep_loads_none_of_the_heavy_libraries() -> None:
    code = "import sys, tune.summary, tune.sweep_folder, semples.run_folder; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "mlflow", "sqlalchemy", "alembic", "matplotlib", "sklearn", "scipy"} & {*loaded}


def test_nothing_is_said_while_it_is_read(file: Path) -> None:
    code = (
        "import sys, pathlib; from tune.sqlite_file import opened, read_studies\n"
        "with opened(pathlib.Path(sys.argv[1]), 1.0) as db: read_studies(db)"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
