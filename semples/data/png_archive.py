"""Many small PNG images in one file: what a stage stores for every image of a data set."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

FILE = "images.zip"  # of a stage's result that holds one


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


def write(path: Path, images: Iterable[tuple[str, Image.Image]]) -> None:
    """Write (name, image) pairs as NAME.png into one uncompressed zip file.

    The time stamps inside are fixed, so equal images give equal bytes.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in images:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{name}.png"), buffer.getvalue())


class Reader:
    """The images of such files, read one by one; a file is opened once in every process that reads from it."""

    def __init__(self, *paths: Path):
        self.paths = paths
        self._opened: tuple[int, dict[str, zipfile.ZipFile]] | None = None

    def read(self, name: str) -> np.ndarray:
        """uint8 (h, w) that was written under the name."""
        if self._opened is None or self._opened[0] != os.getpid():
            archives = [zipfile.ZipFile(path) for path in self.paths]
            self._opened = os.getpid(), {member: archive for archive in archives for member in archive.namelist()}
        member = f"{name}.png"
        # not by Image.open, which refuses the stacked heatmaps of a large photo
        return np.asarray(PngImageFile(io.BytesIO(self._opened[1][member].read(member))))

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_opened": None}
