"""Manifests, leases and the store against models of them, for whatever hypothesis thinks of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from semples import lease
from semples.digests import digest
from semples.lease import Session, Storage
from semples.manifest import MANIFEST, files_of, intact, parse, seal
from semples.results import make_key
from semples.store import Store

OFTEN = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
KEYS = tuple(make_key(of=name) for name in "abc")

# ------------------------------------------------------------------------------------------------ manifests
finite = st.floats(allow_nan=False, allow_infinity=False)
amounts = st.floats(0, 1e17) | st.integers(0, 10**17)
numbers = st.dictionaries(st.text(max_size=8), finite | st.integers(-(10**17), 10**17), max_size=3)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(lambda n: n not in (MANIFEST, "used"))
manifests = st.fixed_dictionaries(
    {
        "metrics": numbers,
        "curves": st.lists(numbers, max_size=3),
        "seconds": amounts,
        "bytes": amounts,
        "files": st.dictionaries(names, st.binary(max_size=4).map(digest), min_size=1, max_size=3),
    },
    optional={
        "stage": st.from_regex("[a-z_]{1,30}", fullmatch=True),
        "gpu_gb": amounts,
        "key": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)),
    },
)
anything = st.recursive(
    st.none() | st.booleans() | finite | st.text(max_size=6) | st.just(math.nan),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@OFTEN
@given(manifests)
def test_a_manifest_is_read_as_it_was_written(manifest: dict[str, Any]) -> None:
    content = json.dumps(seal(manifest)).encode()
    assert {k: v for k, v in parse(content).items() if k not in ("format", "digest", "written_by")} == manifest
    assert files_of(content) == list(manifest["files"])


@OFTEN
@given(manifests, st.data())
def test_a_manifest_that_was_changed_anywhere_is_none(manifest: dict[str, Any], data: st.DataObject) -> None:
    sealed = seal(manifest)
    key = data.draw(st.sampled_from(sorted({*sealed} - {"format"})))
    other = data.draw(anything.filter(lambda value: json.dumps(value) != json.dumps(sealed[key])))
    for changed in ({**sealed, key: other}, {k: v for k, v in sealed.items() if k != key}):
        with pytest.raises(ValueError):
            parse(json.dumps(changed).encode())
        assert files_of(json.dumps(changed).encode()) == []


@OFTEN
@given(st.binary() | anything.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_manifest_is_never_more_than_that(content: bytes) -> None:
    with pytest.raises(ValueError):
        parse(content)


# ------------------------------------------------------------------------------------------------ leases
class Leases(RuleBasedStateMachine):
    """Processes that come, take leases on keys, die and are succeeded, in any order, on a clock of the test.

    Who lives gives a sign of life at least every quarter of TTL, and everybody looks at everybody as often.
    """

    TTL = 1000.0

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.now = 0.0
        self.clock = patch.object(lease, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.clock.start()
        self.living: list[Session] = []
        self.dead: list[Session] = []
        self.held: dict[str, Session] = {}  # the model: who has the lease on a key
        self.used: dict[str, set[Session]] = {key: set() for key in KEYS}

    @initialize()
    def begins(self) -> None:
        self.comes()

    @precondition(lambda self: len(self.living) < 4)
    @rule()
    def comes(self) -> None:
        self.living.append(Session(Storage.at(self.folder.name), self.TTL))

    @rule(who=st.integers(0, 9), key=st.sampled_from(KEYS))
    def wants(self, who: int, key: str) -> None:
        session = self.session(who)
        before = self.held.get(key)
        got = session.acquire(key)
        if before in self.living:
            assert got == 0 and session.owner(key) == before.id
        elif before is None:
            assert got
        if got:
            assert session.owner(key) == session.id and session.holds(key)
            self.held[key] = session

    @rule(who=st.integers(0, 9))
    def gives_back(self, who: int) -> None:
        session = self.session(who)
        for key in [key for key, owner in self.held.items() if owner is session]:
            session.release(key)
            del self.held[key]
            assert all(other.owner(key) is None for other in self.living)
            assert not [name for name in session.storage.names("leases") if name.startswith(key)]

    @rule(who=st.integers(0, 9), key=st.sampled_from(KEYS))
    def reads(self, who: int, key: str) -> None:
        self.session(who).use(key)
        self.used[key].add(self.session(who))

    @precondition(lambda self: len(self.living) > 1)
    @rule(who=st.integers(0, 9))
    def dies(self, who: int) -> None:
        session = self.session(who)
        self.living.remove(session)
        self.dead.append(session)
        self.still(session)

    @precondition(lambda self: len(self.living) > 1)
    @rule(who=st.integers(0, 9))
    def leaves(self, who: int) -> None:
        session = self.session(who)
        session.close()
        assert not [
            n for folder in ("uses", "holders") for n in session.storage.names(folder) if n.endswith(session.id)
        ]
        self.living.remove(session)
        self.held = {key: owner for key, owner in self.held.items() if owner is not session}
        for users in self.used.values():
            users.discard(session)

    @rule()
    def a_little_later(self) -> None:
        self.now += self.TTL / lease.BEATS
        for session in self.living:
            session.show()
        for session in self.living:
            session.in_use()
            for key in KEYS:
                session.owner(key)

    @rule(who=st.integers(0, 9), key=st.sampled_from(KEYS))
    def succeeds_the_dead(self, who: int, key: str) -> None:
        self.a_little_later()  # the dead are seen once
        for _ in range(lease.BEATS + 1):
            self.a_little_later()
        if self.held.get(key) not in self.living:
            self.held.pop(key, None)
        for users in self.used.values():
            users.difference_update(self.dead)
        self.wants(who, key)
        assert self.session(who).in_use() == {key for key, users in self.used.items() if users}
        self.gives_back(who)

    @invariant()
    def of_the_living_at_most_one_has_a_key(self) -> None:
        for key in KEYS:
            holders = [session for session in self.living if session.holds(key)]
            assert holders == [owner for owner in (self.held.get(key),) if owner in self.living]

    @invariant()
    def what_the_living_use_is_in_use(self) -> None:
        for session in self.living:
            assert session.in_use() >= {key for key, users in self.used.items() if users & {*self.living}}

    def session(self, who: int) -> Session:
        return self.living[who % len(self.living)]

    def still(self, session: Session) -> None:
        session._end.set()
        if session._thread:
            session._thread.join()

    def teardown(self) -> None:
        for session in (*self.living, *self.dead):
            self.still(session)
        self.clock.stop()
        self.folder.cleanup()


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=30, stateful_step_count=25, deadline=None, derandomize=True)


def test_who_succeeds_the_dead_has_the_lease_and_clears_theirs_away() -> None:
    """A course of the model that it may never draw."""
    model = Leases()
    try:
        model.begins()
        model.comes()
        model.wants(0, KEYS[0])
        model.dies(0)
        model.succeeds_the_dead(0, KEYS[0])
    finally:
        model.teardown()


# ------------------------------------------------------------------------------------------------ the store
Step = tuple[str, int, str]  # what is done, by which of the nodes, to which key
steps = st.tuples(
    st.sampled_from(["get_or_compute", "find", "damage", "delete", "verify", "prune", "survey", "get_or_compute"]),
    st.integers(0, 1),
    st.sampled_from(KEYS),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(steps, st.lists(steps, max_size=3), st.booleans()), max_size=8), st.booleans())
@example([(("get_or_compute", 1, KEYS[0]), [], True)], True)  # it fails on a node, and another has the result
@example([((what, 0, KEYS[0]), [], False) for what in ("get_or_compute", "damage", "find")], False)
def test_whatever_happens_a_result_is_what_its_key_says(
    course: list[tuple[Step, list[Step], bool]], shared: bool
) -> None:
    """Two nodes compute, damage, delete, look and prune; while one computes, the other does more, and some computations
    fail. In the end every result is whole, and nothing lies about."""
    with TemporaryDirectory() as folder:
        url = f"memory://{folder}" if shared else None
        nodes = [Store(Path(folder) / (str(n) if shared else "store"), url, ttl=0.05) for n in range(2)]
        computing: set[str] = set()

        def compute(key: str, meanwhile: list[Step], fails: bool) -> Callable[[Path], dict[str, Any]]:
            def write(out: Path) -> dict[str, Any]:
                computing.add(key)
                (out / "data").write_text(f"of {key}")
                for step in meanwhile:
                    do(step, [], False)
                computing.discard(key)
                if fails:
                    raise RuntimeError("a bad day")
                return {"metrics": {}, "curves": [], "seconds": 1.0}

            return write

        def do(step: Step, meanwhile: list[Step], fails: bool) -> None:
            what, number, key = step
            store = nodes[number]
            if what == "get_or_compute" and key not in computing:  # it would wait for itself
                had = store.find(key)
                try:
                    found, reused = store.get_or_compute(key, compute(key, meanwhile, fails))
                except RuntimeError:
                    computing.discard(key)
                    assert fails and not had
                    return
                assert (found / "data").read_text() == f"of {key}" and reused == bool(had)
            elif what == "find":
                found_now = store.find(key)
                assert found_now is None or (found_now / "data").read_text() == f"of {key}"
            elif what == "damage" and intact(store.root / key):
                (store.root / key / "data").write_text("other")
                store.lost([key])
            elif what == "delete" and intact(store.root / key):
                (store.root / key / MANIFEST).unlink()
                (store.root / key / "data").unlink()
                store.lost([key])
            elif what == "verify":
                store.verify()
            elif what == "prune" and not computing:
                store.prune(0)
            elif what == "survey":
                store.survey()

        try:
            for step, meanwhile, fails in course:
                do(step, meanwhile, fails)
            for store in nodes:
                for key in KEYS:
                    assert (store.get_or_compute(key, compute(key, [], False))[0] / "data").read_text() == f"of {key}"
                    assert intact(store.root / key)
        finally:
            for store in nodes:
                store.close()
        for store in nodes:
            assert not list((store.root / "work").glob("*"))
            assert not store.there.storage.names("leases") and not store.there.storage.names("uses")
            assert not store.there.storage.names("holders")
