"""Where the Optuna study of a sweep is kept: a SQLite or journal file in the sweep's folder, or a database by URL.

For reading nothing is created or changed, not even by SQLite itself, and a share that may only be read will do.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from semples.errors import UserError, cut, quoted
from semples.secrets import hint, redact, reveal
from tune.sweep_file import Sweep

STUDY, JOURNAL = "study.db", "study.journal"
LOCKED = 150.0  # seconds that a SQLite file may be locked by others

_copies: list[tempfile.TemporaryDirectory[str]] = []  # of files that were left in the middle of a change


def place_of(folder: Path, sweep: Sweep) -> str:
    """Where the study of a sweep is, in words."""
    return f"study {sweep.study}" if "://" in sweep.study else str(folder / (JOURNAL if sweep.study else STUDY))


def why(error: BaseException) -> str:
    """The reason of an error of a storage, without the SQL that led to it."""
    text = str(error.__cause__ or error) or type(error).__name__
    return redact(cut(text.partition("[SQL")[0], 200))


@contextmanager
def storage_errors(folder: Path, sweep: Sweep) -> Iterator[None]:
    """Whatever a storage raises becomes a UserError: what drivers of databases raise has no common kind."""
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(
            f"{folder / JOURNAL} has a damaged line, as a full disk leaves it (beginning {quoted(error.doc[:30])}): "
            "delete that line"
        ) from None
    except ImportError as error:
        raise UserError(f"{place_of(folder, sweep)}: {why(error)}; install that driver") from None
    except Exception as error:
        raise UserError(f"{place_of(folder, sweep)} cannot be used: {why(error)}{hint(sweep.study, 'study')}") from None


def open_storage(folder: Path, sweep: Sweep, reading: bool = False) -> BaseStorage | None:
    """The storage of a sweep's study; for reading None where there is none. Raises what the storage raises."""
    if sweep.study == "journal":
        there = os.path.lexists(folder / JOURNAL)
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL))) if there or not reading else None
    whole = reveal(sweep.study, "study")
    url = sqlalchemy.make_url(whole) if whole else None
    if url is None or (url.get_backend_name() == "sqlite" and url.database and url.database[:1] != ":"):
        file = Path(url.database or "") if url else folder / STUDY
        if url and not file.parent.is_dir():
            raise UserError(f"{file}: there is no folder {file.parent} for a study; make it or name another")
        return _open_file(file, reading)
    options = {"pool_pre_ping": True}  # a connection that the server closed is opened again
    if reading and not _has_tables(whole, options):
        return None
    return RDBStorage(whole, options, skip_table_creation=reading)


def _open_file(file: Path, reading: bool) -> RDBStorage | None:
    options = {"connect_args": {"timeout": LOCKED}}
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{file}: is no plain file, and so no study; take it away or put back what was there")
    if not reading:
        return RDBStorage(_url(file, "rwc"), options)
    if not os.path.lexists(file):
        return None
    try:
        there = _has_tables(_url(file, "ro"), options)
    except sqlalchemy.exc.OperationalError:
        if not Path(f"{file}-journal").is_file():
            raise
        file = _copied(file)  # SQLite would end the change of a process that was killed, in the file itself
        there = _has_tables(_url(file, "ro"), options)
    return RDBStorage(_url(file, "ro"), options, skip_table_creation=True) if there else None


def _copied(file: Path) -> Path:
    """A copy of a SQLite file in which the change that it was left in has been taken back."""
    _copies.append(tempfile.TemporaryDirectory(prefix="semples-tune-"))
    copy = Path(_copies[-1].name) / file.name
    for suffix in ("-journal", ""):
        shutil.copyfile(f"{file}{suffix}", f"{copy}{suffix}")
    _has_tables(_url(copy, "rw"), {})
    return copy


def _url(file: Path, mode: str) -> str:
    return f"sqlite:///file:{quote(str(file.absolute()))}?mode={mode}&uri=true"


def _has_tables(url: str, options: dict[str, Any]) -> bool:
    engine = sqlalchemy.create_engine(url, **options)
    try:
        return sqlalchemy.inspect(engine).has_table("studies")
    finally:
        engine.dispose()
