"""Where the Optuna study of a sweep is kept: a SQLite or journal file in the sweep's folder, or a database by URL.

The locks of SQLite do not hold on many network file systems: there a study is a journal unless the sweep file says
otherwise. For reading nothing is created or changed, not even by SQLite itself, and a share that may only be read will
do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from semples.errors import UserError, cut, quoted
from semples.secrets import hint, redact, reveal
from tune.sqlite_file import SCHEMA, opened, read_studies, schema
from tune.sweep_file import Sweep

STUDY, JOURNAL = "study.db", "study.journal"
MOUNTS = Path("/proc/self/mountinfo")
# kinds of file systems, as Linux calls them, that several machines share or a network lies behind
NETWORKS = (
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.cephfs", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.juicefs", "fuse.lizardfs", "fuse.mfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
)  # fmt: skip
LOCKED = 150.0  # seconds that a SQLite file may be locked by others

_copies: list[tempfile.TemporaryDirectory[str]] = []  # of files that were left in the middle of a change


def place_of(folder: Path, sweep: Sweep) -> str:
    """Where the study of a sweep is, in words."""
    file = _file_of(folder, sweep)
    return str(file) if file else f"study {sweep.study}"


def _file_of(folder: Path, sweep: Sweep) -> Path | None:
    """The file in a sweep's folder that is its study, if one is."""
    name = {"": STUDY, "sqlite": STUDY, "journal": JOURNAL}.get(sweep.study)
    return folder / name if name else None


def network(path: Path) -> str:
    """The kind of network file system that a path is on, "" where it is on none, or nobody can tell."""
    whole, kind, longest = os.path.realpath(path), "", 0
    with suppress(OSError):
        for line in MOUNTS.read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            words = before.split(" ")
            if len(words) > 4 and after:
                point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4]).rstrip("/")
                if f"{whole}/".startswith(f"{point}/") and len(point) >= longest:  # the later one lies on top
                    kind, longest = after.split(" ")[0], len(point)
    return kind if kind in NETWORKS else ""


def choose(folder: Path) -> str:
    """The study of a new sweep that does not say which."""
    return "journal" if network(folder) and not os.path.lexists(folder / STUDY) else "sqlite"


def remark(folder: Path, sweep: Sweep, asked: str) -> str:
    """What to say of a study that is on a network file system, "" if nothing. asked: what its sweep file says."""
    file = _file_of(folder, sweep) or _sqlite_file(sweep)
    kind = network(file) if file else ""
    if kind and file and file.name != JOURNAL:
        return (
            f"{file}: a SQLite file on a network file system ({kind}) may be damaged or stay locked; launch the next "
            "sweep with study=journal"
        )
    return f"{folder} is on a network file system ({kind}): the study is a journal there" if kind and not asked else ""


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
    own = _file_of(folder, sweep)
    if own and own.name == JOURNAL:
        return JournalStorage(JournalFileBackend(str(own))) if os.path.lexists(own) or not reading else None
    if own:
        return _open_file(own, reading)
    if file := _sqlite_file(sweep):
        if not file.parent.is_dir():
            raise UserError(f"{file}: there is no folder {file.parent} for a study; make it or name another")
        return _open_file(file, reading)
    whole = reveal(sweep.study, "study")
    options = {"pool_pre_ping": True}  # a connection that the server closed is opened again
    if reading and not _has_tables(whole, options):
        return None
    return RDBStorage(whole, options, skip_table_creation=reading)


def _sqlite_file(sweep: Sweep) -> Path | None:
    """The SQLite file that `study` names by a URL, if it does."""
    import sqlalchemy  # noqa: PLC0415 - takes a while, and a file in the sweep's folder is read without

    url = sqlalchemy.make_url(reveal(sweep.study, "study"))
    named = url.get_backend_name() == "sqlite" and url.database and url.database[:1] != ":"
    return Path(url.database) if named and url.database else None


def _open_file(file: Path, reading: bool) -> BaseStorage | None:
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{file}: is no plain file, and so no study; take it away or put back what was there")
    if not reading:
        return RDBStorage(_url(file, "rwc"), {"connect_args": {"timeout": LOCKED}})
    if not os.path.lexists(file):
        return None
    try:
        return _read_file(file)
    except sqlite3.OperationalError:
        if not Path(f"{file}-journal").is_file():
            raise
        return _read_file(_copied(file))  # SQLite would end the change of a process that was killed, in the file itself


def _read_file(file: Path) -> BaseStorage | None:
    with opened(file, LOCKED) as db:
        number = schema(db)
        if number == SCHEMA:
            return read_studies(db)
    if number is None:
        return None
    return RDBStorage(_url(file, "ro"), {"connect_args": {"timeout": LOCKED}}, skip_table_creation=True)


def _copied(file: Path) -> Path:
    """A copy of a SQLite file in which the change that it was left in has been taken back."""
    _copies.append(tempfile.TemporaryDirectory(prefix="semples-tune-"))
    copy = Path(_copies[-1].name) / file.name
    for suffix in ("-journal", ""):
        shutil.copyfile(f"{file}{suffix}", f"{copy}{suffix}")
    with opened(copy, LOCKED, "rw") as db:
        schema(db)
    return copy


def _url(file: Path, mode: str) -> str:
    return f"sqlite:///file:{quote(str(file.absolute()))}?mode={mode}&uri=true"


def _has_tables(url: str, options: dict[str, Any]) -> bool:
    import sqlalchemy  # noqa: PLC0415 - as above

    engine = sqlalchemy.create_engine(url, **options)
    try:
        return sqlalchemy.inspect(engine).has_table("studies")
    finally:
        engine.dispose()
