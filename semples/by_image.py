"""What single images say of an mIoU. It is kept beside the figure, so that others can ask how sure that is."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from semples.errors import UserError, cut

FILE = "by_image.npz"


def write(folder: Path, of_metrics: Mapping[str, Sequence[np.ndarray] | np.ndarray]) -> None:
    """of_metrics: by metric the areas (3, K+1) of each image that it is measured on (semples.metrics.areas)."""
    arrays = {name: np.array(of_images, np.uint32) for name, of_images in of_metrics.items() if len(of_images)}
    np.savez_compressed(folder / FILE, allow_pickle=False, **arrays)


def read(folder: Path) -> dict[str, np.ndarray]:
    """By metric the areas of its images, (N, 3, K+1); empty where none were kept. Raises UserError for a damaged
    file."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name].astype(np.int64) for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({cut(str(error))}); delete it") from None
