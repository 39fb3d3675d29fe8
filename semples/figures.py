"""Pictures for people: what went in, what each stage made of it, what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from semples.data.dataset import IGNORE, Split
from semples.data.png_archive import voc_palette

# ten bright colours for the first classes, VOC's for the others
PALETTE = np.array(voc_palette(), np.uint8).reshape(256, 3)
BRIGHT = "1f9bff ff8c1a 2ecc40 ff3b30 b28dff ffd60a ff5fbf 00e0d0 c6ff4d ff9e80"
PALETTE[1:11] = [list(bytes.fromhex(colour)) for colour in BRIGHT.split()]


def paint_cam(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Image uint8 (h, w, 3) under its strongest heatmap of uint8 (P, h, w), as colours from blue to red."""
    heat = 255 * colormaps["jet"](heatmaps.max(0))[..., :3]
    return (0.45 * image + 0.55 * heat).astype(np.uint8)


def paint_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image uint8 (h, w, 3) with the classes of the mask (h, w) in colour; 255 (ignore) in white."""
    colour = np.where((mask == IGNORE)[..., None], 255, PALETTE[mask])
    return np.where((mask > 0)[..., None], 0.25 * image + 0.75 * colour, 0.55 * image).astype(np.uint8)


def choose_examples(split: Split, count: int) -> list[int]:
    """Up to `count` images, with true masks if there are any: every class once before any twice, few objects first."""
    order = sorted(range(len(split)), key=lambda i: (int(split.labels[i].sum()), i))
    chosen: list[int] = []
    shown = np.zeros(split.labels.shape[1], int)
    while order and len(chosen) < count:
        i = min(order, key=lambda i: shown[split.labels[i]].min() if split.labels[i].any() else 99)
        order.remove(i)
        if not split.annotated or split.mask(i) is not None:
            chosen.append(i)
            shown += split.labels[i]
    return chosen


def gallery(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str], caption: str, path: Path) -> None:
    """One row of pictures uint8 (h, w, 3) for each name, one column for each title, as a PNG."""
    # inches; one pair of axes for all, because each one takes as long as to draw the pictures of a trial
    cell, left, top = 1.3, 0.35, 0.5
    width, height = left + cell * len(titles), top + cell * len(rows)
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for row, (name, pictures) in enumerate(rows.items()):
        middle = height - top - (row + 0.5) * cell
        axes.text(left / 2, middle, name, fontsize=9, rotation=90, ha="center", va="center")
        for column, picture in enumerate(pictures):
            centre = left + (column + 0.5) * cell
            h, w = (0.475 * cell * side / max(picture.shape[:2]) for side in picture.shape[:2])
            axes.imshow(picture, interpolation="nearest", extent=(centre - w, centre + w, middle - h, middle + h))
    for column, title in enumerate(titles):
        axes.text(left + (column + 0.5) * cell, height - 0.8 * top, title, fontsize=8, ha="center", va="center")
    axes.text(width / 2, height - 0.3 * top, caption, fontsize=9, ha="center", va="center")
    axes.set(xlim=(0, width), ylim=(0, height))
    # no time stamp and no version in the file: equal pictures, equal bytes
    figure.savefig(path, metadata={"Software": None})
