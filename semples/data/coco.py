"""COCO 2014 in any of three layouts:

    official   ROOT/train2014/*.jpg, ROOT/val2014/*.jpg (or below ROOT/images),
               ROOT/annotations/instances_{train,val}2014.json
    WeakTr     ROOT/images/NAME.jpg, ROOT/voc_format/class_labels/NAME.png with COCO's 91 category numbers,
               ROOT/voc_format/{train,val}.txt
    ToCo       ROOT/JPEGImages/{train2014,val2014}/*.jpg (or ROOT/train2014, ROOT/val2014),
               ROOT/SegmentationClass/{train2014,val2014}/*.png with classes 0..80; ROOT/{train,val}.txt if any

Image labels come from the annotations (official), else from cls_labels.npy or cls_labels_onehot.npy in ROOT or beside
the lists, else from the masks. Training images without any object are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from semples.config import CocoData
from semples.data.dataset import Dataset, file_digest
from semples.data.files import (
    LABEL_TABLES,
    Listing,
    Truth,
    assemble,
    find,
    labels_from_masks,
    labels_from_table,
    mask_file,
    read_list,
)
from semples.errors import UserError

# the 80 categories that have instances, of the numbers 1..90
CATEGORIES = tuple(n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
SPLITS = ("train2014", "val2014")
ANNOTATIONS, VOC_FORMAT, MASKS = "annotations", "voc_format", "SegmentationClass"


def recognises(root: Path) -> bool:
    """Whether the folder looks like one of these layouts."""
    return any(
        (root / p).exists() for p in (VOC_FORMAT, f"{MASKS}/{SPLITS[0]}", f"{ANNOTATIONS}/instances_{SPLITS[0]}.json")
    )


def read_listing(config: CocoData) -> Listing:
    """Names, labels and paths. Raises UserError where the layout is none of the three or a part is missing."""
    root = Path(config.root).expanduser()
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
    return Listing(**{**vars(listing), "measured": measured})


@lru_cache(maxsize=2)
def load(config: CocoData) -> Dataset:
    """The data set of a folder in one of these layouts."""
    return assemble(read_listing(config), config.holdout, config.seed)


def _official(root: Path, classes: tuple[str, ...]) -> Listing:
    files: dict[str, Path] = {}
    objects: dict[str, list[dict[str, Any]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    sources: dict[str, Path] = {}
    names: dict[str, tuple[str, ...]] = {}
    numbers: list[int] = []
    for split in SPLITS:
        source = root / ANNOTATIONS / f"instances_{split}.json"
        content = _read_json(source)
        numbers = sorted(c["id"] for c in content["categories"])
        by_id = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        for entry in content["images"]:
            name = by_id[entry["id"]]
            files[name] = root / split / entry["file_name"]
            sizes[name] = (entry["height"], entry["width"])
            objects[name], sources[name] = [], source
        for annotation in content["annotations"]:
            objects[by_id[annotation["image_id"]]].append(annotation)
        names[split] = tuple(by_id.values())
    if len(numbers) != len(classes):
        raise UserError(f"{root / ANNOTATIONS}: {len(numbers)} categories, but data.classes has {len(classes)}")
    index = {number: k for k, number in enumerate(numbers)}

    def labels(name: str) -> np.ndarray:
        result = np.zeros(len(classes), bool)
        result[[index[o["category_id"]] for o in objects[name]]] = True
        return result

    def paint(name: str) -> np.ndarray:
        h, w = sizes[name]
        mask = np.zeros((h, w), np.uint8)
        for o in objects[name]:  # where two overlap, the first stands, as in the customary conversions
            mask[(_decode(o["segmentation"], h, w)) & (mask == 0)] = 1 + index[o["category_id"]]
        return mask

    digests = {source: file_digest(source) for source in set(sources.values())}

    def truth(name: str) -> Truth:
        return Truth(partial(paint, name), lambda: digests[sources[name]])

    def image(name: str) -> Path | None:
        path = files[name]
        return find([path.parent, root / "images" / path.parent.name], [path.stem])

    train = tuple(name for name in names[SPLITS[0]] if objects[name])
    return Listing("coco, official", classes, train, train, names[SPLITS[1]], image, truth, labels, "the annotations")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        content["images"], content["annotations"], content["categories"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; unpack COCO's annotations there") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not COCO's annotations ({error!r}); unpack them again") from None
    return content


def _decode(segmentation: Any, h: int, w: int) -> np.ndarray:
    """Polygons or run lengths of one object -> bool (h, w)."""
    coded = rle.frPyObjects(segmentation, h, w)
    return rle.decode(rle.merge(coded) if isinstance(coded, list) else coded).astype(bool)


def _weaktr(root: Path, classes: tuple[str, ...]) -> Listing:
    folder = root / VOC_FORMAT
    if len(classes) != len(CATEGORIES):
        raise UserError(f"{folder}: masks have COCO's 80 categories, but data.classes has {len(classes)}")
    values = {0: 0, **{number: k for k, number in enumerate(CATEGORIES, 1)}}

    def mask(name: str) -> Truth | None:
        path = find([folder / "class_labels"], [name, _short(name)], [".png"])
        return mask_file(path, len(classes), values, "0, one of COCO's 91 category numbers, or 255")

    images = [root / "images", *(root / "images" / split for split in SPLITS)]
    return _from_masks("coco, WeakTr", root, classes, images, [folder, root], mask, {})


def _toco(root: Path, classes: tuple[str, ...]) -> Listing:
    folders = [base / split for split in SPLITS for base in (root / "JPEGImages", root / "images", root)]

    def mask(name: str) -> Truth | None:
        path = find([root / MASKS / split for split in SPLITS], [name, _short(name)], [".png"])
        return mask_file(path, len(classes))

    masks = {split.removesuffix("2014"): root / MASKS / split for split in SPLITS}
    return _from_masks("coco, ToCo", root, classes, folders, [root], mask, masks)


def _from_masks(
    layout: str,
    root: Path,
    classes: tuple[str, ...],
    images: list[Path],
    lists: list[Path],
    mask: Callable[[str], Truth | None],
    folders: Mapping[str, Path],
) -> Listing:
    """A layout with one mask a file; lists train.txt and val.txt, else all masks in the folder of the split."""

    def names(split: str) -> tuple[str, ...]:
        files = [folder / f"{split}{end}.txt" for folder in lists for end in ("", "_id")]
        if path := next((p for p in files if p.is_file()), None):
            return read_list(path)
        if split not in folders or not folders[split].is_dir():
            raise UserError(f"{files[0]}: no such list of images; put it there")
        return tuple(sorted(p.stem for p in folders[split].glob("*.png")))

    table = next((f / t for f in (root, *lists) for t in LABEL_TABLES if (f / t).is_file()), None)
    labels = labels_from_table(table, len(classes)) if table else labels_from_masks(mask, len(classes))
    train = tuple(name for name in names("train") if labels(name).any())
    measured = tuple(name for name in train if mask(name))
    source = str(table) if table else "the masks"
    return Listing(
        layout, classes, train, measured, names("val"), lambda n: find(images, [n, _short(n)]), mask, labels, source
    )


def _short(name: str) -> str:
    """COCO_train2014_000000000009 -> 000000000009, as the WeakTr conversion names it."""
    return name.rsplit("_", 1)[-1]
