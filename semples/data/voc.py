"""PASCAL VOC 2012, or any data set in its layout:

    ROOT/JPEGImages/NAME.jpg (or .png)      ROOT/ImageSets/Segmentation/LIST.txt
    ROOT/SegmentationClassAug/NAME.png or ROOT/SegmentationClass/NAME.png

Image labels come from the first of these that is there: ROOT/cls_labels.npy or cls_labels_onehot.npy (a dictionary from
name to K-vector), ROOT/Annotations/NAME.xml, the masks.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, UnidentifiedImageError

from semples.config import VocData
from semples.data.archive import encode_mask
from semples.data.dataset import IGNORE, Dataset, Split, digest, file_digest
from semples.errors import UserError

LISTS = Path("ImageSets/Segmentation")
XML_NAMES = {"person": "player", "tvmonitor": "tv monitor"}


def read_image(path: Path) -> np.ndarray:
    """uint8 (h, w, 3) of any image file. Raises UserError if it is missing or broken."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: broken image ({error}); replace it or take it off the lists") from None


def read_mask(path: Path) -> np.ndarray:
    """uint8 (h, w) of class indices from a palette or grey PNG. Raises UserError if it is missing or broken."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise UserError(f"{path}: expected a palette or grey PNG of class indices, found mode {image.mode}")
            return np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such mask") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: broken mask ({error}); replace it") from None


def _names(root: Path, name: str) -> list[str]:
    path = root / LISTS / f"{name}.txt"
    if not path.is_file():
        raise UserError(f"{path}: no such list of images; see data.{{train,mask,test}}_list")
    # a line is "name", or "path/to/name.jpg path/to/name.png" as some lists of train_aug have it
    return [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]


def _find(folders: Sequence[Path], name: str) -> Path | None:
    candidates = (folder / f"{name}{end}" for folder in folders for end in (".jpg", ".png"))
    return next((path for path in candidates if path.is_file()), None)


def _label_reader(root: Path, classes: Sequence[str]) -> Callable[[str, Path | None], np.ndarray]:
    """Name and mask path -> bool (K,), from the first source of labels that the data set has."""
    path = next((root / file for file in ("cls_labels.npy", "cls_labels_onehot.npy") if (root / file).is_file()), None)
    if path is not None:
        try:
            table = np.load(path, allow_pickle=True).item()
        except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{path}: expected a dictionary from image name to labels ({error})") from None

        def from_table(name: str, mask: Path | None) -> np.ndarray:
            if name not in table or len(table[name]) != len(classes):
                raise UserError(f"{path}: no vector of {len(classes)} labels for image '{name}'")
            return np.asarray(table[name]) > 0

        return from_table
    if (root / "Annotations").is_dir():
        index = {c: k for k, c in enumerate(classes)}

        def from_xml(name: str, mask: Path | None) -> np.ndarray:
            path = root / "Annotations" / f"{name}.xml"
            try:
                objects = [node.text or "" for node in ElementTree.parse(path).findall("object/name")]
            except (OSError, ElementTree.ParseError) as error:
                raise UserError(f"{path}: annotation cannot be read ({error})") from None
            labels = np.zeros(len(classes), bool)
            known = (o if o in index else XML_NAMES.get(o, o) for o in objects)
            labels[[index[name] for name in known if name in index]] = True
            return labels

        return from_xml

    def from_mask(name: str, mask: Path | None) -> np.ndarray:
        if mask is None:
            raise UserError(f"{root}: image '{name}' has no labels: no cls_labels.npy, no Annotations, no mask")
        present = np.unique(read_mask(mask))
        return np.isin(np.arange(1, len(classes) + 1), present)

    return from_mask


@lru_cache(maxsize=4)
def load(config: VocData) -> Dataset:
    """Read lists, labels and paths; images and masks are read when they are asked for."""
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root '{config.root}' is not a folder; give the one that holds JPEGImages")
    masked = _names(root, config.mask_list)
    if config.holdout >= len(masked):
        raise UserError(
            f"data.holdout = {config.holdout} leaves no image of the {len(masked)} in {config.mask_list}.txt"
        )
    chosen = np.random.default_rng(config.seed).choice(len(masked), config.holdout, replace=False)
    holdout = sorted(masked[i] for i in chosen)
    apart = set(holdout)
    train = [n for n in _names(root, config.train_list) if n not in apart]
    test = _names(root, config.test_list)
    if shared := (apart | set(train)) & set(test):
        raise UserError(f"data: image '{min(shared)}' is on {config.test_list}.txt and also trained or chosen on")
    measured = {*masked, *test}  # pseudo masks of the other training images are not measured, even if they have a mask
    reader = _label_reader(root, config.classes)
    content: list[bytes | str] = ["voc", *config.classes]

    def split(names: list[str]) -> Split:
        images = [_find([root / "JPEGImages"], n) for n in names]
        masks = [_find([root / "SegmentationClassAug", root / "SegmentationClass"], n) for n in names]
        for name, path in zip(names, images, strict=True):
            if path is None:
                raise UserError(f"{root / 'JPEGImages' / name}.jpg: no such image, though a list names it")
        labels = np.stack([reader(n, m) for n, m in zip(names, masks, strict=True)])
        for name, image, mask in zip(names, images, masks, strict=True):
            content.extend((name, file_digest(image) if image else "", file_digest(mask) if mask else ""))
        content.append(labels.tobytes())

        def true_mask(i: int) -> np.ndarray | None:
            path = masks[i]
            if path is None or names[i] not in measured:
                return None
            mask = read_mask(path)
            wrong = set(np.unique(mask)) - {*range(len(config.classes) + 1), IGNORE}
            if wrong:
                raise UserError(f"{path}: value {min(wrong)} is no class: expected 0..{len(config.classes)} and 255")
            return mask

        has_mask = tuple(i for i, path in enumerate(masks) if path is not None and names[i] in measured)
        return Split(tuple(names), labels, lambda i: read_image(images[i] or root), true_mask, has_mask)

    parts = [split(names) for names in (train, holdout, test)]
    return Dataset(config.classes, parts[0], parts[1], parts[2], digest(*content))


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
