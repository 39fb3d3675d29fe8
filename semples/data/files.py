"""Data sets of image files: what the layouts `voc`, `coco` and `folder` have in common.

A layout finds lists, images, labels and masks and says so in a `Listing`; `assemble` makes the data set of it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from semples.data.dataset import IGNORE, Dataset, Split, digest
from semples.data.digests import file_digests
from semples.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap width and height
LABEL_TABLES = ("cls_labels.npy", "cls_labels_onehot.npy")


@contextmanager
def opened(path: Path, what: str) -> Iterator[Image.Image]:
    """An image file, `what` being what it is to the user. Raises UserError, now or while it is decoded, if it is
    missing or broken (a truncated file is broken)."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: broken {what} ({error}); replace it or take it off the lists") from None


def read_image(path: Path) -> np.ndarray:
    """uint8 (h, w, 3) of any image file: grey, palette, CMYK and transparent ones become RGB, EXIF rotation is applied.

    Raises UserError if it is missing, broken or has more than 8 bits a channel.
    """
    with opened(path, "image") as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{path}: has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """uint8 (h, w) of class indices from a palette or grey PNG. Raises UserError if it is missing or broken."""
    with opened(path, "mask") as image:
        if image.mode not in ("P", "L"):
            raise UserError(f"{path}: expected a palette or grey PNG of class indices, found mode {image.mode}")
        return np.asarray(image)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); save it as such") from None


def image_name(word: str) -> str:
    """The name of an image in a list: without folders and without the suffix of an image."""
    path = PurePath(word)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def read_list(path: Path) -> tuple[str, ...]:
    """Image names of a list, each once: a line is a name, or "path/to/name.jpg path/to/name.png" as some have it."""
    words: dict[str, str] = {}
    for line in read_text(path).splitlines():
        if line.strip():
            word = line.split()[0]
            if words.setdefault(image_name(word), word) != word:
                raise UserError(f"{path}: '{word}' and '{words[image_name(word)]}' have the same name; rename one")
    return tuple(words)


def index_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Image files of the folders by name; of two with one name, that of the earlier folder and suffix counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES] if folder.is_dir() else []
        for path in sorted(paths, key=lambda p: (SUFFIXES.index(p.suffix.lower()), p.name)):
            found.setdefault(path.stem, path)
    return found


@dataclass(frozen=True)
class Truth:
    """A true mask: `read()` gives uint8 (h, w) in 0..K and 255; `source` is the file that it is read from."""

    read: Callable[[], np.ndarray]
    source: Path


@dataclass(frozen=True)
class Listing:
    """What a layout found below its root.

    train: names to train on; measured: those of them whose masks measure and from which the holdout is drawn; test:
    names of the test set. image(name): path or None; mask(name): truth or None; labels(name): bool (K,), or UserError.
    layout, labels_from: for people, what was recognised and where the image labels come from.
    """

    layout: str
    classes: tuple[str, ...]
    train: tuple[str, ...]
    measured: tuple[str, ...]
    test: tuple[str, ...]
    image: Callable[[str], Path | None]
    mask: Callable[[str], Truth | None]
    labels: Callable[[str], np.ndarray]
    labels_from: str


def read_truth(truth: Truth, image: Path) -> np.ndarray:
    """The true mask of an image file. Raises UserError where their sizes differ."""
    mask = truth.read()
    with opened(image, "image") as picture:
        size = picture.size[::-1] if picture.getexif().get(ORIENTATION, 1) in SIDEWAYS else picture.size
    if mask.shape != size[::-1]:
        raise UserError(
            f"{image}: the image has {size[0]} x {size[1]} pixels, its mask {mask.shape[1]} x {mask.shape[0]}"
        )
    return mask


def mask_file(path: Path | None, classes: int, values: Mapping[int, int] | None = None, hint: str = "") -> Truth | None:
    """The truth in a PNG. values: file's value -> class where they are not 0..K already; hint: what to do otherwise."""
    if path is None:
        return None
    known = dict(values) if values else {k: k for k in range(classes + 1)}
    known[IGNORE] = IGNORE
    table = np.full(256, -1, np.int16)
    table[list(known)] = list(known.values())

    def read() -> np.ndarray:
        stored = read_mask(path)
        mask = table[stored]
        if (mask < 0).any():
            wrong = int(stored[mask < 0].min())
            raise UserError(f"{path}: value {wrong} is no class: expected {hint or f'0..{classes} and 255'}")
        return mask.astype(np.uint8)

    return Truth(read, path)


def labels_from_table(path: Path, classes: int, columns: Sequence[int] = ()) -> Callable[[str], np.ndarray]:
    """Labels from a .npy dictionary: image name (or name.jpg) -> K numbers, above 0 = in the image.

    columns: those of a wider vector that are the K classes.
    """
    try:
        table = np.load(path, allow_pickle=True).item()
        known = {image_name(str(name)): np.asarray(vector) > 0 for name, vector in table.items()}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: expected a dictionary from image name to labels ({error})") from None

    def labels(name: str) -> np.ndarray:
        vector = known.get(name)
        if vector is not None and columns and len(vector) > max(columns) >= classes:
            vector = vector[list(columns)]
        if vector is None or vector.shape != (classes,):
            raise UserError(f"{path}: no vector of {classes} labels for image '{name}'")
        return vector

    return labels


def labels_from_masks(mask: Callable[[str], Truth | None], classes: int) -> Callable[[str], np.ndarray]:
    """Labels from the true masks: a class is in an image where one pixel is of it."""

    @cache
    def labels(name: str) -> np.ndarray:
        truth = mask(name)
        if truth is None:
            raise UserError(f"image '{name}' has neither labels nor a mask; give labels or take it off the lists")
        return np.isin(np.arange(1, classes + 1), np.unique(truth.read()))

    return labels


def check_classes(classes: Sequence[str], source: str) -> None:
    """Raises UserError where a name is there twice or there are more classes than 8-bit masks can tell apart."""
    twice = {name for name in classes if classes.count(name) > 1}
    if twice:
        raise UserError(f"{source}: class '{min(twice)}' is there twice; keep one")
    if not 1 <= len(classes) < IGNORE:
        raise UserError(f"{source}: {len(classes)} classes; there must be 1 to {IGNORE - 1}")


def assemble(listing: Listing, holdout: int, seed: int) -> Dataset:
    """Draw the holdout and read labels; images and masks are read when they are asked for.

    Raises UserError for a missing image, labels that are missing, or an image on two sides.
    """
    for part, names in (("training", listing.train), ("test", listing.test)):
        if not names and (part == "training" or listing.measured):
            raise UserError(f"data: the list of {part} images is empty; see `semples data check`")
    chosen, train = draw_holdout(listing, holdout, seed)
    if shared := ({*chosen, *train} & set(listing.test)):
        raise UserError(f"data: image '{min(shared)}' is in the test set and also trained or chosen on")
    # pseudo masks of the other training images are not measured, even if they have a mask
    measured = {*listing.measured, *listing.test}
    content: list[bytes | str] = [listing.layout, *listing.classes]

    def split(names: Sequence[str]) -> Split:
        paths = []
        for name in names:
            path = listing.image(name)
            if path is None:
                raise UserError(f"data: no image file for '{name}', though a list names it; see `semples data check`")
            paths.append(path)
        truths = [listing.mask(name) if name in measured else None for name in names]
        labels = np.array([listing.labels(name) for name in names], bool).reshape(len(names), len(listing.classes))
        sha = file_digests([*paths, *(truth.source for truth in truths if truth)])
        for name, path, truth in zip(names, paths, truths, strict=True):
            content.extend((name, sha[path], sha[truth.source] if truth else ""))
        content.append(labels.tobytes())

        def true_mask(i: int) -> np.ndarray | None:
            truth = truths[i]
            return read_truth(truth, paths[i]) if truth else None

        has_mask = tuple(i for i, truth in enumerate(truths) if truth)
        return Split(tuple(names), labels, lambda i: read_image(paths[i]), true_mask, has_mask)

    parts = [split(names) for names in (train, chosen, listing.test)]
    return Dataset(listing.classes, parts[0], parts[1], parts[2], digest(*content))


def draw_holdout(listing: Listing, holdout: int, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the holdout, drawn from the measured training images (from all where none has a mask), and of the other
    training images."""
    measured = listing.measured or listing.train
    if holdout >= len(measured):
        raise UserError(
            f"data.holdout = {holdout} leaves no image to measure on of the {len(measured)} training images "
            f"{'that have masks' if listing.measured else '(none has a mask)'}; choose a smaller one"
        )
    drawn = np.random.default_rng(seed).choice(len(measured), holdout, replace=False)
    chosen = tuple(sorted(measured[i] for i in drawn))
    apart = set(chosen)
    return chosen, tuple(name for name in listing.train if name not in apart)
