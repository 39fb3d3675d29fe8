"""The contract of a place for results: a folder, or what a URL of fsspec names."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semples.errors import UserError
from semples.lease import local_folder
from semples.manifest import MANIFEST, read_manifest
from semples.results import make_key
from semples.store import WORK, Store, Write

TTL = 2.0  # signs of life are given four times as often, also on a busy machine
KEY, A, B, C, D = (make_key(of=name) for name in "kabcd")
Open = Callable[..., Store]


def write(text: str, seconds: float = 1.0) -> Write:
    def fill(out: Path) -> dict[str, Any]:
        (out / "data.bin").write_text(text)
        return {"metrics": {"x": 1.0}, "curves": [], "seconds": seconds}

    return fill


def refuse(out: Path) -> dict[str, Any]:
    raise AssertionError("computed again")


def stand_still(store: Store) -> None:
    """No more signs of life."""
    for session in (store.here, store.there):
        session._end.set()
        if session._thread:
            session._thread.join()


def die(store: Store) -> None:
    """What is left of a process that is killed: nothing is given back."""
    stand_still(store)
    for session in (store.here, store.there):
        session._leases.clear()
        session._uses.clear()
        session._thread = None


def damage(store: Store, name: str, content: bytes | None) -> None:
    """Change a file of the result behind the store's back."""
    storage = store.there.storage
    if content is None:
        storage.delete(f"{KEY}/{name}")
    else:
        storage.write(f"{KEY}/{name}", content)


class StoreContract:
    """What processes on many machines rely on at a place that they share. Take it as base class and give the fixture
    `place`, a new and empty folder or URL for every test; some tests take seconds."""

    @pytest.fixture
    def place(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def node(self, place: str, tmp_path: Path) -> Iterator[Open]:
        """What opens the store from one more node, with quota=..., ttl=... or reading=... if given."""
        opened: list[Store] = []
        folder = local_folder(place)

        def open_store(**settings: Any) -> Store:
            copies, url = tmp_path / f"node{len(opened)}", None if folder else place
            opened.append(Store(folder or copies, url, **{"ttl": TTL, **settings}))
            return opened[-1]

        yield open_store
        for store in opened:
            store.close()

    def test_what_was_computed_is_found_everywhere(self, node: Open) -> None:
        first, second = node(), node()
        assert first.find(KEY) is None
        folder, found = first.get_or_compute(KEY, write("hello"))
        assert not found and first.find(KEY) == folder
        other, found = second.get_or_compute(KEY, refuse)
        assert found and (other / "data.bin").read_text() == "hello"
        assert read_manifest(other)["metrics"] == {"x": 1.0}
        assert [(entry.key, entry.manifest["bytes"]) for entry in second.entries()] == [(KEY, 5)]
        assert second.verify() == {KEY: True}

    def test_a_failed_computation_is_no_result_and_goes_on_where_it_was(self, node: Open) -> None:
        def fail(out: Path) -> dict[str, Any]:
            (out / "checkpoint").write_text("half")
            raise RuntimeError("killed")

        def go_on(out: Path) -> dict[str, Any]:
            assert (out / "checkpoint").read_text() == "half"
            (out / "checkpoint").unlink()
            return write("whole")(out)

        store = node()
        with pytest.raises(RuntimeError, match="killed"):
            store.get_or_compute(KEY, fail)
        assert store.find(KEY) is None and store.entries() == []
        folder, found = store.get_or_compute(KEY, go_on)
        assert not found and (folder / "data.bin").read_text() == "whole"

    @pytest.mark.parametrize("name, content", [("data.bin", b"hellO"), ("data.bin", None), (MANIFEST, b"{")])
    def test_a_changed_result_is_noticed_and_computed_again(self, node: Open, name: str, content: bytes | None) -> None:
        node().get_or_compute(KEY, write("hello"))
        damage(node(), name, content)
        third = node()
        assert third.find(KEY) is None
        folder, found = third.get_or_compute(KEY, write("hello"))
        assert not found and (folder / "data.bin").read_text() == "hello"
        assert node().verify() == {KEY: True}
        damage(node(), name, content)
        assert not any(node().verify().values()) and node().entries() == []

    def test_of_many_at_once_one_computes(self, node: Open) -> None:
        computed: list[Path] = []
        waited: list[str] = []
        results: list[str] = []

        def slow(out: Path) -> dict[str, Any]:
            computed.append(out)
            time.sleep(0.5)
            return write("once")(out)

        def ask(store: Store) -> None:
            folder, _ = store.get_or_compute(KEY, slow, waited.append)
            results.append((folder / "data.bin").read_text())

        stores = [node(ttl=60) for _ in range(5)]
        threads = [threading.Thread(target=ask, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(computed) == 1 and results == ["once"] * 5
        assert waited and set(waited) <= {"unknown", *(store.there.id for store in stores)}

    @pytest.mark.parametrize("empty", [False, True])
    def test_when_the_holder_dies_another_takes_over(
        self, node: Open, empty: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dead, heir, third = node(), node(), node()
        assert dead.there.acquire(KEY)
        die(dead)
        if empty:  # killed between creating the lease and writing into it
            damage_name = dead.there.storage.names("leases")[0]
            dead.there.storage.write(f"leases/{damage_name}", b"")
        # a clock that is ten minutes ahead changes nothing
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + 600)
        start = time.monotonic()
        assert heir.get_or_compute(KEY, write("right"))[1] is False
        assert TTL * 0.9 < time.monotonic() - start < 30
        assert third.get_or_compute(KEY, refuse)[1]
        assert heir.there.storage.names("leases") == []

    def test_who_lives_keeps_the_lease(self, node: Open) -> None:
        session, other = node(), node()
        assert session.there.acquire(KEY)
        for _ in range(8):
            assert not other.there.acquire(KEY) and other.there.alive(session.there.id)
            time.sleep(TTL / 5)
        assert session.there.holds(KEY)
        session.there.release(KEY)
        assert other.there.acquire(KEY)

    def test_the_quota_keeps_what_costs_most(self, node: Open) -> None:
        store = node(quota=1000e-9)
        for i in range(6):
            with node(quota=1000e-9) as writer:
                writer.get_or_compute(make_key(cheap=i), write("x" * 180, seconds=1))
                writer.get_or_compute(make_key(dear=i), write("y" * 180, seconds=100))
            kept = {entry.key for entry in store.entries()}
            assert sum(entry.manifest["bytes"] for entry in store.entries()) <= 1000
        assert len(kept & {make_key(dear=i) for i in range(6)}) >= 4
        assert all((store.find(key) is not None) for key in kept)

    def test_who_leaves_uses_nothing_any_more(self, node: Open) -> None:
        with node() as store:
            store.get_or_compute(A, write("x"))
            storage = store.here.storage
            assert storage.names("uses") == [f"{A}.{store.here.id}"]
        assert storage.names("uses") == []

    def test_what_is_in_use_is_never_dropped(self, node: Open) -> None:
        reader, writer = node(), node(quota=1000e-9)
        folder, _ = reader.get_or_compute(KEY, write("x" * 600, seconds=0.001))
        dead = node()
        dead.get_or_compute(D, write("z" * 300, seconds=0.001))
        die(dead)
        for i in range(5):
            writer.get_or_compute(make_key(number=i), write("y" * 300, seconds=100))
            time.sleep(TTL / 3)
        if writer.here is writer.there:  # the copies of one node are no business of another
            assert {KEY, D} & {entry.key for entry in writer.entries()} == {KEY}
        assert (folder / "data.bin").read_text() == "x" * 600

    def test_pruning_drops_results_and_what_the_dead_left(self, node: Open) -> None:
        def fail(out: Path) -> dict[str, Any]:
            (out / "half").write_text("half")
            raise RuntimeError

        with node() as store:
            store.get_or_compute(A, write("x" * 100, seconds=1))
            store.get_or_compute(B, write("x" * 100, seconds=9))
            with pytest.raises(RuntimeError):
                store.get_or_compute(C, fail)
        dead = node()
        dead.get_or_compute(B, refuse)
        assert dead.there.acquire(D)
        die(dead)
        with node() as store:
            assert [entry.key for entry in store.prune(100)] == [A]
            assert [entry.key for entry in store.entries()] == [B]
            assert not (store.root / WORK).exists() or list((store.root / WORK).iterdir()) == []
        with node() as store:
            storage = store.here.storage
            assert (storage.names("holders"), storage.names("uses")) == ([], [])

    def test_a_quota_keeps_a_training_that_can_go_on(self, node: Open) -> None:
        def fail(out: Path) -> dict[str, Any]:
            (out / "checkpoint").write_text("half")
            raise RuntimeError

        with node(quota=300e-9) as store:
            with pytest.raises(RuntimeError):
                store.get_or_compute(A, fail)
            for i in range(4):
                store.get_or_compute(make_key(number=i), write("x" * 200))
            assert [path.name for path in (store.root / WORK).glob(f"{A}.*/*")] == ["checkpoint"]

    def test_one_who_was_taken_for_dead_does_no_harm(self, node: Open) -> None:
        """It stood still for longer than the lease lasts, and comes back while its heir computes, or after that."""
        for when in ("while", "after"):
            zombie, heir, key = node(), node(), make_key(when=when)

            def stands_still(out: Path) -> dict[str, Any]:
                (out / "data.bin").write_text("right")
                stand_still(zombie)  # noqa: B023
                if when == "after":  # noqa: B023
                    heir.get_or_compute(key, write("right"))  # noqa: B023
                else:
                    while not (number := heir.there.acquire(key)):  # noqa: B023
                        time.sleep(0.1)
                    assert number == 2
                    heir.there.release(key)  # noqa: B023
                return write("right")(out)

            folder, _ = zombie.get_or_compute(key, stands_still)
            assert (folder / "data.bin").read_text() == "right"
            assert node().find(key) is not None and set(node().verify().values()) == {True}

    def test_who_slept_gives_nobody_elses_lease_back(self, node: Open) -> None:
        """Another took over and gave back meanwhile, and a third has the lease now, under the number of the first."""
        sleeper, heir, third = node(), node(), node()
        assert sleeper.there.acquire(KEY) == 1
        stand_still(sleeper)
        while not heir.there.acquire(KEY):
            time.sleep(0.1)
        assert heir.there.storage.names("leases") == [f"{KEY}.2"]
        heir.there.release(KEY)
        assert third.there.acquire(KEY) == 1
        assert third.there.holds(KEY) and not sleeper.there.holds(KEY)
        sleeper.there.release(KEY)
        assert third.there.holds(KEY) and node().there.owner(KEY) == third.there.id

    def test_a_lease_is_created_once_at_every_place(self, node: Open) -> None:
        storage = node().there.storage
        assert storage.create("leases/x.1", b"a") and not storage.create("leases/x.1", b"b")
        assert storage.read("leases/x.1") == b"a" and storage.names("leases") == ["x.1"]
        storage.delete("leases/x.1")
        assert storage.read("leases/x.1") is None and storage.create("leases/x.1", b"c")

    def test_a_result_of_a_later_version_is_left_alone(self, node: Open) -> None:
        with node() as store:
            store.get_or_compute(KEY, write("hello"))
            store.get_or_compute(A, write("other"))
            storage = store.there.storage
            manifest = json.loads(storage.read(f"{KEY}/{MANIFEST}") or b"")
            later = json.dumps({**manifest, "format": 99, "how": "else"}).encode()
            storage.write(f"{KEY}/{MANIFEST}", later)
        with node() as store:
            assert [entry.key for entry in store.entries()] == [A] and store.survey()[1] == []
            assert set(store.verify()) == {A}
            if store.here is store.there:
                with pytest.raises(UserError, match=r"\(format 99\); this is .*, which reads up to format 2"):
                    store.get_or_compute(KEY, refuse)
        assert storage.read(f"{KEY}/{MANIFEST}") == later and storage.read(f"{KEY}/data.bin") == b"hello"

    def test_reading_changes_nothing(self, node: Open) -> None:
        with node() as store:
            store.get_or_compute(KEY, write("hello"))
        storage = store.there.storage
        before = sorted(
            (name, storage.read(f"{KEY}/{name}"), storage.time(f"{KEY}/{name}")) for name in storage.names(KEY)
        )
        with node(reading=True) as reader:
            folder = reader.find(KEY)
            assert folder and (folder / "data.bin").read_text() == "hello" and len(reader.entries()) == 1
            assert reader.there.owner(KEY) is None and reader.find(A) is None
        assert before == sorted(
            (name, storage.read(f"{KEY}/{name}"), storage.time(f"{KEY}/{name}")) for name in storage.names(KEY)
        )
