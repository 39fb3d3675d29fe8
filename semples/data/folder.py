"""A plain folder:

    ROOT/images/NAME.jpg (or .png, ...)    ROOT/masks/NAME.png (or NAME_mask.png), for those images that have one
    ROOT/labels.csv      header `image,labels` or `image,labels,split`; labels are class names separated by `;`, split
                         is train or test
    ROOT/classes.txt     one class name a line: the order of the mask values 1..K (without it: the names in labels.csv,
                         sorted); leading lines for the background, as labelme writes them, are left out

Without labels.csv the labels come from the masks, and every image must have one. Without the column `split` the
test set is drawn from the images that have masks. A suffix in labels.csv decides between two files of one name; a label
that is no class is an error, unless `data.ignore` names it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semples.data.classes import as_key, check_classes, check_ignored, is_background, listed
from semples.data.files import GroundTruth, expand, is_there, mask_file, read_text
from semples.data.labels import labels_from_masks
from semples.data.listing import Images, Listing, assemble, differently_named, draw_test, stray_masks
from semples.data.names import Entry, Files, canonical, find_mask, index_files, name_of
from semples.errors import UserError, cut, nearest, quoted

if TYPE_CHECKING:
    from semples.config import FolderData
    from semples.data.dataset import Dataset

TABLE, CLASSES, IMAGES, MASKS = "labels.csv", "classes.txt", "images", "masks"


def recognises(root: Path) -> bool:
    """Whether the folder looks like this layout."""
    return (root / IMAGES).is_dir() and (is_there(root / TABLE) or (root / MASKS).is_dir())


@dataclass(frozen=True)
class _Row:
    """A line of labels.csv; split is "" where there is none."""

    entry: Entry
    labels: tuple[str, ...]
    split: str


def read_listing(config: FolderData) -> Listing:
    """Names, labels and paths. Raises UserError where the folder or a column is missing or a class is unknown."""
    root = expand(config.root)
    if not (root / IMAGES).is_dir():
        raise UserError(f"data.root '{config.root}' has no folder {IMAGES}/; put the images there")
    files, masks = index_files([root / IMAGES]), index_files([root / MASKS])
    rows = _read_table(root / TABLE, files) if is_there(root / TABLE) else None
    classes, remarks = _classes(root, rows, config.ignore)
    check_ignored(config.ignore, classes)

    def mask(name: str) -> GroundTruth | None:
        return mask_file(find_mask(masks, files, name), len(classes))

    names = tuple(rows) if rows is not None else files.names()
    annotated = tuple(name for name in names if find_mask(masks, files, name))
    if rows is not None and any(row.split for row in rows.values()):
        test = tuple(name for name in names if rows[name].split == "test")
    else:
        test = draw_test(annotated, config.test, config.seed, "", "have masks") if annotated else ()
    apart = set(test)
    index = {canonical(c): k for k, c in enumerate(classes)}
    ignored = {canonical(name) for name in config.ignore}

    def labels_from_csv(name: str) -> np.ndarray:
        result = np.zeros(len(classes), bool)
        for label in rows[name].labels if rows else ():
            if canonical(label) in index:
                result[index[canonical(label)]] = True
            elif canonical(label) not in ignored:
                raise UserError(
                    f"{root / TABLE}: image '{cut(name)}' has the label '{cut(label)}', which is not in {CLASSES}"
                    f"{nearest(label, classes)}; add it there, or where it is not to be learned give "
                    f"{as_key([label], 'ignore')}"
                )
        return result

    named = {name: row.entry for name, row in rows.items()} if rows is not None else {}
    doubts, stray = stray_masks(masks, files, len(names) - len(annotated))
    in_table = {canonical(name) for name in names}
    unlisted = [paths[0] for name, paths in files.found.items() if name not in in_table]
    if unlisted:
        remarks.append(f"{len(unlisted)} images are not in {TABLE} and not used, as {unlisted[0]}")
    found = Images(files, named)
    return Listing(
        "folder",
        classes,
        tuple(name for name in names if name not in apart),
        tuple(name for name in annotated if name not in apart),
        test,
        found.find,
        found.sought,
        mask,
        labels_from_csv if rows is not None else labels_from_masks(mask, len(classes)),
        str(root / TABLE) if rows is not None else "the masks",
        (),
        tuple(doubts),
        (*remarks, *differently_named(files, named), *stray),
    )


def load(config: FolderData) -> Dataset:
    """The data set of a folder in this layout."""
    return assemble(read_listing(config), config.holdout, config.seed)


def _read_table(path: Path, files: Files) -> dict[str, _Row]:
    """Image name -> what its line says."""
    rows: dict[str, _Row] = {}
    text = read_text(path, "table")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = _columns(path, text, next(reader, []))
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            if any(cell.strip() for cell in cells[len(columns) :]):
                raise UserError(
                    f"{where}: {len(cells)} columns, but the first line has {len(columns)}; put `;` between labels"
                )
            row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
            word, split = row.get("image", ""), row.get("split", "").casefold()
            if not word:
                raise UserError(f"{path}: line {reader.line_num} names no image")
            name = name_of(files, word, where)
            if split not in ("", "train", "test"):
                raise UserError(f"{path}: image '{cut(name)}' has the split '{cut(row['split'])}'; use train or test")
            if name in rows:
                first = rows[name].entry.word
                other = "" if first == word else f" (as '{cut(first)}' and as '{cut(word)}')"
                raise UserError(f"{path}: image '{cut(name)}' is there twice{other}; keep one line")
            labels = tuple(label.strip() for label in row.get("labels", "").split(";") if label.strip())
            rows[name] = _Row(Entry(word, where), labels, split)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not valid CSV ({error})") from None
    return rows


def _columns(path: Path, text: str, first: Sequence[str]) -> list[str]:
    """The names of the columns, without regard to case and blanks around them."""
    columns = [cell.strip().casefold() for cell in first]
    if {"image", "labels"} <= set(columns):
        if twice := {c for c in columns if c and columns.count(c) > 1}:
            raise UserError(f"{path}: the first line has the column '{cut(min(twice))}' twice; keep one")
        return columns
    line = next(iter(text.splitlines()), "")
    names = {";": "semicolons (`;`)", "\t": "tabs", "|": "strokes (`|`)"}
    other = next((name for mark, name in names.items() if mark in line), "")
    advice = f", with columns separated by {other}: save it with `,` between columns and `;` between labels"
    raise UserError(
        f"{path}: the first line must be `image,labels` or `image,labels,split`, found {quoted(line)}"
        f"{advice if other else ''}"
    )


def _classes(root: Path, rows: dict[str, _Row] | None, ignore: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The names of the classes, and a remark on lines that are none."""
    path, remarks = root / CLASSES, []
    if is_there(path):
        lines = [line.strip() for line in read_text(path, "list of classes").splitlines() if line.strip()]
        ground = list(takewhile(is_background, lines))
        classes = tuple(lines[len(ground) :])
        if ground:
            remarks.append(
                f"{path}: {listed(ground)} at the beginning is no class and left out: the classes are 1..{len(classes)}"
            )
    elif rows is None:
        raise UserError(f"{root}: neither {TABLE} nor {CLASSES}, so the classes have no names; write one of them")
    else:
        path = root / TABLE
        labels = {canonical(label): label for row in rows.values() for label in row.labels}
        classes = tuple(sorted(labels[form] for form in labels.keys() - {canonical(name) for name in ignore}))
    check_classes(classes, str(path))
    return classes, remarks
