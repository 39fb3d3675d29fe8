"""The studies in a SQLite file that Optuna writes, for those who only look at them.

Optuna's own storage takes two seconds to look at a sweep of 1,000 trials, for the imports of SQLAlchemy and Alembic and
for each row on its own. This reads the same tables by queries, into a storage in memory.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune.environment import quiet

SCHEMA = 12  # number that Optuna gives to its tables as they are read here
NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


@contextmanager
def opened(file: Path, timeout: float, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """One state of the file, whoever writes meanwhile. timeout: seconds that others may lock it. mode: "ro", or "rw" to
    take back what a process that was killed left half done."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", timeout, uri=True)) as db:
        db.execute("BEGIN")
        yield db


def schema(db: sqlite3.Connection) -> int | None:
    """Number of the tables, None where there are none. Raises sqlite3.Error for what is no such file."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "studies" not in tables:
        return None
    row = db.execute("SELECT schema_version FROM version_info").fetchone() if "version_info" in tables else None
    return int(row[0]) if row else 0


def read_studies(db: sqlite3.Connection) -> InMemoryStorage:
    """A copy of all studies of a file whose tables have the number SCHEMA."""
    storage = InMemoryStorage()
    trials = _trials(db)
    user, system = (_attributes(db, "study", whose) for whose in ("user", "system"))
    for study, name in db.execute("SELECT study_id, study_name FROM studies").fetchall():
        directions = db.execute(
            "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective", (study,)
        )
        with quiet():  # Optuna would say that there is a new study
            copy = storage.create_new_study([StudyDirection[direction] for (direction,) in directions], name)
        for key, value in user[study].items():
            storage.set_study_user_attr(copy, key, value)
        for key, value in system[study].items():
            storage.set_study_system_attr(copy, key, value)
        for trial in trials[study]:
            storage.create_new_trial(copy, trial)
    return storage


def _trials(db: sqlite3.Connection) -> dict[int, list[FrozenTrial]]:
    """The trials of every study by number."""
    known: dict[str, BaseDistribution] = {}
    parameters, distributions = defaultdict[int, dict[str, Any]](dict), defaultdict[int, dict[str, Any]](dict)
    query = "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params ORDER BY param_id"
    for trial, name, value, text in db.execute(query):
        distribution = known[text] if text in known else known.setdefault(text, json_to_distribution(text))
        distributions[trial][name] = distribution
        parameters[trial][name] = distribution.to_external_repr(value)
    user, system = (_attributes(db, "trial", whose) for whose in ("user", "system"))
    values, intermediate = defaultdict[int, list[float]](list), defaultdict[int, dict[int, float]](dict)
    for trial, value, kind in db.execute("SELECT trial_id, value, value_type FROM trial_values ORDER BY objective"):
        values[trial].append(NOT_FINITE.get(kind, value))
    query = "SELECT trial_id, step, intermediate_value, intermediate_value_type FROM trial_intermediate_values"
    for trial, step, value, kind in db.execute(query):
        intermediate[trial][step] = NOT_FINITE.get(kind, value)
    found = defaultdict[int, list[FrozenTrial]](list)
    query = "SELECT trial_id, study_id, number, state, datetime_start, datetime_complete FROM trials ORDER BY number"
    for trial, study, number, state, *times in db.execute(query):
        begun, ended = (datetime.fromisoformat(time) if time else None for time in times)
        found[study].append(
            FrozenTrial(
                number=number,
                trial_id=trial,
                state=TrialState[state],
                value=None,
                values=values.get(trial),
                datetime_start=begun,
                datetime_complete=ended,
                params=parameters[trial],
                distributions=distributions[trial],
                user_attrs=user[trial],
                system_attrs=system[trial],
                intermediate_values=intermediate[trial],
            )
        )
    return found


def _attributes(db: sqlite3.Connection, of: str, whose: str) -> dict[int, dict[str, Any]]:
    """By the number of its row. of: study or trial. whose: user or system."""
    found = defaultdict[int, dict[str, Any]](dict)
    for row, key, text in db.execute(f"SELECT {of}_id, key, value_json FROM {of}_{whose}_attributes"):
        found[row][key] = json.loads(text)
    return found
