"""A plain folder:

    ROOT/images/NAME.jpg (or .png, ...)    ROOT/masks/NAME.png, for those images that have one
    ROOT/labels.csv      header `image,labels` or `image,labels,split`; labels are class names separated by `;`, split
                         is train or test
    ROOT/classes.txt     one class name a line: the order of the mask values 1..K (without it: the names in labels.csv,
                         sorted)

Without labels.csv the labels come from the masks, and every image must have one. Without the column `split` the
test set is drawn from the images that have masks.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from pathlib import Path

import numpy as np

from semples.config import FolderData
from semples.data.dataset import Dataset
from semples.data.files import (
    Listing,
    Truth,
    assemble,
    check_classes,
    image_name,
    index_files,
    labels_from_masks,
    mask_file,
    read_text,
)
from semples.errors import UserError

TABLE, CLASSES = "labels.csv", "classes.txt"


def recognises(root: Path) -> bool:
    """Whether the folder looks like this layout."""
    return (root / "images").is_dir() and ((root / TABLE).is_file() or (root / "masks").is_dir())


def read_listing(config: FolderData) -> Listing:
    """Names, labels and paths. Raises UserError where the folder or a column is missing or a class is unknown."""
    root = Path(config.root).expanduser()
    if not (root / "images").is_dir():
        raise UserError(f"data.root '{config.root}' has no folder images/; put the images there")
    rows = _read_table(root / TABLE) if (root / TABLE).is_file() else None
    classes = _classes(root, rows)
    files, masks = index_files([root / "images"]), index_files([root / "masks"])

    def mask(name: str) -> Truth | None:
        return mask_file(masks.get(name), len(classes))

    names = tuple(rows) if rows is not None else tuple(files)
    masked = tuple(name for name in names if name in masks)
    if rows is not None and any(split for _, split in rows.values()):
        test = tuple(name for name in names if rows[name][1] == "test")
    elif not masked:
        test = ()
    else:
        if config.test >= len(masked):
            raise UserError(
                f"data.test = {config.test}, but only {len(masked)} images have masks; choose a smaller one"
            )
        drawn = np.random.default_rng([config.seed, 1]).choice(len(masked), config.test, replace=False)
        test = tuple(sorted(masked[i] for i in drawn))
    apart = set(test)
    index = {c: k for k, c in enumerate(classes)}

    def labels_from_csv(name: str) -> np.ndarray:
        result = np.zeros(len(classes), bool)
        for label in rows[name][0] if rows else ():
            if label not in index:
                raise UserError(f"{root / TABLE}: image '{name}' has the label '{label}', which is not in {CLASSES}")
            result[index[label]] = True
        return result

    return Listing(
        "folder",
        classes,
        tuple(name for name in names if name not in apart),
        tuple(name for name in masked if name not in apart),
        test,
        files.get,
        mask,
        labels_from_csv if rows is not None else labels_from_masks(mask, len(classes)),
        str(root / TABLE) if rows is not None else "the masks",
    )


@lru_cache(maxsize=4)
def load(config: FolderData) -> Dataset:
    """The data set of a folder in this layout."""
    return assemble(read_listing(config), config.holdout, config.seed)


def _read_table(path: Path) -> dict[str, tuple[list[str], str]]:
    """Image name -> labels and split ("" where there is none)."""
    rows: dict[str, tuple[list[str], str]] = {}
    reader = csv.DictReader(io.StringIO(read_text(path)), restval="")
    try:
        if not {"image", "labels"} <= set(reader.fieldnames or ()):
            raise UserError(f"{path}: the first line must be `image,labels` or `image,labels,split`")
        for row in reader:
            name, split = image_name(row["image"].strip()), row.get("split", "").strip()
            if not name or "\n" in name:
                raise UserError(f"{path}: line {reader.line_num} names no image")
            if split not in ("", "train", "test"):
                raise UserError(f"{path}: image '{name}' has the split '{split}'; use train or test")
            if name in rows:
                raise UserError(f"{path}: image '{name}' is there twice; keep one line")
            rows[name] = ([word.strip() for word in row["labels"].split(";") if word.strip()], split)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not valid CSV ({error})") from None
    return rows


def _classes(root: Path, rows: dict[str, tuple[list[str], str]] | None) -> tuple[str, ...]:
    path = root / CLASSES
    if path.is_file():
        classes = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    elif rows is None:
        raise UserError(f"{root}: neither {TABLE} nor {CLASSES}, so the classes have no names; write one of them")
    else:
        path, classes = root / TABLE, tuple(sorted({label for labels, _ in rows.values() for label in labels}))
    check_classes(classes, str(path))
    return classes
