"""Look through a data set of files before anything is trained on it (`semples data check`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semples.config import DataConfig, ScenesData, parse
from semples.data import LAYOUTS
from semples.data.files import Listing, draw_holdout, read_image, read_truth
from semples.errors import UserError


def recognise(root: Path, changes: Mapping[str, Any] = {}) -> DataConfig:
    """The section `data` for a folder, its layout recognised by what is in it; `changes` are keys of that section.

    Raises UserError where it looks like no layout.
    """
    kind = next((kind for kind, layout in LAYOUTS.items() if layout.recognises(root)), None)
    if kind is None:
        raise UserError(
            f"{root}: no layout that is known; needed are JPEGImages/ and ImageSets/ (VOC), annotations/, voc_format/ "
            "or SegmentationClass/train2014/ (COCO), or images/ with labels.csv or masks/ (a plain folder)"
        )
    return parse({"data": {"kind": kind, "root": str(root), **changes}}, "data check").data


@dataclass(frozen=True)
class Report:
    """What a data set holds and what is wrong with it.

    images: by part (train, holdout, test) the number of images, and of those with a true mask; counts: by part, images
    a class, int (K,); problems: one sentence each.
    """

    listing: Listing
    images: dict[str, tuple[int, int]]
    counts: dict[str, np.ndarray]
    problems: tuple[str, ...]


def check(config: DataConfig, progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read every label, image and mask. Raises UserError where not even the lists can be read."""
    if isinstance(config, ScenesData):
        raise UserError("scenes are drawn: there is nothing to check")
    listing: Listing = LAYOUTS[config.kind].read_listing(config)
    problems: list[str] = []
    try:
        chosen, train = draw_holdout(listing, config.holdout, config.seed)
    except UserError as error:
        problems.append(str(error))
        chosen, train = (), listing.train
    parts = {"train": train, "holdout": chosen, "test": listing.test}
    if shared := {*train, *chosen} & set(listing.test):
        problems.append(
            f"image '{min(shared)}' and {len(shared) - 1} more are in the test set and also trained or chosen on"
        )
    measured = {*listing.measured, *listing.test}

    def examine(name: str) -> tuple[np.ndarray, bool, str]:
        """Labels, whether there is a true mask, and what is wrong ("" = nothing)."""
        labels, truth = np.zeros(len(listing.classes), bool), None
        try:
            labels = listing.labels(name)
            path = listing.image(name)
            if path is None:
                raise UserError(f"image '{name}' is on a list but there is no such file")
            read_image(path)
            truth = listing.mask(name) if name in measured else None
            if truth is not None:
                read_truth(truth, path)
            if not labels.any() and name not in listing.test:
                raise UserError(f"image '{name}' shows no class; take it off the lists it is trained on")
        except UserError as error:
            return labels, truth is not None, str(error)
        return labels, truth is not None, ""

    images, counts = {}, {}
    total, done = sum(len(names) for names in parts.values()), 0
    with ThreadPoolExecutor() as pool:
        for part, names in parts.items():
            count, masks = np.zeros(len(listing.classes), int), 0
            for labels, masked, problem in pool.map(examine, names):
                count += labels
                masks += masked
                problems.extend([problem] if problem else [])
                done += 1
                progress(done, total)
            images[part], counts[part] = (len(names), masks), count
    absent = [c for c, n in zip(listing.classes, counts["train"], strict=True) if n == 0]
    problems.extend(f"no training image shows the class '{c}'; add some or take the class away" for c in absent)
    if any(masks for _, masks in images.values()):  # with none at all it is a data set for selection=proxy
        problems.extend(
            f"no {part} image has a true mask, so nothing can be measured there; add a few, or take selection=proxy"
            for part, (_, masks) in images.items()
            if masks == 0
        )
    return Report(listing, images, counts, tuple(problems))
