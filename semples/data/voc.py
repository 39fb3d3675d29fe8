"""PASCAL VOC 2012, or any data set in its layout:

    ROOT/JPEGImages/NAME.jpg (or .png)
    ROOT/SegmentationClassAug/NAME.png or ROOT/SegmentationClass/NAME.png
    ROOT/ImageSets/Segmentation/LIST.txt, or LIST_id.txt, or either in ROOT itself

Image labels come from the first of these that is there: cls_labels.npy or cls_labels_onehot.npy (a dictionary from
name to K-vector) in ROOT or beside the lists, ROOT/Annotations/NAME.xml, the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from semples.config import VocData
from semples.data.archive import encode_mask
from semples.data.dataset import Dataset
from semples.data.files import (
    LABEL_TABLES,
    Listing,
    Truth,
    assemble,
    check_classes,
    index_files,
    labels_from_masks,
    labels_from_table,
    mask_file,
    read_list,
)
from semples.errors import UserError

WRITTEN = ("JPEGImages", "SegmentationClass", "ImageSets", "cls_labels.npy")  # by `write`
LISTS, ENDS = Path("ImageSets/Segmentation"), ("", "_id")
XML_NAMES = {"person": "player", "tvmonitor": "tv monitor"}


def recognises(root: Path) -> bool:
    """Whether the folder looks like this layout."""
    return (root / "JPEGImages").is_dir() and any(
        (f / f"val{e}.txt").is_file() for f in (root / LISTS, root) for e in ENDS
    )


def read_listing(config: VocData) -> Listing:
    """Lists, labels and paths. Raises UserError where the root or a list is missing."""
    root = Path(config.root).expanduser()
    if not (root / "JPEGImages").is_dir():
        raise UserError(
            f"data.root '{config.root}' is not a folder in VOC's layout; give the one that holds JPEGImages"
        )
    train, measured, test = (_names(root, name) for name in (config.train_list, config.mask_list, config.test_list))
    check_classes(config.classes, "data.classes")
    images = index_files([root / "JPEGImages"])
    masks = index_files([root / "SegmentationClassAug", root / "SegmentationClass"])

    def mask(name: str) -> Truth | None:
        return mask_file(masks.get(name), len(config.classes))

    labels, source = _labels(root, config.classes, mask)
    return Listing(
        "voc",
        config.classes,
        train,
        measured,
        test,
        images.get,
        mask,
        labels,
        source,
    )


@lru_cache(maxsize=4)
def load(config: VocData) -> Dataset:
    """The data set of a folder in this layout."""
    return assemble(read_listing(config), config.holdout, config.seed)


def _names(root: Path, name: str) -> tuple[str, ...]:
    candidates = [folder / f"{name}{end}.txt" for folder in (root / LISTS, root) for end in ENDS]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise UserError(f"{candidates[0]}: no such list of images; see data.{{train,mask,test}}_list")
    return read_list(path)


def _labels(
    root: Path, classes: Sequence[str], mask: Callable[[str], Truth | None]
) -> tuple[Callable[[str], np.ndarray], str]:
    """Where the labels come from: the reader and its name for people."""
    table = next((f / t for f in (root, root / LISTS) for t in LABEL_TABLES if (f / t).is_file()), None)
    if table is not None:
        return labels_from_table(table, len(classes)), str(table)
    if (root / "Annotations").is_dir():
        return _labels_from_xml(root / "Annotations", classes), str(root / "Annotations")
    return labels_from_masks(mask, len(classes)), "the masks"


def _labels_from_xml(folder: Path, classes: Sequence[str]) -> Callable[[str], np.ndarray]:
    index = {c: k for k, c in enumerate(classes)}

    def labels(name: str) -> np.ndarray:
        path = folder / f"{name}.xml"
        try:
            objects = [node.text or "" for node in ElementTree.parse(path).findall("object/name")]
        except (OSError, ElementTree.ParseError) as error:
            raise UserError(f"{path}: annotation cannot be read ({error})") from None
        result = np.zeros(len(classes), bool)
        known = (o if o in index else XML_NAMES.get(o, o) for o in objects)
        result[[index[name] for name in known if name in index]] = True
        return result

    return labels


def write(data: Dataset, root: Path) -> None:
    """Write a data set in this layout (PNG images; lists train_aug, train, val; labels in cls_labels.npy)."""
    for folder in ("JPEGImages", "SegmentationClass", LISTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    table = {}
    for split in (data.train, data.holdout, data.test):
        for i, name in enumerate(split.names):
            Image.fromarray(split.image(i)).save(root / "JPEGImages" / f"{name}.png")
            mask = split.mask(i)
            if mask is not None:
                encode_mask(mask).save(root / "SegmentationClass" / f"{name}.png")
            table[name] = split.labels[i].astype(np.float32)
    np.save(root / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    training = (*data.train.names, *data.holdout.names)
    for file, names in (("train_aug", training), ("train", training), ("val", data.test.names)):
        (root / LISTS / f"{file}.txt").write_text("".join(f"{name}\n" for name in names))
