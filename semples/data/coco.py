"""COCO 2014 in any of three layouts:

    official   ROOT/train2014/*.jpg, ROOT/val2014/*.jpg (or below ROOT/images),
               ROOT/annotations/instances_{train,val}2014.json
    WeakTr     ROOT/images/NAME.jpg, ROOT/voc_format/class_labels/NAME.png with COCO's 91 category numbers (or
               0..80, which is seen by a number that is no category), ROOT/voc_format/{train,val}.txt
    ToCo       ROOT/JPEGImages/{train2014,val2014}/*.jpg (or ROOT/train2014, ROOT/val2014),
               ROOT/SegmentationClass/{train2014,val2014}/*.png with classes 0..80; ROOT/{train,val}.txt if any

and the official one as others write it: COCO 2017 (train2017, val2017), CVAT (instances_default.json with the images in
ROOT/images/default or ROOT/images, or instances_{train,val}.json), Roboflow (ROOT/{train,valid,test}, each with its
images and _annotations.coco.json; test/ is the test set, else valid/). Where the file has no second split, data.test
images are drawn as the test set.

Image labels come from the annotations (official), else from cls_labels.npy or cls_labels_onehot.npy in ROOT or beside
the lists, else from the masks. Training images without any object are left out. Annotations of which no object has an
outline give labels but no mask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semples.data.classes import check_classes, check_ignored
from semples.data.coco_annotations import read_annotations
from semples.data.files import GroundTruth, entries, expand, is_there, mask_file, read_mask
from semples.data.labels import LABEL_TABLES, labels_from_masks, labels_from_table
from semples.data.listing import Images, Listing, assemble, differently_named, draw_test, stray_masks
from semples.data.names import Entry, Files, find_mask, index_files, name_of, read_list
from semples.errors import UserError, cut

if TYPE_CHECKING:
    from semples.config import CocoData
    from semples.data.dataset import Dataset

# the 80 categories that have instances, of the numbers 1..90
CATEGORIES = tuple(n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
SPLITS = ("train2014", "val2014")
ANNOTATIONS, VOC_FORMAT, MASKS = "annotations", "voc_format", "SegmentationClass"
LONG = re.compile(r"^COCO_[a-z]+\d+_")
ROBOFLOW = "_annotations.coco.json"
SAMPLE = 200  # masks that are looked at to see how they count classes


def recognises(root: Path) -> bool:
    """Whether the folder looks like one of these layouts."""
    parts = (VOC_FORMAT, f"{MASKS}/{SPLITS[0]}")
    return any((root / p).exists() for p in parts) or _find_annotations(root) is not None


def read_listing(config: CocoData) -> Listing:
    """Names, labels and paths. Raises UserError where the layout is none of these or a part is missing."""
    root = expand(config.root)
    check_classes(config.classes, "data.classes")
    check_ignored(config.ignore, config.classes)
    if (root / VOC_FORMAT).is_dir():
        listing = _weaktr(root, config.classes)
    elif (root / MASKS).is_dir():
        listing = _toco(root, config.classes)
    elif annotated := _find_annotations(root):
        listing = _official(annotated, config)
    else:
        raise UserError(
            f"data.root '{cut(config.root)}' is no COCO 2014 folder; give the one that holds {ANNOTATIONS}/, "
            f"{VOC_FORMAT}/ or {MASKS}/{unknown_annotations(root)}"
        )
    # masks of 80,000 training images would take hours to measure: a fixed part stands for them
    measured = listing.measured
    if len(measured) > config.measured:
        drawn = np.random.default_rng([config.seed, 2]).choice(len(measured), config.measured, replace=False)
        measured = tuple(measured[i] for i in sorted(drawn))
    return replace(listing, measured=measured)


def load(config: CocoData) -> Dataset:
    """The data set of a folder in one of these layouts."""
    return assemble(read_listing(config), config.holdout, config.seed)


@dataclass(frozen=True)
class _Split:
    """Annotations and the folders of their images."""

    annotations: Path
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class _Annotated:
    """The splits of a layout with annotations, the second being the test set, and a remark on what is not used."""

    layout: str
    splits: tuple[_Split, ...]
    remarks: tuple[str, ...] = ()


def _find_annotations(root: Path) -> _Annotated | None:
    """The annotations by one of the names that are known, None where there are none of them."""

    def split(name: str, *more: Path) -> _Split:
        return _Split(root / ANNOTATIONS / f"instances_{name}.json", (root / name, root / "images" / name, *more))

    for layout, train, test in (
        ("coco, official", *SPLITS), ("coco, 2017", "train2017", "val2017"), ("coco, CVAT", "train", "val"),
    ):  # fmt: skip
        if is_there(split(train).annotations):
            return _Annotated(layout, (split(train), split(test)))
    if is_there((default := split("default", root / "images")).annotations):
        return _Annotated("coco, CVAT", (default,))
    there = [name for name in ("train", "test", "valid") if is_there(root / name / ROBOFLOW)]
    if there[:1] != ["train"]:
        return None
    spare = [f"{root / 'valid'}: not used, for the holdout is drawn from train/"] if len(there) == 3 else []
    return _Annotated(
        "coco, Roboflow",
        tuple(_Split(root / name / ROBOFLOW, (root / name,)) for name in there[:2]),
        tuple(spare),
    )


def unknown_annotations(root: Path) -> str:
    """What to do with JSON files that are where annotations could be, " (...)"; "" where there are none."""
    folders = (root / ANNOTATIONS, root, root / "train")
    found = [folder / e.name for folder in folders for e in entries(folder) if e.name.endswith(".json")]
    if not found:
        return ""
    return (
        f" ({min(found)} is there: if it is COCO's annotations, name it {ANNOTATIONS}/instances_default.json, or "
        "instances_train2014.json and instances_val2014.json where the test images have a file of their own)"
    )


def _official(official: _Annotated, config: CocoData) -> Listing:
    classes = config.classes
    files = [index_files(split.folders) for split in official.splits]
    read, remarks = read_annotations([s.annotations for s in official.splits], files, classes, config.ignore)
    labels = {name: found.labels(len(classes)) for part in read for name, found in part.objects.items()}
    ground_truths = {
        name: GroundTruth(found.paint, part.path)
        for part in read
        if part.outlined
        for name, found in part.objects.items()
    }
    named = [{name: found.entry for name, found in part.objects.items()} for part in read]
    train = tuple(name for name in named[0] if labels[name].any())
    annotated = tuple(name for name in train if name in ground_truths)
    if len(read) > 1:
        test = tuple(named[1])
    else:
        source = f"{read[0].path} has no test set of its own, so it is drawn: "
        test = draw_test(annotated, config.test, config.seed, source, "have objects") if annotated else ()
    apart = set(test) if len(read) == 1 else set()
    images = [Images(found, names) for found, names in zip(files, named, strict=True)]
    return Listing(
        official.layout,
        classes,
        tuple(name for name in train if name not in apart),
        tuple(name for name in annotated if name not in apart),
        test,
        lambda name: images[0 if name in named[0] else 1].find(name),
        lambda name: images[0 if name in named[0] else 1].sought(name),
        ground_truths.get,
        labels.__getitem__,
        "the annotations",
        (),
        tuple(
            f"{part.path}: no object has an outline, as in a file for detection; nothing can be measured on it: only "
            "selection=proxy can use it"
            for part in read
            if not part.outlined
        ),
        (
            *official.remarks,
            *remarks,
            *(r for f, n in zip(files, named, strict=True) for r in differently_named(f, n)),
        ),
    )


def _weaktr(root: Path, classes: tuple[str, ...]) -> Listing:
    folder = root / VOC_FORMAT
    if len(classes) != len(CATEGORIES):
        raise UserError(f"{folder}: masks have COCO's 80 categories, but data.classes has {len(classes)}")
    masks = index_files([folder / "class_labels"])
    contiguous = _are_contiguous(masks.paths())
    values = None if contiguous else {0: 0, **{number: k for k, number in enumerate(CATEGORIES, 1)}}
    hint = "0..80 and 255" if contiguous else "0, one of COCO's 91 category numbers, or 255"
    images = index_files([root / "images", *(root / "images" / split for split in SPLITS)])
    layout = f"coco, WeakTr ({'classes 0..80' if contiguous else '91 category numbers'} in the masks)"
    return _from_masks(layout, root, classes, images, [folder, root], masks, {}, values, hint)


def _are_contiguous(masks: list[Path]) -> bool:
    """Whether masks count their classes 0..80: shown by a number that is no category. Both kinds are about; without
    such a number in the first masks they are COCO's own."""
    for path in masks[:SAMPLE]:
        found = set(np.unique(read_mask(path)).tolist()) - {0, 255}
        if max(found, default=0) > len(CATEGORIES):
            return False
        if found - set(CATEGORIES):
            return True
    return False


def _toco(root: Path, classes: tuple[str, ...]) -> Listing:
    images = index_files([base / split for split in SPLITS for base in (root / "JPEGImages", root / "images", root)])
    folders = {split.removesuffix("2014"): root / MASKS / split for split in SPLITS}
    masks = index_files(list(folders.values()))
    return _from_masks("coco, ToCo", root, classes, images, [root], masks, folders, None, "")


def _from_masks(
    layout: str,
    root: Path,
    classes: tuple[str, ...],
    images: Files,
    lists: list[Path],
    masks: Files,
    folders: Mapping[str, Path],
    values: Mapping[int, int] | None,
    hint: str,
) -> Listing:
    """A layout with one mask a file; lists train.txt and val.txt, else all masks in the folder of the split."""

    def names(split: str) -> dict[str, Entry]:
        files = [folder / f"{split}{end}.txt" for folder in lists for end in ("", "_id")]
        if path := next((p for p in files if is_there(p)), None):
            return read_list(path, images)
        if split not in folders or not folders[split].is_dir():
            raise UserError(f"{files[0]}: no such list of images; put it there")
        found = sorted(index_files([folders[split]]).names())
        return {name_of(images, name, str(folders[split])): Entry(name, str(folders[split])) for name in found}

    def path_of_mask(name: str) -> Path | None:
        return find_mask(masks, images, name) or find_mask(masks, images, _short(name))

    def mask(name: str) -> GroundTruth | None:
        return mask_file(path_of_mask(name), len(classes), values, hint)

    table = next((f / t for f in (root, *lists) for t in LABEL_TABLES if is_there(f / t)), None)
    columns = [number - 1 for number in CATEGORIES]
    labels = labels_from_table(table, len(classes), columns) if table else labels_from_masks(mask, len(classes))
    listed, test = names("train"), names("val")
    train = tuple(name for name in listed if labels(name).any())
    measured = tuple(name for name in train if path_of_mask(name))
    named = {**test, **listed}
    unmasked = len(train) - len(measured) + sum(path_of_mask(name) is None for name in test)
    doubts, remarks = stray_masks(masks, images, unmasked, _short)
    found = Images(images, named, _short)
    return Listing(
        layout,
        classes,
        train,
        measured,
        tuple(test),
        found.find,
        found.sought,
        mask,
        labels,
        str(table) if table else "the masks",
        (),
        tuple(doubts),
        (*differently_named(images, named), *remarks),
    )


def _short(name: str) -> str:
    """COCO_train2014_000000000009 -> 000000000009, as the WeakTr conversion names it; other names as they are."""
    return LONG.sub("", name)
