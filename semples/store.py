"""Stage results by content: computed once, shared by everyone, written whole or not at all.

A store is a folder, on one machine or shared between nodes, or a URL of fsspec with a local folder in front of it. A
result is a folder KEY with its files and, written last, the mark result.json, which has the digest of every file. Where
the place is a URL the same files lie under URL/KEY/, and the local folder keeps copies of what was used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from semples.data.dataset import digest, file_digest
from semples.errors import UserError
from semples.lease import TTL, Holder, Place

MARK = "result.json"  # what was recorded with a result, and {"files": {name: sha256}, "bytes": their sum}
USED = "used"  # its time is that of the last use
WORK = "work"  # folders of stages that are being computed, or were when their process died
GB = 10**9
KEY = re.compile("[0-9a-f]{32}")
UPLOADS = 3  # attempts

Write = Callable[[Path], dict[str, Any]]


def make_key(**parts: Any) -> str:
    """Key of a result: hex digest of everything that determines its bytes, as JSON with sorted keys."""
    return digest(json.dumps(parts, sort_keys=True))[:32]


@dataclass(frozen=True)
class Entry:
    """A stored result: its key, its mark, and when it was last used, in seconds since 1970 by the store's clock."""

    key: str
    mark: dict[str, Any]
    used: float


def open_store(where: str, copies: Path, quota: float | None = None) -> Store:
    """The store at a folder or a URL; where it is a URL, the folder `copies` holds copies of what was used."""
    return Store(copies, where, quota) if "://" in where else Store(Path(where), quota=quota)


class Store:
    """Results in the folder `root`; with a `url`, in the place that it names, and `root` keeps copies.

    quota: GB of the place; where `root` keeps copies, of those too. When a result would exceed it, those least worth
    keeping are dropped: lowest compute seconds a byte and a second since their last use. What a living process uses is
    never dropped (where there is a URL, from `root`), so a quota smaller than what is in use is exceeded.

    Use it as a context manager, or `close` it: until then the results that it handed out are in use. A process that
    dies is noticed after `ttl` seconds.
    """

    def __init__(self, root: Path, url: str | None = None, quota: float | None = None, ttl: float = TTL):
        self.root = root.resolve()
        self._bytes = None if quota is None else quota * GB
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: cannot be used as a store ({error.strerror}); choose another folder") from None
        self.here = Holder(Place.at(str(self.root)), ttl)
        self.there = Holder(Place.at(url), ttl) if url else self.here
        self._sound: set[str] = set()  # keys whose files this process has checked

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is in use by this process any more."""
        for holder in (self.here, self.there):  # which may be one
            with contextlib.suppress(OSError, UserError):  # others will take this process for dead
                holder.close()

    def obtain(self, key: str, write: Write, waiting: Callable[[str], None] = lambda owner: None) -> tuple[Path, bool]:
        """Folder of the result, and whether it was there.

        If it is missing, `write` fills a folder and returns the mark. Of all processes that want it at the same moment
        one does so, the others wait for it, calling `waiting(who)` about once a second; if it dies, one of them takes
        over, in the folder as the dead one left it.
        """
        self.here.use(key)
        pause = 0.02
        while True:
            owner = self.there.owner(key) or self.here.owner(key)
            if owner is None:
                if folder := self.find(key):
                    return folder, True
                if number := self.there.acquire(key):
                    try:
                        if folder := self.find(key):  # published between the two looks
                            return folder, True
                        return self._compute(key, number, write), False
                    except FileNotFoundError:
                        if self.there.holds(key):
                            raise
                        # taken for dead, and the folder of work taken over: as good as waiting
                    finally:
                        self.there.release(key)
            else:
                waiting(owner)
            time.sleep(pause)
            pause = min(1.0, 2 * pause)

    def find(self, key: str) -> Path | None:
        """Folder of the result, or None. A result whose files changed since it was written is removed."""
        folder, remote = self.root / key, self.there is not self.here
        if key not in self._sound or not (folder / MARK).exists():
            self._sound.discard(key)
            if not _intact(folder):
                self._discard(folder)
                if not (remote and self._download(key)):
                    return None
            if remote:
                self._upload(key)
            self._sound.add(key)
        with contextlib.suppress(OSError):  # a disk that is full or cannot be written can still be read
            (folder / USED).touch()
        return folder

    def entries(self) -> list[Entry]:
        """All results of the place, those used last first."""
        return sorted(self._entries(self.there.place), key=lambda entry: -entry.used)

    def verify(self) -> dict[str, bool]:
        """Read every result and say of each whether it is as it was written; those that are not are removed."""
        sound = {}
        for key in _keys(self.there.place):
            self._sound.discard(key)
            if self.there is not self.here:
                shutil.rmtree(self.root / key, ignore_errors=True)
            sound[key] = self.find(key) is not None
        return sound

    def prune(self, limit: float) -> list[Entry]:
        """Drop results until at most `limit` bytes are left, and what dead processes left behind; the dropped ones.

        Who is dead shows only after a while, so this takes `ttl` seconds.
        """
        self._tidy(checkpoints=True)
        time.sleep(self.here.ttl * 1.1)
        self._tidy(checkpoints=True)
        return self._evict(self.there, limit)

    def _compute(self, key: str, lease: int, write: Write) -> Path:
        work, folder = self.root / WORK / f"{key}.{lease}", self.root / key
        work.parent.mkdir(exist_ok=True)
        for left in sorted(work.parent.glob(f"{key}.*")):  # of one that died, who may not be as dead as it seemed
            with contextlib.suppress(OSError):  # the second of two
                os.rename(left, work)
        work.mkdir(exist_ok=True)
        mark = write(work)
        files = [path for path in sorted(work.iterdir()) if path.name not in (MARK, USED)]
        mark["files"] = {path.name: file_digest(path) for path in files}
        mark["bytes"] = sum(path.stat().st_size for path in files)
        self._publish(work, mark)
        if (found := self.find(key)) is None:
            raise UserError(f"{folder}: not what was written there a moment ago; check this disk")
        return found

    def _publish(self, work: Path, mark: dict[str, Any]) -> None:
        """Make a folder that has all its files the result of its key."""
        (work / USED).touch()
        (work / MARK).write_text(json.dumps(mark))
        folder = self.root / _key_of(work)
        with self._room(self.here, mark["bytes"]):
            try:
                os.rename(work, folder)
            except OSError:
                if not _intact(folder):  # not the same from a faster process, but a failure
                    raise
                shutil.rmtree(work, ignore_errors=True)

    def _own(self, key: str) -> Path:
        """A new folder in which nobody else works."""
        folder = self.root / WORK / f"{key}@{self.here.id}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _discard(self, folder: Path) -> None:
        if folder.exists():
            doomed = self._own(folder.name)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.rename(folder, doomed / folder.name)
            shutil.rmtree(doomed, ignore_errors=True)

    def _tidy(self, checkpoints: bool) -> None:
        """Remove what processes that died left behind in the local folder: half copies, and if `checkpoints`, stages
        that were being computed, which could have gone on."""
        for folder in (self.root / WORK).glob("*"):
            if not KEY.fullmatch(_key_of(folder)):
                continue
            holder = folder.name.partition("@")[2]
            living = holder == self.here.id or self.here.alive(holder) if holder else self.there.owner(_key_of(folder))
            if not living and (holder or checkpoints):
                shutil.rmtree(folder, ignore_errors=True)
        for holder in self.here.place.names("holders"):
            self.here.alive(holder)
        self.here.in_use()

    def _download(self, key: str) -> bool:
        """Copy a result from the URL; False if it is not there, or is not as it was written."""
        place = self.there.place
        content = place.read(f"{key}/{MARK}")
        if content is None:
            return False
        copy = self._own(key)
        with contextlib.suppress(ValueError, KeyError):
            for name in json.loads(content)["files"]:
                place.download(f"{key}/{name}", copy / name)
        (copy / MARK).write_bytes(content)
        if not _intact(copy):
            shutil.rmtree(copy, ignore_errors=True)
            _drop(place, key)
            return False
        self._publish(copy, json.loads(content))
        place.write(f"{key}/{USED}", b"")
        return True

    def _upload(self, key: str) -> None:
        """Copy a result to the URL, the mark last, unless it is there."""
        place, folder = self.there.place, self.root / key
        if place.read(f"{key}/{MARK}") is not None:
            return
        mark = read_mark(folder)
        for attempt in range(UPLOADS):
            try:
                with self._room(self.there, mark["bytes"]):
                    for name in (*mark["files"], USED, MARK):
                        place.upload(folder / name, f"{key}/{name}")
                return
            except UserError:
                if attempt == UPLOADS - 1:
                    raise
                time.sleep(0.2 * 4**attempt)

    @contextmanager
    def _room(self, holder: Holder, size: int) -> Iterator[None]:
        """Make room for `size` bytes, and let nobody else fill it meanwhile."""
        if self._bytes is None:
            yield
            return
        while not holder.acquire("quota"):
            time.sleep(0.05)
        try:
            self._evict(holder, self._bytes - size)
            yield
        finally:
            holder.release("quota")

    def _evict(self, holder: Holder, limit: float) -> list[Entry]:
        entries = self._entries(holder.place)
        excess = sum(entry.mark["bytes"] for entry in entries) - limit
        if excess <= 0 or not entries:
            return []
        self._tidy(checkpoints=False)
        now, used, dropped = max(entry.used for entry in entries), holder.in_use(), []

        def worth(entry: Entry) -> float:
            return float(entry.mark["seconds"] / (1 + entry.mark["bytes"]) / (60 + now - entry.used))

        for entry in sorted(entries, key=worth):
            if excess <= 0:
                break
            # with the lease on it nobody begins to use it between the look and the deed
            if entry.key in used or not holder.acquire(entry.key):
                continue
            try:
                if entry.key not in holder.in_use():
                    _drop(holder.place, entry.key)
                    excess -= entry.mark["bytes"]
                    dropped.append(entry)
            finally:
                holder.release(entry.key)
        return dropped

    def _entries(self, place: Place) -> list[Entry]:
        entries = []
        for key in _keys(place):
            with contextlib.suppress(FileNotFoundError, ValueError):  # dropped just now, or damaged
                mark = json.loads(place.read(f"{key}/{MARK}") or b"")
                entries.append(Entry(key, mark, place.time(f"{key}/{USED}")))
        return entries


def _keys(place: Place) -> list[str]:
    """Names of results; what else lies in the place is somebody's and is left alone."""
    return [name for name in place.names() if KEY.fullmatch(name)]


def _key_of(work: Path) -> str:
    """KEY.LEASE of a computation, KEY@HOLDER of a copy -> KEY."""
    return work.name.partition("@")[0].partition(".")[0]


def _drop(place: Place, key: str) -> None:
    """Remove a result, the mark first: what is left of it is no result."""
    place.delete(f"{key}/{MARK}")
    for name in place.names(key):
        place.delete(f"{key}/{name}")
    place.delete_folder(key)


def _intact(folder: Path) -> bool:
    try:
        return all(file_digest(folder / name) == sha for name, sha in read_mark(folder)["files"].items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return False


def read_mark(folder: Path) -> dict[str, Any]:
    """What was recorded with a result: `metrics`, `curves`, `seconds`, `stage`, `key` (its parts), `files`, `bytes`."""
    mark: dict[str, Any] = json.loads((folder / MARK).read_text())
    return mark
