"""The contract of a store at every place: folder, memory, a server that speaks S3, one that fails; then the rest."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from semples.config import Config
from semples.digests import digest
from semples.errors import UserError
from semples.folders import MARKER
from semples.lease import Session, Storage
from semples.manifest import MANIFEST, USED
from semples.pipeline.run import run
from semples.results import make_key
from semples.store import WORK, Store
from semples.testing.stores import KEY, TTL, A, B, Open, StoreContract, die, refuse, write


class Faulty(MemoryFileSystem):
    """A storage in memory in which `fault(path, content)` may spoil what is written."""

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    fault: Callable[[str, bytes], bytes | None] | None = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.fault is None:
            return super().pipe_file(path, value, mode)
        content = self.fault(path, value)
        if content is not None:
            super().pipe_file(path, content, mode)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())


fsspec.register_implementation("faulty", Faulty, clobber=True)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an empty bucket on a server of this machine."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
    server.stop()


class TestEveryPlace(StoreContract):
    @pytest.fixture(params=["folder", "memory", "s3", "faulty"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        if request.param == "folder":
            return str(tmp_path / "store")
        return f"{request.getfixturevalue('s3') if request.param == 's3' else f'{request.param}://'}{tmp_path}"

    def test_runs_on_two_nodes_share_their_stages(self, node: Open, tiny: Config) -> None:
        first = run(tiny, node(), lambda event: None, until="prompts")
        second = run(tiny, node(), lambda event: None, until="prompts")
        assert second.reused == ("classify", "match", "prompts") and second.metrics == first.metrics
        assert {entry.manifest["stage"] for entry in node().entries()} == set(second.reused)


@pytest.mark.parametrize("root", ["look", "look [odd]"])
def test_a_look_at_one_lease_lists_no_other(s3: str, root: str) -> None:
    storage, listed = Storage.at(f"{s3}/{root}"), list[str]()
    session, other = Session(storage), Session(storage)
    assert session.acquire(KEY) and session.acquire(A)
    storage.fs.s3.meta.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **kwargs: listed.extend(found["Key"] for found in parsed.get("Contents", ())),
        unique_id="look",
    )
    assert other.owner(KEY) == session.id and f"{root}/leases/{KEY}.1" in listed
    assert root == "look [odd]" or listed == [f"look/leases/{KEY}.1"]
    storage.fs.s3.meta.events.unregister("after-call.s3.ListObjectsV2", unique_id="look")
    session.close()


def test_a_result_that_goes_after_it_was_checked_is_computed_again(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        folder, _ = store.get_or_compute(A, write("x"))
        (folder / MANIFEST).unlink()
        assert store.find(A) is None
        assert store.get_or_compute(A, write("y")) == (folder, False) and (folder / "data.bin").read_text() == "y"


@pytest.mark.parametrize(("first", "last"), [(A, B), (B, A)])
def test_of_equal_results_the_one_used_last_is_kept(tmp_path: Path, first: str, last: str) -> None:
    with Store(tmp_path / "store") as store:
        for key in (A, B):
            folder, _ = store.get_or_compute(key, write("x" * 100))
            os.utime(folder / USED, (1e9, 1e9) if key == first else None)
    with Store(tmp_path / "store", ttl=0.1) as store:
        assert [entry.key for entry in store.prune(100)] == [first]


def test_what_the_dead_used_is_used_no_more(tmp_path: Path) -> None:
    dead, other = (Store(tmp_path / "store", ttl=0.2) for _ in range(2))
    dead.get_or_compute(A, write("x"))
    die(dead)
    assert other.here.in_use() == {A}
    time.sleep(0.5)
    assert other.here.in_use() == set()
    other.close()


def test_what_is_no_result_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "photos").mkdir()
    (tmp_path / WORK / "mine").mkdir(parents=True)
    for file in (".DS_Store", "notes.txt", "photos/result.json", f"{WORK}/mine/draft"):
        (tmp_path / file).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with Store(tmp_path, quota=1e-9, ttl=0.2) as store:
        store.get_or_compute(A, write("x" * 10))
        assert store.verify() == {A: True} and [entry.key for entry in store.entries()] == [A]
    with Store(tmp_path, ttl=0.2) as store:
        assert [entry.key for entry in store.prune(0)] == [A]
    assert {path for path in before if not path.exists()} == set()


def test_who_was_taken_for_dead_says_again_what_it_uses(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    stalled, other = Session(storage, TTL), Session(storage, TTL)
    stalled.use(KEY)
    storage.delete(f"holders/{stalled.id}")  # as another does that saw no sign of life
    storage.delete(f"uses/{KEY}.{stalled.id}")
    time.sleep(TTL / 2)
    assert other.in_use() == {KEY}
    stalled.close()


def half(path: str, content: bytes) -> bytes | None:
    storage = fsspec.filesystem("faulty")
    MemoryFileSystem.pipe_file(storage, path, content[: len(content) // 2])
    raise OSError(errno.EIO, "connection lost")


def full(path: str, content: bytes) -> bytes | None:
    raise OSError(errno.ENOSPC, "no space left")


def lost(path: str, content: bytes) -> bytes | None:
    return None


def flipped(path: str, content: bytes) -> bytes | None:
    return bytes([content[0] ^ 1]) + content[1:] if content else content


@pytest.mark.parametrize("fault", [half, full, lost, flipped])
@pytest.mark.parametrize("what", ["data.bin", MANIFEST])
def test_a_place_that_fails_never_gives_a_wrong_result(
    tmp_path: Path, fault: Callable[[str, bytes], bytes | None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"faulty://{tmp_path}"
    monkeypatch.setattr(
        Faulty, "fault", staticmethod(lambda path, content: fault(path, content) if path.endswith(what) else content)
    )
    with Store(tmp_path / "a", url, ttl=TTL) as store:
        if fault in (half, full):
            with pytest.raises(UserError, match=r"cannot be reached.*kept"):
                store.get_or_compute(KEY, write("right"))
        else:
            store.get_or_compute(KEY, write("right"))
    with Store(tmp_path / "b", url, ttl=TTL) as store:
        assert store.find(KEY) is None
    monkeypatch.setattr(Faulty, "fault", None)
    with Store(tmp_path / "a", url, ttl=TTL) as store:  # nothing is computed again where it was computed
        assert (store.get_or_compute(KEY, refuse)[0] / "data.bin").read_text() == "right"
    with Store(tmp_path / "b", url, ttl=TTL) as store:
        assert (store.get_or_compute(KEY, refuse)[0] / "data.bin").read_text() == "right"


def test_a_disk_that_fails_never_gives_a_wrong_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left", str(target))

    def loses(source: Path, target: Path) -> None:
        if Path(target).name == KEY:
            return
        rename(source, target)

    for broken, error in ((fails, OSError), (loses, UserError)):
        with Store(tmp_path, ttl=TTL) as store:
            monkeypatch.setattr(os, "rename", broken)
            with pytest.raises(error):
                store.get_or_compute(KEY, write("right"))
            monkeypatch.setattr(os, "rename", rename)
            assert Store(tmp_path).find(KEY) is None
    with Store(tmp_path, ttl=TTL) as store:
        assert (store.get_or_compute(KEY, write("right"))[0] / "data.bin").read_text() == "right"


def test_a_holder_that_went_away_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    session = Session(storage, TTL)
    session.use("k")
    assert session.acquire("k") and Session(storage, TTL).in_use() == {"k"}
    session.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_keys_depend_on_content_not_on_order() -> None:
    assert make_key(a=1, b={"x": 1, "y": 2}) == make_key(b={"y": 2, "x": 1}, a=1)
    assert make_key(a=1) != make_key(a=2) != make_key(a="2")


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a store"):
        Store(tmp_path / "file" / "store")
    with pytest.raises(UserError, match="nosuch://x: fsspec cannot open it"):
        Store(tmp_path / "store", "nosuch://x")


def sealed(folder: Path, **changes: Any) -> None:
    """Change a manifest as one who knows its digest would."""
    path = folder / MANIFEST
    manifest = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"} | changes
    path.write_text(json.dumps({**manifest, "digest": digest(json.dumps(manifest, sort_keys=True))}))


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"x": 99.0}},
        {"files": {}},
        {"seconds": 0.5},
        {"format": None},
        {"stage": "other"},
        {"digest": "0" * 64},
    ],
)
def test_a_manifest_is_as_it_was_written_or_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    with Store(tmp_path, ttl=TTL) as store:
        folder, _ = store.get_or_compute(KEY, write("hello"))
        store.get_or_compute(A, write("other"))
    (folder / MANIFEST).write_text(json.dumps({**json.loads((folder / MANIFEST).read_text()), **changes}))
    with Store(tmp_path, ttl=TTL) as store:
        assert store.survey()[1] == [KEY] and [entry.key for entry in store.entries()] == [A]
        assert store.verify() == {KEY: False, A: True} and store.survey()[1] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": {"../../theirs": "0" * 64}},
        {"files": {"/etc/passwd": "0" * 64}},
        {"files": {"a/b": "0" * 64}},
        {"files": {"data.bin": 3}},
        {"files": {MANIFEST: "0" * 64}},
        {"bytes": "1"},
        {"bytes": -1},
        {"seconds": None},
        {"seconds": True},
        {"stage": 3},
        {"metrics": []},
        {"curves": {}},
        {"key": "x"},
    ],
)
def test_a_manifest_of_another_form_is_none_even_with_a_digest(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("mine")
    root = tmp_path / "store"
    with Store(root, ttl=TTL) as store:
        folder, _ = store.get_or_compute(KEY, write("hello"))
        store.get_or_compute(A, write("other"))
    sealed(folder, **changes)
    with Store(root, ttl=TTL, quota=1e-9) as store:
        assert [entry.key for entry in store.entries()] == [A]
        assert store.get_or_compute(KEY, write("hello"))[1] is False
    with Store(root, ttl=0.2) as store:
        store.prune(0)
    assert theirs.read_text() == "mine"


def test_a_manifest_of_version_0_1_0_is_read(tmp_path: Path) -> None:
    with Store(tmp_path, ttl=TTL) as store:
        folder, _ = store.get_or_compute(KEY, write("hello"))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(
        json.dumps({key: manifest[key] for key in manifest if key not in ("format", "digest")})
    )
    (tmp_path / MARKER).unlink()
    with Store(tmp_path, ttl=TTL) as store:
        assert store.get_or_compute(KEY, refuse)[1] and store.verify() == {KEY: True}


@pytest.mark.parametrize("key", ["../x", "/x", "", "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "\n", "../" + "0" * 29])
def test_a_key_that_is_none_is_never_a_path(tmp_path: Path, key: str) -> None:
    with Store(tmp_path / "store") as store:
        for ask in (store.find, lambda key: store.get_or_compute(key, refuse)):
            with pytest.raises(UserError, match="is no key of a result"):
                ask(key)


@pytest.mark.parametrize("name", [WORK, "holders", "uses", "leases", KEY, f"{WORK}/{KEY}.1", f"leases/{KEY}.1"])
def test_no_link_in_a_store_is_followed(tmp_path: Path, name: str) -> None:
    theirs, root = tmp_path / "theirs", tmp_path / "store"
    (theirs / "deep").mkdir(parents=True)
    (theirs / "x").write_text("mine")
    Store(root).close()
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to(theirs / "x" if name.startswith("leases/") else theirs)
    try:
        with Store(root, ttl=0.3) as store:
            store.get_or_compute(KEY, write("right"))
    except UserError as error:
        assert "is a link, and links in a store are not followed" in str(error)
    for ask in (Store.verify, lambda store: store.prune(0), Store.entries):
        with contextlib.suppress(UserError), Store(root, ttl=0.3, quota=1e-9) as store:
            ask(store)
    assert sorted(p.name for p in theirs.rglob("*")) == ["deep", "x"] and (theirs / "x").read_text() == "mine"


def test_names_of_others_in_the_folders_of_a_store_are_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    for name in (
        "holders/ann",
        "leases/notes.txt",
        f"leases/{KEY}.x",
        "uses/list.csv",
        f"{WORK}/{KEY}",
        f"{KEY}/notes",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with Store(tmp_path, ttl=0.2, quota=1e-9) as store:
        store.get_or_compute(KEY, write("right"))
        store.get_or_compute(A, write("x" * 100))
        store.verify()
    with Store(tmp_path, ttl=0.2) as store:
        store.prune(0)
        assert store.entries() == []
    kept = ("holders/ann", "leases/notes.txt", f"leases/{KEY}.x", "uses/list.csv", f"{WORK}/{KEY}", f"{KEY}/notes")
    assert all((tmp_path / name).read_text() == "mine" for name in kept)


def test_a_store_is_not_made_of_a_folder_of_somebody(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"holds files that no store has written \('photos'\)"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("url", ["://", "s3://", "nosuch://x", "x://y://z", "http://127.0.0.1:1/x", "reference://x"])
def test_a_url_that_is_no_store_is_named_before_work_begins(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="store "):
        Store(tmp_path, url)
