"""PASCAL VOC 2012, or any data set in its layout:

    ROOT/JPEGImages/NAME.jpg (or .png)
    ROOT/SegmentationClassAug/NAME.png or ROOT/SegmentationClass/NAME.png (or NAME_mask.png)
    ROOT/ImageSets/Segmentation/LIST.txt, or LIST_id.txt, or either in ROOT itself

Image labels come from the first of these that is there: cls_labels.npy or cls_labels_onehot.npy (a dictionary from
name to K-vector) in ROOT or beside the lists, ROOT/Annotations/NAME.xml, the masks. An object in Annotations/ that is
no class is a problem, unless `data.ignore` names it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from semples.data.classes import as_key, check_classes, check_ignored
from semples.data.files import GroundTruth, entries, expand, is_there, mask_file, require_file
from semples.data.labels import LABEL_TABLES, labels_from_masks, labels_from_table
from semples.data.listing import Images, Listing, assemble, differently_named, stray_masks
from semples.data.names import Entry, Files, canonical, find_mask, index_files, read_list
from semples.data.png_archive import encode_mask
from semples.errors import UserError, cut, nearest, quoted

if TYPE_CHECKING:
    from semples.config import VocData
    from semples.data.dataset import Dataset

WRITTEN = ("JPEGImages/", "SegmentationClass/", "ImageSets/", "cls_labels.npy")  # by `write`
IMAGES, LISTS, ENDS = "JPEGImages", Path("ImageSets/Segmentation"), ("", "_id")
MASKS = ("SegmentationClassAug", "SegmentationClass")  # the first that has a mask counts
KEYS = ("train_list", "mask_list", "test_list")
MOST = 8  # unknown names in a message
XML_NAMES = {"person": "player", "tvmonitor": "tv monitor"}


def recognises(root: Path) -> bool:
    """Whether the folder looks like this layout."""
    return (
        (root / IMAGES).is_dir()
        and not (root / IMAGES / "train2014").is_dir()  # COCO as ToCo has it
        and (bool(_lists(root)) or any((root / part).is_dir() for part in (LISTS, "Annotations", *MASKS)))
    )


def read_listing(config: VocData) -> Listing:
    """Lists, labels and paths. Raises UserError where the root or a list is missing."""
    root = expand(config.root)
    if not (root / IMAGES).is_dir():
        raise UserError(f"data.root '{config.root}' is not a folder in VOC's layout; give the one that holds {IMAGES}")
    check_classes(config.classes, "data.classes")
    check_ignored(config.ignore, config.classes)
    images = index_files([root / IMAGES])
    masks = index_files([root / folder for folder in MASKS], layered=True)
    train, measured, test = (_names(root, key, getattr(config, key), images) for key in KEYS)
    named = {**test, **measured, **train}

    def mask(name: str) -> GroundTruth | None:
        return mask_file(find_mask(masks, images, name), len(config.classes))

    unmasked = sum(find_mask(masks, images, name) is None for name in {*measured, *test})
    doubts, remarks = stray_masks(masks, images, unmasked)
    labels, source, problems = _labels(root, config, list(named), mask)
    found = Images(images, named)
    return Listing(
        "voc",
        config.classes,
        tuple(train),
        tuple(measured),
        tuple(test),
        found.find,
        found.sought,
        mask,
        labels,
        source,
        tuple(problems),
        tuple(doubts),
        (*differently_named(images, named), *remarks),
    )


def load(config: VocData) -> Dataset:
    """The data set of a folder in this layout."""
    return assemble(read_listing(config), config.holdout, config.seed)


def _names(root: Path, key: str, name: str, images: Files) -> dict[str, Entry]:
    candidates = [folder / f"{name}{end}.txt" for folder in (root / LISTS, root) for end in ENDS]
    path = next((p for p in candidates if is_there(p)), None)
    if path is not None:
        return read_list(path, images)
    there = {p.stem.removesuffix(ENDS[1]) for p in _lists(root)}
    if not there:
        raise UserError(
            f"{candidates[0]}: no such list of images, nor any other list; write three: one name of an image a line"
        )
    near = (get_close_matches(name, sorted(there), 1, 0.0) or sorted(there))[0]
    raise UserError(
        f"{candidates[0]}: no such list of images; there are {', '.join(map(cut, sorted(there)))}: give one of "
        f"them, as in {key}={cut(near)}"
    )


def _lists(root: Path) -> list[Path]:
    """What can be a list of images in this layout."""
    found = [folder / e.name for folder in (root / LISTS, root) for e in entries(folder) if e.name.endswith(".txt")]
    return [path for path in found if path.parent != root or path.stem.split("_")[0] in ("train", "trainval", "val")]


def _labels(
    root: Path, config: VocData, names: Sequence[str], mask: Callable[[str], GroundTruth | None]
) -> tuple[Callable[[str], np.ndarray], str, list[str]]:
    """Where the labels come from: the reader, its name for people, and what is wrong with them."""
    classes = config.classes
    table = next((f / t for f in (root, root / LISTS) for t in LABEL_TABLES if is_there(f / t)), None)
    if table is not None:
        return labels_from_table(table, len(classes)), str(table), []
    if (root / "Annotations").is_dir():
        objects = {name: _read_objects(root / "Annotations", name) for name in names}
        problems = _unknown_objects(root / "Annotations", objects, classes, config.ignore)
        return _labels_from_objects(objects, classes), str(root / "Annotations"), problems
    return labels_from_masks(mask, len(classes)), "the masks", []


def _read_objects(folder: Path, name: str) -> list[str] | UserError:
    """The names of the objects in an image's annotation, or why it cannot be read."""
    forms = [folder / f"{form}.xml" for form in (name, canonical(name), unicodedata.normalize("NFD", name))]
    path = next((p for p in forms if is_there(p)), forms[0])
    try:
        require_file(path, "annotation")
        found = [node.text or "" for node in ElementTree.parse(path).findall("object/name")]
    except UserError as error:
        return UserError(f"{error}: annotation cannot be read")
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        return UserError(f"{path}: annotation cannot be read ({cut(str(error))})")
    return [" ".join(name.split()) for name in found]


def _class_of(name: str, index: Mapping[str, int]) -> int | None:
    name = canonical(name)
    return index.get(name, index.get(XML_NAMES.get(name, name)))


def _labels_from_objects(
    objects: Mapping[str, list[str] | UserError], classes: Sequence[str]
) -> Callable[[str], np.ndarray]:
    index = {canonical(c): k for k, c in enumerate(classes)}

    def labels(name: str) -> np.ndarray:
        found = objects[name]
        if isinstance(found, UserError):
            raise found
        result = np.zeros(len(classes), bool)
        result[[k for k in (_class_of(o, index) for o in found) if k is not None]] = True
        return result

    return labels


def _unknown_objects(
    folder: Path, objects: Mapping[str, list[str] | UserError], classes: Sequence[str], ignore: Sequence[str]
) -> list[str]:
    """What is wrong where objects have names that are no class and that nobody said are meant."""
    index = {canonical(c): k for k, c in enumerate((*classes, *ignore))}
    images: dict[str, list[str]] = {}
    for name, found in objects.items():
        for unknown in {o for o in found if _class_of(o, index) is None} if isinstance(found, list) else ():
            images.setdefault(unknown, []).append(name)
    if not images:
        return []
    names = sorted(images, key=lambda n: (-len(images[n]), n))
    counts = ", ".join(f"{quoted(n)} (in {len(images[n])} images)" for n in names[:MOST])
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    example = f"{images[names[0]][0]}.xml{nearest(names[0], classes)}"
    return [
        f"{folder}: objects of names that are no class: {counts}{more}, as in {example}; "
        "put them into data.classes in the place of their mask value, or, where they are not to be learned, "
        f"{as_key(names[:MOST], 'ignore')}"
    ]


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
