"""COCO 2014 in any of three layouts:

    official   ROOT/train2014/*.jpg, ROOT/val2014/*.jpg (or below ROOT/images),
               ROOT/annotations/instances_{train,val}2014.json
    WeakTr     ROOT/images/NAME.jpg, ROOT/voc_format/class_labels/NAME.png with COCO's 91 category numbers (or
               0..80, which is seen by a number that is no category), ROOT/voc_format/{train,val}.txt
    ToCo       ROOT/JPEGImages/{train2014,val2014}/*.jpg (or ROOT/train2014, ROOT/val2014),
               ROOT/SegmentationClass/{train2014,val2014}/*.png with classes 0..80; ROOT/{train,val}.txt if any

Image labels come from the annotations (official), else from cls_labels.npy or cls_labels_onehot.npy in ROOT or beside
the lists, else from the masks. Training images without any object are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from semples.config import CocoData
from semples.data.dataset import Dataset
from semples.data.files import (
    LABEL_TABLES,
    Listing,
    Truth,
    assemble,
    check_classes,
    image_name,
    index_files,
    labels_from_masks,
    labels_from_table,
    mask_file,
    read_list,
    read_mask,
)
from semples.errors import UserError

# the 80 categories that have instances, of the numbers 1..90
CATEGORIES = tuple(n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
SPLITS = ("train2014", "val2014")
ANNOTATIONS, VOC_FORMAT, MASKS = "annotations", "voc_format", "SegmentationClass"
SAMPLE = 200  # masks that are looked at to see how they count classes
SHORTEST = 6  # numbers of a polygon: three corners


def recognises(root: Path) -> bool:
    """Whether the folder looks like one of these layouts."""
    return any(
        (root / p).exists() for p in (VOC_FORMAT, f"{MASKS}/{SPLITS[0]}", f"{ANNOTATIONS}/instances_{SPLITS[0]}.json")
    )


def read_listing(config: CocoData) -> Listing:
    """Names, labels and paths. Raises UserError where the layout is none of the three or a part is missing."""
    root = Path(config.root).expanduser()
    check_classes(config.classes, "data.classes")
    if (root / VOC_FORMAT).is_dir():
        listing = _weaktr(root, config.classes)
    elif (root / MASKS).is_dir():
        listing = _toco(root, config.classes)
    elif (root / ANNOTATIONS).is_dir():
        listing = _official(root, config.classes)
    else:
        raise UserError(
            f"data.root '{config.root}' is no COCO 2014 folder; give the one that holds {ANNOTATIONS}/, "
            f"{VOC_FORMAT}/ or {MASKS}/"
        )
    # masks of 80,000 training images would take hours to measure: a fixed part stands for them
    measured = listing.measured
    if len(measured) > config.measured:
        drawn = np.random.default_rng([config.seed, 2]).choice(len(measured), config.measured, replace=False)
        measured = tuple(measured[i] for i in sorted(drawn))
    return replace(listing, measured=measured)


@lru_cache(maxsize=2)
def load(config: CocoData) -> Dataset:
    """The data set of a folder in one of these layouts."""
    return assemble(read_listing(config), config.holdout, config.seed)


def _official(root: Path, classes: tuple[str, ...]) -> Listing:
    files: dict[str, Path] = {}
    masks: dict[str, Truth] = {}
    labels: dict[str, np.ndarray] = {}
    names: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        source = root / ANNOTATIONS / f"instances_{split}.json"
        painters = _read_annotations(source, len(classes))
        found = index_files([root / split, root / "images" / split])
        for name, painter in painters.items():
            masks[name] = Truth(painter.paint, source)
            labels[name] = painter.labels(len(classes))
        files |= found
        names[split] = tuple(painters)
    train = tuple(name for name in names[SPLITS[0]] if labels[name].any())
    return Listing(
        "coco, official",
        classes,
        train,
        train,
        names[SPLITS[1]],
        files.get,
        masks.get,
        labels.__getitem__,
        "the annotations",
    )


@dataclass
class _Objects:
    """The objects of one image: sizes, classes 1..K and outlines as compact run lengths, in the order of the file."""

    height: int
    width: int
    outlines: list[tuple[int, Any]] = field(default_factory=list)

    def labels(self, classes: int) -> np.ndarray:
        """Which classes are there, bool (K,)."""
        return np.isin(np.arange(1, classes + 1), [k for k, _ in self.outlines])

    def paint(self) -> np.ndarray:
        """The true mask; where two objects overlap the first stands, as in the customary conversions."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for k, outline in self.outlines:
            mask[(rle.decode(outline) > 0) & (mask == 0)] = k
        return mask


def _read_annotations(path: Path, classes: int) -> dict[str, _Objects]:
    """Image name -> its objects. Raises UserError for whatever is not as COCO's annotations are."""
    try:
        content = json.loads(path.read_text())
        numbers = sorted(c["id"] for c in content["categories"])
        if len(numbers) != classes:
            raise UserError(f"{path}: {len(numbers)} categories, but data.classes has {classes} names; they must agree")
        index = {number: k for k, number in enumerate(numbers, 1)}
        images = {i["id"]: (image_name(i["file_name"]), _Objects(i["height"], i["width"])) for i in content["images"]}
        for annotation in content["annotations"]:
            objects = images[annotation["image_id"]][1]
            outline = _compress(annotation["segmentation"], objects.height, objects.width)
            objects.outlines.append((index[annotation["category_id"]], outline))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; unpack COCO's annotations there") from None
    except UserError:
        raise
    except Exception as error:  # pycocotools raises a bare one
        raise UserError(f"{path}: not as COCO's annotations are ({error!r}); unpack them again") from None
    return dict(images.values())


def _compress(segmentation: Any, h: int, w: int) -> Any:
    """Polygons or run lengths of one object -> compressed run lengths, a few dozen bytes."""
    if isinstance(segmentation, list):
        whole = [polygon for polygon in segmentation if len(polygon) >= SHORTEST]
        return rle.merge(rle.frPyObjects(whole, h, w)) if whole else rle.encode(np.zeros((h, w), np.uint8, order="F"))
    return rle.frPyObjects(segmentation, h, w) if isinstance(segmentation["counts"], list) else segmentation


def _weaktr(root: Path, classes: tuple[str, ...]) -> Listing:
    folder = root / VOC_FORMAT
    if len(classes) != len(CATEGORIES):
        raise UserError(f"{folder}: masks have COCO's 80 categories, but data.classes has {len(classes)}")
    masks = index_files([folder / "class_labels"])
    contiguous = _are_contiguous(list(masks.values()))
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
    images: Mapping[str, Path],
    lists: list[Path],
    masks: Mapping[str, Path],
    folders: Mapping[str, Path],
    values: Mapping[int, int] | None,
    hint: str,
) -> Listing:
    """A layout with one mask a file; lists train.txt and val.txt, else all masks in the folder of the split."""

    def names(split: str) -> tuple[str, ...]:
        files = [folder / f"{split}{end}.txt" for folder in lists for end in ("", "_id")]
        if path := next((p for p in files if p.is_file()), None):
            return read_list(path)
        if split not in folders or not folders[split].is_dir():
            raise UserError(f"{files[0]}: no such list of images; put it there")
        return tuple(sorted(index_files([folders[split]])))

    def mask(name: str) -> Truth | None:
        return mask_file(masks.get(name) or masks.get(_short(name)), len(classes), values, hint)

    table = next((f / t for f in (root, *lists) for t in LABEL_TABLES if (f / t).is_file()), None)
    columns = [number - 1 for number in CATEGORIES]
    labels = labels_from_table(table, len(classes), columns) if table else labels_from_masks(mask, len(classes))
    train = tuple(name for name in names("train") if labels(name).any())
    return Listing(
        layout,
        classes,
        train,
        tuple(name for name in train if name in masks or _short(name) in masks),
        names("val"),
        lambda name: images.get(name) or images.get(_short(name)),
        mask,
        labels,
        str(table) if table else "the masks",
    )


def _short(name: str) -> str:
    """COCO_train2014_000000000009 -> 000000000009, as the WeakTr conversion names it."""
    return name.rsplit("_", 1)[-1]
