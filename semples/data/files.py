"""The files of a data set, read without trust: images, masks and text.

Nothing in them is executed, a pipe or a device is never opened, and whatever is damaged is one sentence with its path.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from semples.data.dataset import IGNORE
from semples.errors import UserError, cut

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # of these suffixes: no other decoder of Pillow is tried
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap width and height
SAVE_MASK = (
    "save masks as 8-bit grey or palette PNG whose values are the numbers of the classes: 0 background, 1..K, "
    "255 where nothing counts"
)


def is_there(path: Path) -> bool:
    """Whether there is anything of that name, be it a link to nothing: it is read or named, but never passed over."""
    return os.path.lexists(path)


def require_file(path: Path, what: str) -> None:
    """Raises UserError where the path is no file, or no regular one: to open a pipe or a device could wait for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        reason = "a link to a file that is not there" if is_there(path) else f"no such {what}"
        raise UserError(f"{path}: {reason}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {what} cannot be read ({cut(str(error))})") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UserError(f"{path}: expected the file of one {what}, found {kind}; replace it or take it off the lists")


@contextmanager
def opened(path: Path, what: str) -> Iterator[Image.Image]:
    """An image file, `what` being what it is to the user. Raises UserError, now or while it is decoded, if it is
    missing or broken (a truncated file is broken)."""
    require_file(path, what)
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = "no PNG, JPEG, BMP, TIFF or WebP with pixels in it"
        raise UserError(f"{path}: broken {what} ({reason}); replace it or take it off the lists") from None
    except PermissionError as error:
        raise UserError(f"{path}: {what} cannot be read ({error.strerror}); change its permissions") from None
    except Exception as error:  # the decoders raise almost anything on a damaged file
        reason = cut(str(error) or type(error).__name__)
        raise UserError(f"{path}: broken {what} ({reason}); replace it or take it off the lists") from None


def read_image(path: Path) -> np.ndarray:
    """uint8 (h, w, 3) of any image file: grey, palette, CMYK and transparent ones become RGB, EXIF rotation is applied.

    Raises UserError if it is missing, broken or has more than 8 bits a channel.
    """
    with opened(path, "image") as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{path}: has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def read_mask(path: Path, one_bit: bool = False) -> np.ndarray:
    """uint8 (h, w) of class indices from a palette or grey PNG; with `one_bit` also 0 and 1 from one of 1 bit. Raises
    UserError if it is missing, broken or cannot hold class indices."""
    with opened(path, "mask") as image:
        if image.mode == "1" and one_bit:
            return np.asarray(image).astype(np.uint8)
        if image.mode not in ("P", "L"):
            raise UserError(
                f"{path}: expected a palette or grey PNG of class indices, found mode {image.mode}; {SAVE_MASK}"
            )
        if image.format == "JPEG":
            raise UserError(f"{path}: JPEG changes the values of a mask; {SAVE_MASK}")
        return np.asarray(image)


def read_text(path: Path, what: str = "text") -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises UserError if it cannot be read."""
    require_file(path, what)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({cut(str(error))}); save it as such") from None


def expand(root: str) -> Path:
    """A data root with ~ resolved. Raises UserError where there is no such home."""
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.root '{cut(root)}': {error}; write the path in full") from None


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, hidden names left out; [] where there is no such folder. Raises UserError if it cannot be
    read."""
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: folder cannot be read ({error.strerror}); change its permissions") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; asks the file system about links alone."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


@dataclass(frozen=True)
class GroundTruth:
    """A true mask: `read()` gives uint8 (h, w) in 0..K and 255; `source` is the file that it is read from."""

    read: Callable[[], np.ndarray]
    source: Path


def read_ground_truth(ground_truth: GroundTruth, image: Path) -> np.ndarray:
    """The true mask of an image file. Raises UserError where their sizes differ."""
    mask = ground_truth.read()
    with opened(image, "image") as picture:
        size = picture.size[::-1] if picture.getexif().get(ORIENTATION, 1) in SIDEWAYS else picture.size
    if mask.shape != size[::-1]:
        raise UserError(
            f"{image}: the image has {size[0]} x {size[1]} pixels, its mask {mask.shape[1]} x {mask.shape[0]}"
        )
    return mask


def mask_file(
    path: Path | None, classes: int, values: Mapping[int, int] | None = None, hint: str = ""
) -> GroundTruth | None:
    """The ground truth in a PNG. values: file's value -> class where they are not 0..K already; hint: what to do
    otherwise.

    A mask of 1 bit says 0 and 1, which is enough where there is one class.
    """
    if path is None:
        return None
    known = dict(values) if values else {k: k for k in range(classes + 1)}
    known[IGNORE] = IGNORE
    table = np.full(256, -1, np.int16)
    table[list(known)] = list(known.values())

    def read() -> np.ndarray:
        stored = read_mask(path, one_bit=classes == 1 and not values)
        mask = table[stored]
        if (mask < 0).any():
            wrong = int(stored[mask < 0].min())
            raise UserError(f"{path}: value {wrong} is no class: expected {hint or f'0..{classes} and 255'}")
        return mask.astype(np.uint8)

    return GroundTruth(read, path)
