"""The same scenes in every layout of files, for the tests of data sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semples.config import CocoData, DataConfig, FolderData, OtherData, VocData
from semples.data import coco, find, scenes, voc
from semples.data.check import Report, check
from semples.data.dataset import Dataset
from semples.data.png_archive import encode_mask

Write = Callable[[Path], DataConfig]  # writes the scenes into a folder in one of the layouts
DATA = scenes.draw(24, 8, 8, 0)
COCO_NUMBERS = coco.CATEGORIES[:8]


def images(data: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, bool]]:
    """Name -> image, mask, labels, whether it is of the test set."""
    return {
        name: (split.image(i), np.asarray(split.mask(i)), split.labels[i], split is data.test)
        for split in (data.train, data.holdout, data.test)
        for i, name in enumerate(split.names)
    }


def save(folder: Path, name: str, picture: Image.Image) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.png")


def write_voc(root: Path) -> DataConfig:
    voc.write(DATA, root)
    return VocData(root=str(root), classes=scenes.CLASSES, holdout=8)


def write_voc_with_xml(root: Path) -> DataConfig:
    config = write_voc(root)
    (root / "cls_labels.npy").unlink()
    (root / "Annotations").mkdir()
    for name, (_, _, labels, _) in images(DATA).items():
        objects = "".join(f"<object><name>{c}</name></object>" for c, x in zip(DATA.classes, labels, strict=True) if x)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return config


def write_voc_with_masks_only(root: Path) -> DataConfig:
    """Lists of other names in ROOT itself, as WeakTr and others have them."""
    config = write_voc(root)
    (root / "cls_labels.npy").unlink()
    for path in (root / voc.LISTS).iterdir():
        path.rename(root / f"{path.stem}_id.txt")
    return config


def write_folder(root: Path) -> DataConfig:
    rows = []
    for name, (image, mask, labels, test) in images(DATA).items():
        save(root / "images", name, Image.fromarray(image))
        save(root / "masks", name, encode_mask(mask))
        words = ";".join(c for c, x in zip(DATA.classes, labels, strict=True) if x)
        rows.append({"image": f"{name}.png", "labels": words, "split": "test" if test else "train"})
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "labels", "split"])
        writer.writeheader()
        writer.writerows(rows)
    (root / "classes.txt").write_text("\n".join(DATA.classes))
    return FolderData(root=str(root), holdout=8)


def write_coco_toco(root: Path) -> DataConfig:
    table = {}
    for name, (image, mask, labels, test) in images(DATA).items():
        split = "val2014" if test else "train2014"
        long = f"COCO_{split}_{name}"
        save(root / "JPEGImages" / split, long, Image.fromarray(image))
        save(root / "SegmentationClass" / split, long, encode_mask(mask))
        table[long] = labels.astype(np.float32)
    np.save(root / "cls_labels_onehot.npy", np.array(table, dtype=object), allow_pickle=True)
    return CocoData(root=str(root), classes=scenes.CLASSES, holdout=8)


def write_coco_weaktr(root: Path) -> DataConfig:
    """91 category numbers in the masks; our classes are the first eight categories, the others are absent."""
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for name, (image, mask, _, test) in images(DATA).items():
        save(root / "images", name, Image.fromarray(image))
        numbers = np.array([0, *COCO_NUMBERS], np.uint8)[mask]
        save(root / "voc_format" / "class_labels", name, encode_mask(numbers))
        lists["val" if test else "train"].append(name)
    for split, names in lists.items():
        (root / "voc_format" / f"{split}.txt").write_text("\n".join(names))
    return CocoData(root=str(root), holdout=8)


def write_coco_official(root: Path) -> DataConfig:
    """Run lengths for all objects, one annotation a class and image; and a training image without any object."""
    (root / "annotations").mkdir(parents=True)
    everything = [
        *images(DATA).items(),
        ("train-empty", (np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)), None, False)),
    ]
    for split, wanted in (("train2014", False), ("val2014", True)):
        entries: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for name, (image, mask, _, test) in everything:
            if test != wanted:
                continue
            save(root / split, name, Image.fromarray(image))
            height, width = mask.shape
            entries.append({"id": len(entries), "file_name": f"{name}.png", "height": height, "width": width})
            for k in sorted(set(np.unique(mask).tolist()) - {0}):
                flat = np.concatenate([[0], (mask == k).ravel(order="F").astype(int), [0]])
                edges = np.flatnonzero(np.diff(flat))
                runs = np.diff(np.concatenate([[0], edges, [mask.size]]))
                code = {"counts": runs.tolist(), "size": [height, width]}
                number = COCO_NUMBERS[int(k) - 1]
                objects.append({"image_id": entries[-1]["id"], "category_id": number, "segmentation": code})
        categories = [{"id": n} for n in COCO_NUMBERS]
        content = {"images": entries, "annotations": objects, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return CocoData(root=str(root), classes=scenes.CLASSES, holdout=8)


def write_tiles(root: Path) -> DataConfig:
    """In the layout of tests/other_package."""
    for name, (image, mask, _, _) in images(DATA).items():
        save(root / "tiles", name, Image.fromarray(image))
        save(root / "truth", name, encode_mask(mask))
    (root / "names.txt").write_text("\n".join(DATA.classes))
    return OtherData(kind="tiles", root=str(root), holdout=8, args={"every": 5})


WRITERS = [
    write_voc, write_voc_with_xml, write_voc_with_masks_only, write_folder, write_coco_toco, write_coco_weaktr,
    write_coco_official,
]  # fmt: skip


def load(config: DataConfig) -> Dataset:
    """Without the rule that every class must be in the training set: most of COCO's 80 are not."""
    data: Dataset = find(config.kind).load().load(config)
    return data


def write_coco_weaktr_with_table(root: Path) -> DataConfig:
    config = write_coco_weaktr(root)
    table = {name: np.pad(labels, (0, 72)).astype(np.float32) for name, (_, _, labels, _) in images(DATA).items()}
    np.save(root / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    return config


def mask_files(root: Path) -> list[Path]:
    """The masks of a tree, whatever its layout."""
    folders = ("SegmentationClass", "masks", "voc_format/class_labels")
    return sorted(path for folder in folders for path in (root / folder).rglob("*.png"))


def image_files(root: Path) -> list[Path]:
    return sorted({p for p in root.rglob("*.png")} - set(mask_files(root)))


def repaint(path: Path, values: Callable[[np.ndarray], np.ndarray]) -> None:
    encode_mask(values(np.asarray(Image.open(path))).astype(np.uint8)).save(path)


def report_of(config: DataConfig) -> Report:
    """The report without the 72 categories of COCO that the scenes do not have."""
    report = check(config)
    problems = tuple(p for p in report.problems if "no training image shows the class" not in p)
    return Report(report.listing, report.images, report.counts, problems, report.remarks)
