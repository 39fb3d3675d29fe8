"""A store works on the file systems that many nodes share: what is there is found even where it was missed before; a
lease is its owner's; those that wait ask seldom; a place that gives everybody the lease is refused."""

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from semples import lease
from semples import store as stores
from semples.errors import UserError
from semples.lease import Session, Storage
from semples.store import Store
from semples.testing.stores import KEY, TTL, A, refuse, stand_still, write

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import waiting as benchmark


# ------------------------------------------------------------------------------------- what a client remembers
class Client:
    """The threads that run `here` are a node with a network file system: as under Linux, a name that it did not find is
    missing for it until it lists the folder, or makes something of that name itself."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.missing: set[str] = set()
        self.believed = 0  # how often it did not ask the server
        self._node = threading.local()
        for module, name in ((os, "stat"), (os, "lstat"), (os, "open"), (io, "open"), (builtins, "open")):
            patch.setattr(module, name, self._asking(getattr(module, name)))
        for name in ("scandir", "listdir"):
            patch.setattr(os, name, self._asking(getattr(os, name), lists=True))
        for name in ("rename", "replace", "mkdir"):
            patch.setattr(os, name, self._making(getattr(os, name)))

    def here(self, action: Callable[[], None]) -> None:
        self._node.on = True
        action()

    def _asking(self, ask: Callable[..., Any], lists: bool = False) -> Callable[..., Any]:
        def asked(path: Any, *how: Any, **more: Any) -> Any:
            if not getattr(self._node, "on", False) or isinstance(path, int):
                return ask(path, *how, **more)
            full = os.path.abspath(os.fspath(path))
            mode = [*how[:1], more.get("mode", "")][0]
            if mode & os.O_CREAT if isinstance(mode, int) else {*mode} & {*"wxa"}:
                self.missing.discard(full)
            if any(full == name or full.startswith(f"{name}/") for name in self.missing):
                self.believed += 1
                raise FileNotFoundError(2, "not found before", full)
            try:
                found = ask(path, *how, **more)
            except FileNotFoundError:
                self._node.on = False
                while not os.path.exists(os.path.dirname(full)):
                    full = os.path.dirname(full)
                self._node.on = True
                self.missing.add(full)
                raise
            if lists:
                self.missing = {name for name in self.missing if os.path.dirname(name) != full}
            return found

        return asked

    def _making(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*paths: Any, **more: Any) -> Any:
            try:
                return make(*paths, **more)
            finally:
                if getattr(self._node, "on", False):
                    self.missing.discard(os.path.abspath(os.fspath(paths[-1])))

        return made


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("waits", [True, False])
def test_what_a_node_did_not_find_before_is_found_when_another_has_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool, left: bool
) -> None:
    """The second node looks, then the first computes, and the second one waits for it or comes later. left: a folder
    that is no result is there already, so that the name that is missing is that of the manifest."""
    root = tmp_path / "store"
    Store(root).close()
    if left:
        (root / KEY).mkdir()
        (root / KEY / "notes").write_text("somebody's")
    client, looked, comes, done = Client(monkeypatch), threading.Event(), threading.Event(), threading.Event()
    computed: list[str] = []
    found: list[bool] = []

    def compute(by: str) -> Callable[[Path], dict[str, Any]]:
        def fill(out: Path) -> dict[str, Any]:
            computed.append(by)
            if by == "first" and waits:
                assert comes.wait(10)
            return write("once")(out)

        return fill

    def first() -> None:
        assert looked.wait(30)
        with Store(root) as store:
            store.get_or_compute(KEY, compute("first"))
        done.set()

    def second() -> None:
        with Store(root) as store:
            assert store.find(KEY) is None
            looked.set()
            if not waits:
                assert done.wait(30)
            while waits and not computed:
                time.sleep(0.01)
            folder, reused = store.get_or_compute(KEY, compute("second"), lambda owner: comes.set())
            found.append(reused)
            assert (folder / "data.bin").read_text() == "once"

    threads = [threading.Thread(target=first), threading.Thread(target=client.here, args=(second,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == ["first"] and found == [True] and client.believed


def test_a_sign_of_life_that_a_node_did_not_find_before_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was thought to be dead comes back: where it was missed nobody takes its lease while it lives."""
    storage = Storage.at(str(tmp_path))
    client, owner, outcome = Client(monkeypatch), Session(storage, TTL), list[Any]()
    assert owner.acquire(KEY)

    def other() -> None:
        session = Session(storage, TTL / 8)
        assert session.owner(KEY) == owner.id
        storage.delete(sign)
        time.sleep(TTL / 16)
        session.alive(owner.id)  # it is missing
        time.sleep(TTL / 2)  # and there again
        outcome.extend((session.owner(KEY), session.acquire(KEY)))
        session.close()

    sign = f"holders/{owner.id}"
    thread = threading.Thread(target=client.here, args=(other,))
    thread.start()
    thread.join()
    owner.close()
    assert outcome == [owner.id, 0] and client.believed


# ------------------------------------------------------------------------------------------- leases
def test_of_two_leases_the_later_one_counts(tmp_path: Path) -> None:
    """Who took over died, or was cut off, before it took the one of the dead away."""
    storage = Storage.at(str(tmp_path))
    heir, third = (Session(storage, TTL) for _ in range(2))
    storage.write(f"leases/{KEY}.1", b"dead-1-00000000")
    storage.write(f"leases/{KEY}.2", heir.id.encode())
    heir.use(A)
    for _ in range(8):
        assert third.owner(KEY) == heir.id and third.acquire(KEY) == 0
        time.sleep(TTL / 5)
    heir.close()
    third.close()


def test_a_lease_counts_while_it_is_still_being_made(tmp_path: Path) -> None:
    """A server that is slow to answer: the file is there, and who made it gives signs of life meanwhile."""

    class Slow(MemoryFileSystem):
        protocol = "slow"
        store: dict[str, Any] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
            super().pipe_file(path, value, mode)
            if mode == "create" and "leases" in path:
                time.sleep(2 * TTL)

    fsspec.register_implementation("slow", Slow, clobber=True)
    owner, other = (Session(Storage.at("slow://store"), TTL / 2) for _ in range(2))
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(owner.acquire(KEY)))
    thread.start()
    while not other.storage.names("leases"):
        time.sleep(0.01)
    while thread.is_alive():
        assert other.acquire(KEY) == 0
        time.sleep(TTL / 10)
    thread.join()
    assert got == [1] and other.owner(KEY) == owner.id
    owner.close()
    other.close()


def test_who_has_no_lease_at_a_url_says_nothing_there(tmp_path: Path) -> None:
    with Store(tmp_path / "a", f"counted://{tmp_path}", ttl=0.4) as store:
        store.get_or_compute(KEY, write("x"))
        benchmark.asked.clear()
        time.sleep(1)
        assert not benchmark.asked
        assert store.there.storage.names("holders") == [] and store.here.storage.names("holders") == [store.here.id]


# ------------------------------------------------------------------------------------------- waiting
class Clock:
    """Time as one who waits sees it: it passes while it sleeps, and `meanwhile` happens."""

    def __init__(self, patch: pytest.MonkeyPatch, meanwhile: Callable[[float], None]):
        self.now, self._meanwhile = 0.0, meanwhile
        own = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep, time=time.time)
        patch.setattr(lease, "time", own)
        patch.setattr(stores, "time", own)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 10_000, "it waits for ever"
        self._meanwhile(self.now)


class Course:
    """One waits for a stage that another computes at a URL: what is asked for, and when it is noticed what happened."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        url = f"counted://{folder}"
        self.holder, self.waiter = Store(folder / "holder", url), Store(folder / "waiter", url)
        assert self.holder.there.acquire(KEY)
        stand_still(self.holder)  # its signs are given below
        self.lives, self.ends = 1e9, 1e9
        self.asked: list[float] = []  # when something was
        self.told: list[float] = []
        self._sign = 0.0
        self.clock = Clock(patch, self._meanwhile)
        benchmark.asked.clear()

    def _meanwhile(self, now: float) -> None:
        self.asked += [now] * benchmark.asked["looks"]
        if now < self.lives and now - self._sign >= lease.TTL / lease.BEATS:
            self._sign = now
            self.holder.there.storage.write(f"holders/{self.holder.there.id}", str(now).encode())
        if now >= self.ends and self.holder.there.holds(KEY):
            self.holder.here.use(KEY)
            self.holder._compute(KEY, 1, write("once"))
            self.holder.there.release(KEY)
        benchmark.asked.clear()

    def go(self, then: Callable[[Path], dict[str, Any]]) -> float:
        """When it has the result."""
        self.waiter.get_or_compute(KEY, then, lambda owner: self.told.append(self.clock.now))
        self.waiter.close()
        stand_still(self.holder)
        return self.clock.now


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    return Course(tmp_path, monkeypatch)


def test_a_hundred_that_wait_ask_twenty_times_a_second_at_most(course: Course) -> None:
    course.ends = 3000.0
    course.go(refuse)
    settled = [when for when in course.asked if 120 < when < 2900]
    assert 50 < len(settled) <= 20 / 100 * (2900 - 120)


@pytest.mark.parametrize("seconds", [0.3, 2.0, 30.0, 90.0, 600.0, 5000.0])
def test_a_result_is_taken_soon_after_it_is_there(course: Course, seconds: float) -> None:
    course.ends = seconds
    assert seconds <= course.go(refuse) <= seconds + min(10.0, max(0.1, 0.12 * seconds))


@pytest.mark.parametrize("seconds", [1.0, 40.0, 1000.0])
def test_who_dies_is_succeeded_within_a_minute(course: Course, seconds: float) -> None:
    course.lives = seconds
    assert seconds + lease.TTL * 0.7 < course.go(write("again")) < seconds + 40


def test_those_that_wait_do_not_look_at_the_same_moments() -> None:
    looks = [list(islice(lease.pauses(), 20)) for _ in range(10)]
    assert len({pause for of_one in looks for pause in of_one}) > 190


def test_who_waits_long_still_says_so_every_second(course: Course) -> None:
    """By what it says a trial that waits is stopped."""
    course.ends = 500.0
    course.go(refuse)
    assert max(b - a for a, b in zip(course.told, course.told[1:], strict=False)) < 1.5


# ------------------------------------------------------------------------------------------- two that create
class Heedless(MemoryFileSystem):
    """An object store that knows no condition: what is created replaces what is there."""

    protocol = "heedless"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value)


class Heedful(Heedless):
    """One that does."""

    protocol = "heedful"
    store: dict[str, Any] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        MemoryFileSystem.pipe_file(self, path, value, mode)


@pytest.fixture(autouse=True)
def places() -> Iterator[None]:
    for kind in (Heedless, Heedful):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    yield
    assert not [name for kind in (Heedless, Heedful) for name in kind.store if "/holders/" in name]


def test_a_place_that_gives_everybody_the_lease_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^store heedless://.*/place: creates a file that is there already.*; take a"):
        Store(tmp_path / "copies", f"heedless://{tmp_path}/place")
    with Store(tmp_path / "copies", f"heedless://{tmp_path}/place", reading=True) as store:
        assert store.entries() == []


def test_a_place_that_creates_once_is_taken_and_left_clean(tmp_path: Path) -> None:
    with Store(tmp_path / "copies", f"heedful://{tmp_path}/place") as store:
        assert not Heedful.store
        store.get_or_compute(A, write("x"))
    Heedful.store.clear()
