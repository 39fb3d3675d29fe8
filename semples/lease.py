"""Who is at work on what: leases on any file system that fsspec knows, without trusting any clock.

Every process that uses a store is a session. It keeps a small file `holders/ID` and rewrites it every few seconds.
Others look whether that file still changes, by their own monotonic clock; when it stood still for `ttl` seconds the
session is dead. A lease on a key is a file `leases/KEY.N` with the session's ID in it, created only if there is none.
The highest N counts. Whoever finds its session dead takes over by creating N + 1, which succeeds once, and then takes
N away. Otherwise a lease is taken away by its own session alone. That a session uses a key is a file `uses/KEY.ID`.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from semples.errors import UserError, cut
from semples.secrets import conceal, hint, redact

TTL = 12.0  # seconds without a sign of life after which a session is taken for dead
ONE_AT_A_TIME = threading.Lock()  # what memory:// does not do at once: create, and read from a file that others read
BEATS = 4  # signs of life in that time
SHORTEST, LONGEST = 0.05, 10.0  # seconds between two looks of one who waits
SESSION = re.compile(r"[\w.-]+-\d+-[0-9a-f]{8}")  # host, process, a token; a file of another name is somebody's


def pauses() -> Iterator[float]:
    """Seconds until the next look of one who waits, again and again: at most a tenth of the time since the first, so
    that whoever waited long asks seldom. No two that wait look at the same moments."""
    began, luck = time.monotonic(), random.SystemRandom()
    while True:
        yield luck.uniform(0.8, 1.0) * min(LONGEST, max(SHORTEST, (time.monotonic() - began) / 10))


def local_folder(where: str) -> Path | None:
    """The folder that a path or a URL of this machine's files names; None for a URL of another place."""
    protocol, mark, rest = where.partition("://")
    if not mark:
        try:
            return Path(where).expanduser()
        except RuntimeError:
            raise UserError(f"store {where}: nobody has this home; give the whole path") from None
    return Path(rest) if protocol in ("file", "local") and rest.strip("/") else None


@dataclass(frozen=True)
class Storage:
    """A folder on a file system of fsspec, and the few things that are done there. Names are relative to it.

    Where it is not a local folder, whatever the file system raises becomes a UserError.
    """

    fs: Any
    root: str
    local: bool

    @classmethod
    def at(cls, url: str) -> Storage:
        """The storage that a path or URL names. Raises UserError for a protocol that fsspec lacks."""
        protocol, mark, rest = url.partition("://")
        if mark and not rest.strip("/"):
            raise UserError(f"store {redact(url)}: names no folder; give one like s3://bucket/results")
        try:
            if mark:
                fsspec.get_filesystem_class(protocol.split("::")[0])
            fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except Exception as error:  # what a file system raises has no common kind
            advice = hint(conceal(url), "store")
            reason = redact(cut(str(error), 200))
            raise UserError(f"store {redact(url)}: fsspec cannot open it ({reason}){advice}") from None
        return cls(fs, root.rstrip("/"), isinstance(fs, LocalFileSystem))

    def path(self, name: str) -> str:
        """The full path of a name. Raises UserError where a local one leads through a link, below the root."""
        path = self.root
        for part in name.split("/") if name else ():
            path = f"{path}/{part}"
            if self.local and os.path.islink(path):
                raise UserError(f"{path}: is a link, and links in a store are not followed; take it away")
        return path

    def read(self, name: str) -> bytes | None:
        """Content, or None if there is no such file."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            path = self.path(name)
            if self.local and os.path.exists(path) and not os.path.isfile(path):
                return b""  # a pipe would never end
            content: bytes = self.fs.cat_file(path)
            return content
        return None

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file."""
        with self._errors():
            self._in_folder(lambda: self.fs.pipe_file(self.path(name), content), name)

    def create(self, name: str, content: bytes) -> bool:
        """Create a file, or return False if there is one: of any number of callers at most one gets True."""

        def create() -> None:
            if self.local:  # whose pipe_file looks first and writes then
                with self.fs.open(self.path(name), "xb") as file:
                    file.write(content)
            else:
                self.fs.pipe_file(self.path(name), content, mode="create")

        with self._errors(), contextlib.suppress(FileExistsError), ONE_AT_A_TIME:
            self._in_folder(create, name)
            return True
        return False

    def names(self, folder: str = "", start: str = "") -> list[str]:
        """Last parts of the names in a folder that begin with `start`, sorted; none if there is no such folder."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self.fs.invalidate_cache()
            path = self.path(folder)
            if start and self.fs.async_impl and escape(path) == path:  # an object store lists those alone
                found = self.fs.glob(f"{path}/{escape(start)}*", maxdepth=1, withdirs=False)
            else:
                found = self.fs.ls(path, detail=False)
            names = (path.rstrip("/").rsplit("/", 1)[-1] for path in found)
            return sorted(name for name in names if name.startswith(start))
        return []

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Delete an empty folder, if it is there and this file system has folders."""
        with self._errors(), contextlib.suppress(OSError):
            self.fs.rmdir(self.path(name))

    def download(self, name: str, file: Path) -> None:
        """Copy a file, if it is there, to a local one."""
        with self._errors(), contextlib.suppress(FileNotFoundError), ONE_AT_A_TIME:
            self.fs.get_file(self.path(name), str(file))

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file."""
        with self._errors():
            self._in_folder(lambda: self.fs.put_file(str(file), self.path(name)), name)

    def time(self, name: str) -> float:
        """When the file was written, in seconds since 1970 by the file system's clock. Raises FileNotFoundError."""
        with self._errors():
            return float(self.fs.modified(self.path(name)).timestamp())

    def _in_folder(self, action: Callable[[], object], name: str) -> None:
        try:
            action()
        except FileNotFoundError:  # the folder; file systems without folders never come here
            self.fs.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
            action()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.local or isinstance(error, FileNotFoundError):
                raise
            reason = redact(" ".join(str(error).split())[:200] or type(error).__name__)
            raise UserError(
                f"store {self} cannot be reached ({reason}); finished results are kept "
                "in the local folder and go there when the same command is given again"
            ) from None

    def __str__(self) -> str:
        return redact(self.fs.unstrip_protocol(self.root))


class Session:
    """A process that uses a storage: its sign of life, its leases, and the keys that it uses, which nobody may remove.

    The sign of life is given by a thread from the first `use` or `acquire` on, until `close`, while there is a lease or
    a key in use.
    """

    def __init__(self, storage: Storage, ttl: float = TTL):
        self.storage, self.ttl = storage, ttl
        self.id = f"{re.sub(r'[^A-Za-z0-9.-]', '-', socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"
        self._uses: set[str] = set()
        self._leases: dict[str, int] = {}
        self._known: dict[str, int] = {}  # by key the number of a lease that a living session had at the last look
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._beat = 0
        self._writing = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def probe(self) -> None:
        """Raise UserError where nothing can be written, or where a file is created that is there: everybody would get
        every lease."""
        sign = f"holders/{self.id}"  # which others take away where this process dies
        self.storage.create(sign, b"0")
        twice = self.storage.create(sign, b"0")
        self.storage.delete(sign)
        if twice:
            raise UserError(
                f"store {self.storage}: creates a file that is there already, so that several processes would compute "
                "the same stage; take a place with conditional writes (If-None-Match), or a folder that all nodes see"
            )

    def use(self, key: str) -> None:
        """Say that this process reads the result of a key, until `close`."""
        if key not in self._uses:
            self.show()
            self._uses.add(key)
            self.storage.write(f"uses/{key}.{self.id}", b"")

    def acquire(self, key: str) -> int:
        """Get the lease on a key: its number, from 1; or 0 if a living session has it."""
        owner, last, left = self._last(key)
        if owner:
            return 0
        if SESSION.fullmatch(dead := left.decode(errors="replace")):
            self.forget(dead)
        number, got = last + 1, False
        self._leases[key] = number  # from now on there are signs of life, however long it takes
        try:
            self.show()
            # whoever found the same dead session, or none, tries the same number; a create that was repeated after a
            # lost answer finds the file of its first attempt
            got = self.storage.create(self._lease(key, number), self.id.encode()) or self._is_own(key, number)
        finally:
            if not got:
                self._let_go(key)
        if got and last:
            self._delete(key, last, left)
        return number if got else 0

    def release(self, key: str) -> None:
        """Give a lease back; one that was taken over is another's."""
        try:
            self._delete(key, self._leases[key], self.id.encode())
        finally:
            self._let_go(key)

    def holds(self, key: str) -> bool:
        """Whether the lease that this process got is still the one that counts."""
        number = max(self._numbers(key), default=0)
        return self._leases.get(key) == number and self._is_own(key, number)

    def owner(self, key: str) -> str | None:
        """ID of the living session that has the lease on a key, or None."""
        return self._last(key)[0]

    def alive(self, session: str) -> bool:
        """Whether a session gave a sign of life in the last `ttl` seconds, as far as this process could see."""
        content = self.storage.read(sign := f"holders/{session}")
        if content is None:
            self.storage.names("holders")  # see Store._is_there_after_all
            content = self.storage.read(sign)
        return self._changes(session, content)

    def forget(self, session: str) -> None:
        """Take away the last sign of life of a dead session. If it lives after all, its next one brings it back."""
        self.storage.delete(f"holders/{session}")

    def in_use(self) -> set[str]:
        """The keys that living sessions use; what the dead used, and their signs of life, are taken away."""
        found = [name.split(".", 1) for name in self.storage.names("uses") if SESSION.fullmatch(name.partition(".")[2])]
        signs = {name for name in self.storage.names("holders") if SESSION.fullmatch(name)}
        living = {h for h in {session for _, session in found} | signs if h == self.id or self.alive(h)}
        for session in signs - living:
            self.forget(session)
        for key, session in found:
            if session not in living:
                self.storage.delete(f"uses/{key}.{session}")
        return {key for key, session in found if session in living}

    def close(self) -> None:
        """Give everything back and stop the signs of life."""
        self._end.set()
        if self._thread:
            self._thread.join()
        for key in list(self._leases):
            self.release(key)
        for key in self._uses:
            self.storage.delete(f"uses/{key}.{self.id}")
        self._uses.clear()
        if self._thread:
            self.storage.delete(f"holders/{self.id}")
        self._thread = None

    def _last(self, key: str) -> tuple[str | None, int, bytes]:
        """The last lease on a key: the living session that has it, its number (0 if there is no lease), its content."""
        number = self._known.pop(key, 0)
        owner, content = self._look(key, number)
        if not owner or content is None:
            number = max(self._numbers(key), default=0)
            owner, content = self._look(key, number)
        if owner and content is not None:
            self._known[key] = number
        return owner, number, content or b""

    def _look(self, key: str, number: int) -> tuple[str | None, bytes | None]:
        """The living session that has this very lease, and the content of its file; None where there is none."""
        if not number:
            return None, None
        name = self._lease(key, number)
        if (content := self.storage.read(name)) is None:  # given back just now; another may have one by now
            return "unknown", None
        session = content.decode(errors="replace")
        if SESSION.fullmatch(session):
            seen = self._seen.get(session)
            lately = seen is not None and time.monotonic() - seen[1] < self.ttl  # and need not be looked at now
            return session if lately or self.alive(session) else None, content
        # one who died between creating the file and writing into it left it empty
        return "unknown" if self._changes(name, content) else None, content

    def _changes(self, name: str, content: bytes | None) -> bool:
        """Whether a file changed in the last `ttl` seconds; that it is not there is no change, nor yet a death."""
        now, seen = time.monotonic(), self._seen.get(name)
        if seen is None or (content is not None and content != seen[0]):
            seen = self._seen[name] = content or b"", now
        return now - seen[1] < self.ttl

    def _numbers(self, key: str) -> list[int]:
        start = f"{key}."
        numbers = (name.removeprefix(start) for name in self.storage.names("leases", start))
        return [int(number) for number in numbers if number.isascii() and number.isdigit()]

    def _is_own(self, key: str, number: int) -> bool:
        return self.storage.read(self._lease(key, number)) == self.id.encode()

    def _delete(self, key: str, number: int, content: bytes) -> None:
        """Delete a lease, unless another is there now under its number."""
        if self.storage.read(name := self._lease(key, number)) == content:
            self.storage.delete(name)

    def _let_go(self, key: str) -> None:
        """Of a session that has nothing any more nobody needs a sign of life."""
        with self._writing:
            del self._leases[key]
            if not (self._leases or self._uses):
                with contextlib.suppress(OSError, UserError):  # others will take it for dead
                    self.storage.delete(f"holders/{self.id}")

    def _lease(self, key: str, number: int) -> str:
        return f"leases/{key}.{number}"

    def show(self) -> None:
        """Give a sign of life now, and then again and again."""
        with self._writing:
            self._sign()
        if self._thread is None:
            self._end.clear()
            self._thread = threading.Thread(target=self._live, name="signs of life", daemon=True)
            self._thread.start()

    def _sign(self) -> None:
        sign = f"holders/{self.id}"
        taken_for_dead = self._uses and self.storage.read(sign) is None
        self._beat += 1
        self.storage.write(sign, str(self._beat).encode())
        for key in tuple(self._uses) if taken_for_dead else ():  # which went with the sign
            self.storage.write(f"uses/{key}.{self.id}", b"")

    def _live(self) -> None:
        while not self._end.wait(self.ttl / BEATS):
            # a full disk or a lost link: the next one may come through
            with contextlib.suppress(OSError, UserError), self._writing:
                if self._leases or self._uses:
                    self._sign()
