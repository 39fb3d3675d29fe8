"""Many small PNG images in one file: what a stage stores for every image of a data set."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def voc_palette() -> list[int]:
    """The colours that VOC gives to the 256 mask values: 768 numbers, 0-255."""
    index = np.arange(256)
    channels = [sum(((index >> (3 * bit + c)) & 1) << (7 - bit) for bit in range(3)) for c in range(3)]
    return np.stack(channels, 1).ravel().tolist()


def encode_mask(mask: np.ndarray) -> Image.Image:
    """uint8 (h, w) of class indices as a palette image."""
    image = Image.fromarray(mask)
    image.putpalette(voc_palette())
    return image


def write(path: Path, images: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write (name, uint8 (h, w)) pairs as NAME.png into one uncompressed zip file.

    The time stamps inside are fixed, so equal images give equal bytes.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in images:
            buffer = io.BytesIO()
            encode_mask(array).save(buffer, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{name}.png"), buffer.getvalue())


def read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """uint8 (h, w) that was written under the name."""
    return decode(archive.read(f"{name}.png"))


def decode(png: bytes) -> np.ndarray:
    """uint8 (h, w) of one stored image."""
    return np.asarray(Image.open(io.BytesIO(png)))
