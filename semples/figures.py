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
    figure = Figure(figsize=(1.3 * len(titles) + 0.9, 1.36 * len(rows) + 0.45), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for (name, pictures), line in zip(rows.items(), axes, strict=True):
        for picture, axis in zip(pictures, line, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=9)
    for title, axis in zip(titles, axes[0], strict=True):
        axis.set_title(title, fontsize=8)
    figure.suptitle(caption, fontsize=9)
    # no time stamp and no version in the file: equal pictures, equal bytes
    figure.savefig(path, metadata={"Software": None})
