"""Nothing is replaced or removed that the product did not write itself."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from semples import folders
from semples.errors import UserError
from semples.folders import MARKER, NEW, claim, kind_of


def publish(folder: Path, replaced: tuple[str, ...] = (), **files: str) -> None:
    with claim(folder, "run").publishing(replaced) as new:
        for name, text in files.items():
            path = new / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != MARKER]
    return {p.relative_to(folder).as_posix(): p.read_text() for p in files}


def test_what_we_wrote_is_replaced_and_goes_when_it_is_not_written_again(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    publish(out, a="1", masks__x="1", masks__y="1")
    assert kind_of(out) == "run"
    publish(out, ("masks",), a="2", masks__y="2")
    assert content(out) == {"a": "2", "masks/y": "2"}
    moved = out.rename(tmp_path / "moved")  # it is known by what it says itself
    publish(moved, ("masks",), a="3")
    assert content(moved) == {"a": "3"}


@pytest.mark.parametrize("name", ["a", "masks/mine", "masks/sub/mine"])
def test_what_is_somebodys_stays_and_is_named(tmp_path: Path, name: str) -> None:
    publish(tmp_path, a="1", masks__x="1")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes").write_text("mine")  # no name of ours
    before = content(tmp_path)
    with pytest.raises(UserError, match=rf"{name}: is not what was written there"):
        claim(tmp_path, "run", ("a", "masks/"))
    assert content(tmp_path) == before
    (tmp_path / name).unlink()
    claim(tmp_path, "run", ("a", "masks/"))
    publish(tmp_path, ("masks",), a="2")
    assert content(tmp_path) == {"a": "2", "notes": "mine"}


def test_what_came_between_is_kept(tmp_path: Path) -> None:
    folder = claim(tmp_path / "out", "run")
    with pytest.raises(UserError, match="a: is not what was written there"), folder.publishing() as new:
        (new / "a").write_text("1")
        (folder.path / "a").write_text("mine")
    assert content(folder.path) == {"a": "mine"}


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that no run has written \('photo.jpg'\)"):
        claim(tmp_path, "run")
    assert content(tmp_path) == {"photo.jpg": "mine"} and not (tmp_path / MARKER).exists()
    claim(tmp_path, "run", adopt=True)
    with pytest.raises(UserError, match="is the folder of a run, not of a store"):
        claim(tmp_path, "store")
    with pytest.raises(UserError, match="is not a folder"):
        claim(tmp_path / "photo.jpg", "run")


@pytest.mark.parametrize("out", ["data", "data/out", "."])
def test_a_folder_that_overlaps_the_data_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="overlaps the data"):
        claim(tmp_path / "link" / out, "run", apart_from=str(tmp_path / "data"))
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("name", ["a", "masks", MARKER, NEW])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "x").write_text("mine")
    out = tmp_path / "out"
    claim(out, "run")
    if name == MARKER:
        (out / MARKER).unlink()
    (out / name).symlink_to(theirs if name in ("masks", NEW) else theirs / "x")
    with pytest.raises((UserError, FileExistsError)):
        publish(out, ("masks",), a="1", masks__x="1")
    assert content(theirs) == {"x": "mine"}


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_crash_in_the_midst_leaves_nothing_that_is_taken_for_somebodys(
    tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, a="1", masks__x="1", masks__y="1")
    calls, replace = [0], os.replace

    def crash(*args: Path) -> None:
        calls[0] += 1
        if calls[0] > written:
            raise OSError(errno.ENOSPC, "no space left")
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        if written < 3:
            with pytest.raises(OSError, match="no space"):
                publish(tmp_path, ("masks",), a="2", masks__x="2", masks__z="2")
    publish(tmp_path, ("masks",), a="2", masks__x="2", masks__z="2")
    assert content(tmp_path) == {"a": "2", "masks/x": "2", "masks/z": "2"}


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    publish(tmp_path, a="1")
    with (tmp_path / MARKER).open("a") as file:
        file.write("\n0123456789abcdef  b")
    publish(tmp_path, b="1")
    publish(tmp_path, b="2")
    assert content(tmp_path) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("\nno json", "damaged"),
        ("\n[]", "damaged"),
        ('\n{"kind": 3, "format": 1}', "damaged"),
        (
            "\n" + json.dumps({"kind": "run", "format": 99, "written_by": "semples-tune 9.9"}),
            r"semples-tune 9\.9 \(format 99\).*up to format 1",
        ),
    ],
)
def test_a_marker_that_cannot_be_read_is_named(tmp_path: Path, marker: str, message: str) -> None:
    (tmp_path / MARKER).write_text(marker)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match=message):
        claim(tmp_path, "run")
    assert content(tmp_path) == {"x": "mine"}


def test_a_pipe_in_place_of_a_marker_is_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MARKER)
    with pytest.raises(UserError):
        claim(tmp_path, "run")


def test_what_a_system_leaves_in_a_folder_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / folders.NOBODYS[0]).write_text("")
    claim(tmp_path, "run")
    assert kind_of(tmp_path) == "run"
