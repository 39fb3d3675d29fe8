"""Commands write into folders of their own only, keep what is somebody's, and change nothing when they only read."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Command

from semples.data import scenes, voc
from semples.folders import MARKER, kind_of
from semples.store import Store


@pytest.fixture
def world(command: Command, finished: Path) -> Path:
    """A finished run `run`, a VOC tree `tree` with a configuration, a sound configuration `tiny.yaml`, in a new folder;
    it is the working folder."""
    here = Path.cwd()
    shutil.copytree(finished, here / "run")
    (here / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    voc.write(scenes.draw(24, 8, 8, 0), here / "tree")
    section = {"kind": "voc", "root": "tree", "classes": list(scenes.CLASSES), "holdout": 8}
    (here / "tree/config.yaml").write_text(yaml.safe_dump({**TINY, "data": section}))
    return here


def look(folder: Path) -> dict[str, tuple[int, str]]:
    """Everything below with its time and a digest of its content."""
    return {
        str(p.relative_to(folder)): (
            p.lstat().st_mtime_ns,
            hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "",
        )
        for p in folder.rglob("*")
    }


def test_every_folder_that_is_written_says_what_it_is(command: Command, world: Path) -> None:
    photo = next((world / "tree/JPEGImages").iterdir())
    assert command("semples", "predict", photo, "--run", "run", "--out", "p")[0] == 0
    assert command("semples", "scenes", "write", "w", "--train", 24, "--holdout", 4, "--test", 4)[0] == 0
    kinds = {"run": "run", "run/store": "store", "p": "prediction", "w": "data set"}
    assert {name: kind_of(world / name) for name in kinds} == kinds
    (world / "w").rename(world / "renamed")
    assert command("semples", "scenes", "write", "renamed", "--train", 20, "--holdout", 4, "--test", 4)[0] == 0
    assert len(list((world / "renamed/JPEGImages").iterdir())) == 28


def test_a_run_again_replaces_its_own_masks_and_nothing_else(command: Command, world: Path) -> None:
    (world / "run/notes.txt").write_text("mine")
    assert command("semples", "run", "tiny.yaml", "data.train=20", "--out", "run")[0] == 0
    assert len(list((world / "run/masks").iterdir())) == 20 and (world / "run/notes.txt").read_text() == "mine"
    mask = next((world / "run/masks").iterdir())
    for path in (mask, world / "run/masks/mine.png", world / "run/config.yaml"):
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(b"made by hand")
        code, _, err = command("semples", "run", "tiny.yaml", "--out", "run")
        assert code == 2 and f"{path.name}: is not what was written there" in err
        assert path.read_bytes() == b"made by hand" and len(list((world / "run/masks").iterdir())) >= 20
        path.unlink() if before is None else path.write_bytes(before)
    assert command("semples", "run", "tiny.yaml", "--out", "run")[0] == 0


@pytest.mark.parametrize("out", ["tree", "tree/new", ".", "tree/masks/deep"])
@pytest.mark.parametrize("option", ["--out", "--store"])
def test_the_data_are_no_place_for_results(command: Command, world: Path, out: str, option: str) -> None:
    before = look(world / "tree")
    code, _, err = command("semples", "run", "tree/config.yaml", option, out)
    assert code == 2 and "overlaps the data in" in err and look(world / "tree") == before
    assert not (world / out / MARKER).exists()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "tiny.yaml", "--out", "theirs"),
        ("ablate", "tiny.yaml", "--out", "theirs"),
        ("ablate", "tiny.yaml", "--json", "theirs/a"),
        ("run", "tiny.yaml", "--store", "theirs"),
        ("predict", "run/gallery.png", "--run", "run", "--out", "theirs"),
        ("scenes", "write", "theirs"),
        ("scenes", "pretrain", "--out", "theirs"),
    ],
)
def test_a_folder_of_somebody_is_refused_before_anything_starts(
    command: Command, world: Path, words: tuple[str, ...]
) -> None:
    for name in ("a", "masks/a.png", "JPEGImages/b.png", "config.yaml", "store/x", "gallery.png"):
        (world / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (world / "theirs" / name).write_text("mine")
    before = look(world / "theirs")
    code, _, err = command("semples", *words)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "theirs" in err
    assert look(world / "theirs") == before


@pytest.mark.parametrize(
    "words",
    [
        ("stages", "tiny.yaml", "--out", "run"),
        ("stages", "tiny.yaml", "--out", "nowhere"),
        ("store", "ls", "run/store"),
        ("store", "du", "run/store"),
        ("evaluate", "run/masks", "run/masks", "--run", "run"),
        ("prompts", "run"),
        ("data", "check", "tree", f"classes=[{', '.join(scenes.CLASSES)}]", "holdout=8"),
    ],
)
def test_what_only_reads_changes_nothing(command: Command, world: Path, words: tuple[str, ...]) -> None:
    """Not even a sign of life that a process left which died."""
    with Store(world / "run/store") as store:
        left = Path(store.root / "holders/host-1-01234567")
        left.parent.mkdir(exist_ok=True)
        left.write_text("7")
        for folder in ("leases", "uses"):
            (store.root / folder).mkdir(exist_ok=True)
        key = next(p.name for p in store.root.iterdir() if len(p.name) == 32)
        (store.root / f"leases/{key}.1").write_text(left.name)
    before = look(world)
    assert command("semples", *words)[0] == 0
    assert look(world) == before


def test_a_home_is_found_where_no_shell_looks_for_it(
    command: Command, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(world / "home"))
    assert command("semples", "predict", "run/gallery.png", "--run", "run", "--out=~/p")[0] == 0
    assert (world / "home/p/gallery.png").exists() and not (world / "~").exists()
    code, _, err = command("semples", "run", "tiny.yaml", "--out=~nobody-of-this-name/x")
    assert code == 2 and "nobody has this home" in err


def test_figures_replace_figures_only(command: Command, world: Path) -> None:
    for text in ("notes", "[]", '{"a": "b"}', '{"cat": 1, "dog": 2.5}'):
        (world / "f.json").write_text(text)
        code, _, err = command("semples", "ablate", "tiny.yaml", "--seeds", 1, "--json", "f.json")
        assert (
            code == 2
            and "f.json: is there and holds no figures of an ablation" in err
            and (world / "f.json").read_text() == text
        )
