"""Stage results by content: computed once, shared by everyone, written whole or not at all.

A store is a folder, on one machine or shared between nodes, or a URL of fsspec with a local folder in front of it. A
result is a folder KEY with its files and, written last, its manifest (semples.manifest). Where the place is a URL the
same files lie under URL/KEY/, and the local folder keeps copies of what was used.

What comes out of a store is not trusted: keys, file names and holders count only in their own form, a manifest only
whole, and no link is followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from semples.digests import file_digest
from semples.errors import UserError
from semples.folders import claim, foreign, kind_of
from semples.lease import SESSION, TTL, Session, Storage, local_folder, pauses
from semples.manifest import MANIFEST, USED, NewerError, files_of, intact, read_manifest, seal
from semples.results import KEY, Entry, check_key, drop, holds_result, survey

WORK = "work"  # folders of stages that are being computed, or were when their process died
GB = 10**9
WORK_NAME = re.compile(rf"{KEY.pattern}(\.\d+(-[0-9a-f]{{8}})?|@{SESSION.pattern})")
UPLOADS = 3  # attempts

Write = Callable[[Path], dict[str, Any]]


def open_store(where: str, copies: Path, quota: float | None = None, reading: bool = False) -> Store:
    """The store at a folder or a URL; where it is a URL, the folder `copies` holds copies of what was used.

    reading: nothing is created or changed there.
    """
    folder = local_folder(where)
    return Store(folder or copies, None if folder else where, quota, reading=reading)


def is_store(folder: Path) -> bool:
    """Whether a folder says that it is a store, or holds a result, as those of version 0.1.0 do that say nothing."""
    return kind_of(folder) == "store" or any(holds_result(folder / name) for name in foreign(folder))


class Store:
    """Results in the folder `root`; with a `url`, in the place that it names, and `root` keeps copies.

    quota: GB of the place; where `root` keeps copies, of those too. When a result would exceed it, those least worth
    keeping are dropped: lowest compute seconds a byte and a second since their last use. What a living process uses is
    never dropped (where there is a URL, from `root`), so a quota smaller than what is in use is exceeded.

    Use it as a context manager, or `close` it: until then the results that it handed out are in use. A process that
    dies is noticed after `ttl` seconds. Opened for `reading`, it changes nothing but, where there is a URL, `root`.
    """

    def __init__(
        self, root: Path, url: str | None = None, quota: float | None = None, ttl: float = TTL, reading: bool = False
    ):
        self._reading = reading
        self._bytes = None if quota is None else quota * GB
        if not reading or url:
            try:
                claim(root, "store", adopt=is_store(root))
            except OSError as error:
                raise UserError(f"{root}: cannot be used as a store ({error.strerror}); choose another") from None
        self.root = Path(os.path.realpath(root))
        self.here = Session(Storage.at(str(self.root)), ttl)
        self.there = Session(Storage.at(url), ttl) if url else self.here
        if url and not reading:
            self.there.probe()  # what cannot be used is known now and not after hours
        for name in (WORK, "holders", "uses", "leases"):
            self.here.storage.path(name)  # refuses links, before any work
        self._sound: set[str] = set()  # keys whose files this process has checked

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is in use by this process any more."""
        for session in (self.here, self.there):  # which may be one
            with contextlib.suppress(OSError, UserError):  # others will take this process for dead
                session.close()

    def get_or_compute(
        self, key: str, write: Write, waiting: Callable[[str], None] = lambda owner: None
    ) -> tuple[Path, bool]:
        """Folder of the result, and whether it was there.

        If it is missing, `write` fills a folder and returns the manifest. Of all processes that want it at the same
        moment one does so, the others wait for it, calling `waiting(who)` about once a second; if it dies, one of them
        takes over, in the folder as the dead one left it. They look seldom when they have waited long, see
        semples.lease.pauses.
        """
        check_key(key)
        self.here.use(key)
        pause = pauses()
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
            until = time.monotonic() + next(pause)
            while (left := until - time.monotonic()) > 0:
                if owner:
                    waiting(owner)
                time.sleep(min(1.0, left))

    def find(self, key: str) -> Path | None:
        """Folder of the result, or None. A result that is not as it was written is removed.

        Raises UserError for one of a later version, which is left alone.
        """
        check_key(key)
        try:
            return self._find(key)
        except NewerError as error:
            raise UserError(f"{self.there.storage.path(key)}/{MANIFEST}: {error} or use another store") from None

    def _find(self, key: str) -> Path | None:
        folder, remote = self.root / key, self.there is not self.here
        if key not in self._sound or not (folder / MANIFEST).exists():
            self._sound.discard(key)
            if not (intact(folder) or self._is_there_after_all(key)):
                if not self._reading or remote:
                    self._discard(key)
                if not (remote and self._download(key)):
                    return None
            if remote and not self._reading:
                self._upload(key)
            self._sound.add(key)
        if not self._reading:
            with contextlib.suppress(OSError):  # a disk that is full or cannot be written can still be read
                os.close(os.open(folder / USED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))
                os.utime(folder / USED, follow_symlinks=False)
        return folder

    def _is_there_after_all(self, key: str) -> bool:
        """Whether a result is there that seemed to be missing: a client of a network file system that once found no
        file says so for up to a minute, until it lists the folder."""
        for folder in ("", key):
            self.here.storage.names(folder)
        return intact(self.root / key)

    def lost(self, keys: Iterable[str]) -> list[str]:
        """Those of these results, found before, that are not there any more, or not as they were written."""
        gone = [key for key in keys if not intact(self.root / key)]
        self._sound.difference_update(gone)
        return gone

    def entries(self) -> list[Entry]:
        """All results of the store, those used last first, without the damaged ones."""
        return self.survey()[0]

    def survey(self) -> tuple[list[Entry], list[str]]:
        """The same, and the keys of those whose manifest cannot be read; `verify` looks at the files, too."""
        entries, damaged = survey(self.there.storage)
        return sorted(entries, key=lambda entry: -entry.used), damaged

    def verify(self) -> dict[str, bool]:
        """Read every result and say of each whether it is as it was written; those that are not are removed."""
        sound = {}
        results, damaged = self.survey()
        for key in sorted([entry.key for entry in results] + damaged):
            self._sound.discard(key)
            if self.there is not self.here:
                self._discard(key)
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
        # a name that no attempt had: who is not as dead as it seemed finds its folder gone
        work, folder = self._work(f"{key}.{lease}-{secrets.token_hex(4)}"), self.root / key
        for left in self._begun(key):  # of one that died
            if left.is_symlink():
                raise UserError(f"{left}: is a link, and links in a store are not followed; take it away")
            with contextlib.suppress(OSError):  # the second of two
                os.rename(left, work)
        work.mkdir(exist_ok=True)
        try:
            manifest = write(work)
            files = [path for path in sorted(work.iterdir()) if path.name not in (MANIFEST, USED)]
            manifest["files"] = {path.name: file_digest(path) for path in files}
            manifest["bytes"] = sum(path.stat().st_size for path in files)
            self._publish(work, seal(manifest))
        except OSError as error:
            error.filename = error.filename or str(self.root)  # a full disk names no file
            raise
        if (found := self.find(key)) is None:
            raise UserError(f"{folder}: not what was written there a moment ago; check this disk")
        return found

    def _publish(self, work: Path, manifest: dict[str, Any]) -> None:
        """Make a folder that has all its files the result of its key."""
        (work / USED).touch()
        (work / MANIFEST).write_text(json.dumps(manifest))
        folder = self.root / _key_of(work)
        with self._room(self.here, manifest["bytes"]):
            try:
                os.rename(work, folder)
            except OSError:
                # not the same from a faster process, nor what others put there, but a failure
                if not (intact(folder) or (folder.is_dir() and not (folder / MANIFEST).exists())):
                    raise
                for name in (*manifest["files"], USED, MANIFEST) if not (folder / MANIFEST).exists() else ():
                    os.replace(work / name, folder / name)
                shutil.rmtree(work, ignore_errors=True)

    def _work(self, name: str) -> Path:
        """The path of a folder to work in."""
        self.here.storage.path(f"{WORK}/{name}")  # refuses links
        (self.root / WORK).mkdir(exist_ok=True)
        return self.root / WORK / name

    def _begun(self, key: str) -> list[Path]:
        """The folders in which somebody on this node began to compute a result."""
        return [path for path in sorted((self.root / WORK).glob(f"{key}.*")) if WORK_NAME.fullmatch(path.name)]

    def _own(self, key: str) -> Path:
        """A new folder in which nobody else works."""
        folder = self._work(f"{key}@{self.here.id}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _discard(self, key: str) -> None:
        """Take away what was a result, and is damaged; a folder without a manifest is none. Files that are not of it
        stay; those that a damaged manifest does not tell do, too, until the result is computed again."""
        folder, content = self.root / key, self.here.storage.read(f"{key}/{MANIFEST}")
        if content is None:
            return
        doomed = self._own(key)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.rename(folder, doomed / key)
            for name in (*files_of(content), USED, MANIFEST):
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    (doomed / key / name).unlink()
            for left in sorted((doomed / key).iterdir()):
                folder.mkdir(exist_ok=True)
                os.rename(left, folder / left.name)
        shutil.rmtree(doomed, ignore_errors=True)

    def _tidy(self, checkpoints: bool) -> None:
        """Remove what processes that died left behind in the local folder: half copies, and if `checkpoints`, stages
        that were being computed, which could have gone on."""
        self.here.storage.path(WORK)  # refuses a link
        for folder in (self.root / WORK).glob("*"):
            if not WORK_NAME.fullmatch(folder.name) or folder.is_symlink():
                continue
            session = folder.name.partition("@")[2]
            living = (
                session == self.here.id or self.here.alive(session) if session else self.there.owner(_key_of(folder))
            )
            if not living and (session or checkpoints):
                shutil.rmtree(folder, ignore_errors=True)
        self.here.in_use()

    def _download(self, key: str) -> bool:
        """Copy a result from the URL; False if it is not there, or is not as it was written."""
        storage = self.there.storage
        content = storage.read(f"{key}/{MANIFEST}")
        if content is None:
            return False
        copy = self._own(key)
        for name in files_of(content):
            storage.download(f"{key}/{name}", copy / name)
        (copy / MANIFEST).write_bytes(content)
        if not intact(copy):
            shutil.rmtree(copy, ignore_errors=True)
            if not self._reading:
                drop(storage, key)
            return False
        self._publish(copy, read_manifest(copy))
        for left in self._begun(key):  # and ended by another node
            if not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        if not self._reading:
            storage.write(f"{key}/{USED}", b"")
        return True

    def _upload(self, key: str) -> None:
        """Copy a result to the URL, the manifest last, unless it is there."""
        storage, folder = self.there.storage, self.root / key
        if storage.read(f"{key}/{MANIFEST}") is not None:
            return
        manifest = read_manifest(folder)
        for attempt in range(UPLOADS):
            try:
                with self._room(self.there, manifest["bytes"]):
                    for name in (*manifest["files"], USED, MANIFEST):
                        storage.upload(folder / name, f"{key}/{name}")
                return
            except UserError:
                if attempt == UPLOADS - 1:
                    raise
                time.sleep(0.2 * 4**attempt)

    @contextmanager
    def _room(self, session: Session, size: int) -> Iterator[None]:
        """Make room for `size` bytes, and let nobody else fill it meanwhile."""
        if self._bytes is None:
            yield
            return
        pause = pauses()
        while not session.acquire("quota"):
            time.sleep(next(pause))
        try:
            self._evict(session, self._bytes - size)
            yield
        finally:
            session.release("quota")

    def _evict(self, session: Session, limit: float) -> list[Entry]:
        entries = survey(session.storage)[0]
        excess = sum(entry.manifest["bytes"] for entry in entries) - limit
        if excess <= 0 or not entries:
            return []
        self._tidy(checkpoints=False)
        now, used, dropped = max(entry.used for entry in entries), session.in_use(), []

        def worth(entry: Entry) -> float:
            return float(entry.manifest["seconds"] / (1 + entry.manifest["bytes"]) / (60 + now - entry.used))

        for entry in sorted(entries, key=worth):
            if excess <= 0:
                break
            # with the lease on it nobody begins to use it between the look and the deed
            if entry.key in used or not session.acquire(entry.key):
                continue
            try:
                if entry.key not in session.in_use():
                    drop(session.storage, entry.key)
                    excess -= entry.manifest["bytes"]
                    dropped.append(entry)
            finally:
                session.release(entry.key)
        return dropped


def _key_of(work: Path) -> str:
    """KEY.LEASE of a computation, KEY@SESSION of a copy -> KEY."""
    return work.name.partition("@")[0].partition(".")[0]
