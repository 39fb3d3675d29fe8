"""Bad inputs that are data sets, images, links and folders of somebody."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attack_case import NO_FILES, Case, Prepare, marked, put, replace
from PIL import Image

from semples.data.scenes import CLASSES


def folders_of_others() -> Iterator[Case]:
    """Every command that writes, into a folder that holds somebody's files, is no folder, or holds the data."""
    writers = {
        "run": ("semples", "run", "tiny.yaml", "--out"), "ablate": ("semples", "ablate", "tiny.yaml", "--out"),
        "predict": ("semples", "predict", "photo.png", "--run", "run", "--out"), "write": ("semples", "scenes",
        "write"),
        "pretrain": ("semples", "scenes", "pretrain", "--out"), "export": ("semples-tune", "export"),
        "store": ("semples", "run", "tiny.yaml", "--store"),
    }  # fmt: skip
    theirs: dict[str, Prepare] = {
        "photos": put("x/photo.jpg", "mine"), "masks": put("x/masks/photo.png", "mine"),
        "configuration": put("x/config.yaml", "seed: 1"), "file": put("x", "mine"), "link": replace("x", "loop"),
        "dangling": replace("x", "dangling"), "pipe": replace("x", "pipe"), "other kind": marked("x",
        "something else"),
        "bad marker": put("x/.semples-tune", "\nnonsense"), "newer marker": marked("x", "run", 99),
    }  # fmt: skip
    needs = ("tiny.yaml", "photo.png", "run", "sweeps")
    for words in writers.values():
        for kind, prepare in theirs.items():
            yield Case(f"out {kind}", (*words, "x"), needs, prepare)
    for out in ("voc", "voc/new", ".", "voc/JPEGImages"):
        for words in (("run", "voc/config.yaml", "--out", out), ("run", "voc/config.yaml", "--store", out)):
            yield Case("out of the data", ("semples", *words), ("voc",))
        yield Case("out of the data", ("semples", "ablate", "voc/config.yaml", "--out", out), ("voc",))
    for name in (
        "masks/00.png",
        "result.json",
        "gallery.png",
        "masks/mine.png",
        "generator.safetensors",
        "config.yaml",
    ):
        words = ("semples", "run", "tiny.yaml", "--out", "run")
        yield Case("out changed by hand", words, ("run", "tiny.yaml"), put(f"run/{name}", "mine"))
    for file in ("mine.txt", "run", "nowhere/\0"[:8] + "x/y.json", "tiny.yaml"):
        words = ("semples", "ablate", "tiny.yaml", "--json", file)
        yield Case("json", words, ("run", "tiny.yaml", "mine.txt"), handled=file.startswith("nowhere"))


FIELDS = f"classes=[{', '.join(CLASSES)}]"


def data_sets() -> Iterator[Case]:
    """Data sets with something wrong in them, for `data check`; a sound one comes through."""
    for root, files in {
        "voc": ("cls_labels.npy", "ImageSets/Segmentation/val.txt", "ImageSets/Segmentation/train.txt"),
        "folder": ("labels.csv", "classes.txt"),
        "coco": ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
    }.items():
        words = ("semples", "data", "check", root, *([FIELDS] if root != "folder" else []), "holdout=8")
        for file in files:
            for by in (
                "empty",
                "cut",
                "random",
                "zeros",
                "list",
                "null",
                "deep",
                "latin",
                "folder",
                "pipe",
                "dangling",
            ):
                half = by == "cut" and file.endswith(".txt")  # half a list is a list
                yield Case(f"data {file} {by}", words, (root,), replace(f"{root}/{file}", by), handled=half)
        for name, prepare in _spoilt_images(root).items():
            yield Case(f"data {name}", words, (root,), prepare)
        for word in (
            "holdout=0",
            "holdout=99999",
            "holdout=nan",
            "classes=[a, a]",
            "nonsense=1",
            "seed=-1",
            "classes=3",
        ):
            yield Case("data word", ("semples", "data", "check", root, word), (root,))
    yield Case("data executes", ("semples", "data", "check", "voc", FIELDS, "holdout=8"), ("voc",), _executing)


def _executing() -> None:
    """A table of labels that runs a command when it is unpickled the usual way."""

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch executed",)

    np.save("voc/cls_labels.npy", np.array({"x": Bad()}, dtype=object), allow_pickle=True)


def _spoilt_images(root: str) -> dict[str, Prepare]:
    """Ways to spoil an image or a mask that is read."""
    images = {"voc": "JPEGImages", "folder": "images", "coco": "train2014"}[root]
    found = {"images": images, "masks": {"voc": "SegmentationClass", "folder": "masks"}.get(root, "")}
    result: dict[str, Prepare] = {}
    for what, folder in found.items():
        for by in ("empty", "cut", "random", "pipe", "folder", "dangling", "deep image", "other size", "many"):
            if not folder or (what == "images" and by in ("many",)):
                continue

            def prepare(folder: str = folder, by: str = by) -> None:
                path = min(Path(root, folder).iterdir())
                if by == "deep image":
                    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(path)
                elif by == "other size":
                    Image.new("L", (7, 9)).save(path)
                elif by == "many":
                    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(path)
                else:
                    replace(str(path), by)()

            result[f"{what} {by}"] = prepare
    return result


def odd_images() -> Iterator[Case]:
    """What `predict` and `evaluate` are given in place of an image or a mask."""
    for by in ("empty", "cut", "random", "text", "zeros", *NO_FILES):
        words = ("semples", "predict", "photo.png", "--run", "run")
        yield Case(f"image {by}", words, ("run", "photo.png"), replace("photo.png", by))
        for folder in ("masks", "truth"):

            def prepare(folder: str = folder, by: str = by) -> None:
                shutil.copytree("masks", "truth")
                replace(str(min(Path(folder).iterdir())), by)()

            yield Case(f"mask {by}", ("semples", "evaluate", "masks", "truth"), ("masks",), prepare,
                       handled=by == "missing" and folder == "masks")  # fmt: skip
    postscript = put("photo.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    yield Case("image executes", ("semples", "predict", "photo.png", "--run", "run"), ("run", "photo.png"), postscript)
    twice = ("semples", "predict", "photo.png", "run/gallery.png", "photo.png", "--run", "run")
    yield Case("image twice", twice, ("run", "photo.png"))


def links() -> Iterator[Case]:
    """Links out of our folders to somebody's; what they lead to stays as it is."""
    mine = put("theirs/mine.txt", "mine")

    def link(path: str, to: str) -> Prepare:
        def prepare() -> None:
            mine()
            file = Path(path)
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            file.unlink(missing_ok=True)
            file.symlink_to(Path(to).resolve())

        return prepare

    again = ("semples", "run", "tiny.yaml", "--out", "run")
    for path, to in (
        ("run/masks", "theirs"),
        ("run/result.json", "theirs/mine.txt"),
        ("run/.semples-tune", "theirs/mine.txt"),
    ):
        yield Case("link", again, ("run", "tiny.yaml"), link(path, to))
    for folder in ("work", "holders", "uses", "leases"):
        yield Case("link", again, ("run", "tiny.yaml"), link(f"run/store/{folder}", "theirs"))
    words = ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps")
    for path in ("tiny/.lock", "tiny/sweep.yaml", "tiny/best.yaml"):
        yield Case(
            "link", words, ("sweeps", "sweep-tiny.yaml"), link(f"sweeps/{path}", "theirs/mine.txt"), handled=True
        )
    for key in ("/x/theirs", "../../../theirs", "theirs"):

        def spoil(key: str = key) -> None:
            mine()
            for path in Path("sweeps/tiny/trials").glob("*/result.json"):
                content = json.loads(path.read_text())
                path.write_text(
                    json.dumps({**content, "keys": dict.fromkeys(content["keys"], key.replace("/x", os.getcwd()))})
                )

        yield Case("key that is a path", ("semples-tune", "export", "to", "--out", "sweeps"), ("sweeps",), spoil)
