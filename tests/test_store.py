from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semples.errors import UserError
from semples.store import Store, make_key, read_mark


def write(text: str) -> Any:
    def fill(out: Path) -> dict[str, Any]:
        (out / "data.bin").write_text(text)
        return {"metrics": {"x": 1.0}, "curves": [], "seconds": 0.5}

    return fill


def test_what_was_put_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.find("k") is None
    folder = store.put("k", write("hello"))
    assert store.find("k") == folder == Store(tmp_path / "store").find("k")
    assert (folder / "data.bin").read_text() == "hello"
    assert read_mark(folder)["metrics"] == {"x": 1.0}


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(out: Path) -> dict[str, Any]:
        (out / "data.bin").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.put("k", fail)
    assert store.find("k") is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "remove", "mark"])
def test_a_changed_result_is_noticed_and_dropped(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = store.put("k", write("hello"))
    if damage == "flip":
        (folder / "data.bin").write_text("hellO")
    elif damage == "remove":
        (folder / "data.bin").unlink()
    else:
        (folder / "result.json").write_text("{")
    assert store.find("k") is None
    assert not folder.exists()
    assert (store.put("k", write("hello")) / "data.bin").read_text() == "hello"


def test_the_first_of_two_writers_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def slow(out: Path) -> dict[str, Any]:
        store.put("k", write("fast one"))
        return dict(write("slow one")(out))

    assert (store.put("k", slow) / "data.bin").read_text() == "fast one"


def test_keys_depend_on_content_not_on_order() -> None:
    assert make_key(a=1, b={"x": 1, "y": 2}) == make_key(b={"y": 2, "x": 1}, a=1)
    assert make_key(a=1) != make_key(a=2) != make_key(a="2")


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a store"):
        Store(tmp_path / "file" / "store")
