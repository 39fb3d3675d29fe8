"""Digests of many files, remembered between runs: a file is read again only when its size or its times changed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from semples.data.files import require_file
from semples.digests import file_digest

READERS = 8
SETTLED = 2.0  # seconds: a file changed more recently could change again within the same tick of the clock


def memory() -> Path:
    """The file of remembered digests: XDG_CACHE_HOME or ~/.cache, semples-tune/digests.sqlite."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semples-tune" / "digests.sqlite"


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Hex SHA-256 of the content of every file. Where nothing can be remembered, all are read.

    Raises UserError for what is missing or no regular file.
    """
    stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
    known = _recall()
    result = {path: known[os.path.abspath(path)][1] for path, stamp in stamps.items() if _same(known, path, stamp)}
    missing = [path for path in stamps if path not in result]
    with ThreadPoolExecutor(READERS) as pool:
        result.update(zip(missing, pool.map(file_digest, missing), strict=True))
    # only what is the same after it was read, and has been for a while
    settled = [path for path in missing if _stamp(path) == stamps[path] and _age(path) > SETTLED]
    _remember([(os.path.abspath(path), stamps[path], result[path]) for path in settled])
    return result


def _stamp(path: Path) -> str:
    require_file(path, "file")
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _age(path: Path) -> float:
    status = path.stat()
    return time.time() - max(status.st_mtime, status.st_ctime)


def _same(known: dict[str, tuple[str, str]], path: Path, stamp: str) -> bool:
    return known.get(os.path.abspath(path), ("", ""))[0] == stamp


def _recall() -> dict[str, tuple[str, str]]:
    with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(sqlite3.connect(memory(), timeout=30)) as db:
        return {path: (stamp, sha) for path, stamp, sha in db.execute("SELECT path, stamp, sha FROM digests")}
    return {}


def _remember(rows: list[tuple[str, str, str]]) -> None:
    if not rows:
        return
    with contextlib.suppress(sqlite3.Error, OSError):  # a home that is full or cannot be written
        memory().parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(memory(), timeout=30)) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, stamp TEXT, sha TEXT)")
            db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
