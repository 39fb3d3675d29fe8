"""Look through a data set of files before anything is trained on it (`semples data check`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semples import data, registry
from semples.config import DataConfig, ScenesData, override, parse
from semples.data import coco
from semples.data.contradictions import Seen, compare, look
from semples.data.files import read_ground_truth, read_image
from semples.data.listing import Listing, draw_holdout
from semples.errors import UserError, cut


def recognise(root: Path, changes: Mapping[str, Any] = {}) -> DataConfig:
    """The section `data` for a folder, its layout recognised by what is in it; `changes` are keys of that section.

    Raises UserError where it looks like no layout.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds the data set")
    found = registry.known(data.GROUP, data.LAYOUTS)
    layouts = {kind: registry.load(entry, "data.kind") for kind, entry in found.items()}
    kind = next((kind for kind, of in layouts.items() if hasattr(of, "recognises") and of.recognises(root)), None)
    if kind is None:
        raise UserError(
            f"{root}: no layout that is known; needed are JPEGImages/ and ImageSets/ (VOC), annotations/, voc_format/ "
            "or SegmentationClass/train2014/ (COCO), or images/ with labels.csv or masks/ (a plain folder)"
            f"{coco.unknown_annotations(root)}"
        )
    section = {"data": {"kind": kind, "root": str(root)}}
    return parse(override(section, {f"data.{key}": value for key, value in changes.items()}), "data check").data


@dataclass(frozen=True)
class Report:
    """What a data set holds and what is wrong with it.

    images: by part (train, holdout, test) the number of images, and of those with a true mask; counts: by part, images
    a class, int (K,); problems: what must be put right, remarks: what is good to know; one sentence each.
    """

    listing: Listing
    images: dict[str, tuple[int, int]]
    counts: dict[str, np.ndarray]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """What there is of an image: its labels, whether it has a true mask that measures, and what both say or what is
    wrong ("" = nothing)."""

    labels: np.ndarray
    annotated: bool
    seen: Seen | None = None
    problem: str = ""


def check(config: DataConfig, progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read every label, image and mask. Raises UserError where not even the lists can be read."""
    layout = data.layout(config)
    if isinstance(config, ScenesData) or not hasattr(layout, "read_listing"):
        raise UserError(f"data of the kind {cut(config.kind)} lists no files, so there is nothing to check")
    listing: Listing = layout.read_listing(config)
    problems: list[str] = [*listing.problems, *listing.doubts]
    try:
        chosen, train = draw_holdout(listing, config.holdout, config.seed)
    except UserError as error:
        problems.append(str(error))
        chosen, train = (), listing.train
    parts = {"train": train, "holdout": chosen, "test": listing.test}
    test = set(listing.test)
    if shared := {*train, *chosen} & test:
        problems.append(
            f"image '{cut(min(shared))}' and {len(shared) - 1} more are in the test set and also trained or chosen on"
        )
    measured = {*listing.measured, *listing.test}
    seen: dict[str, list[Seen]] = {part: [] for part in parts}
    single: list[str] = []  # what is wrong with one image
    images, counts = {}, {}
    total, done = sum(len(names) for names in parts.values()), 0
    with ThreadPoolExecutor() as pool:
        for part, names in parts.items():
            count, masks = np.zeros(len(listing.classes), int), 0
            for found in pool.map(lambda name: _examine(listing, name, name in measured, name in test), names):
                count += found.labels
                masks += found.annotated
                seen[part].extend([found.seen] if found.seen else [])
                single.extend([found.problem] if found.problem else [])
                done += 1
                progress(done, total)
            images[part], counts[part] = (len(names), masks), count
    contradictions, few = compare(listing.classes, seen)
    problems += [*contradictions, *single]
    absent = [c for c, n in zip(listing.classes, counts["train"], strict=True) if n == 0]
    problems.extend(f"no training image shows the class '{c}'; add some or take the class away" for c in absent)
    if any(masks for _, masks in images.values()):  # with none at all it is a data set for selection=proxy
        problems.extend(
            f"no {part} image has a true mask, so nothing can be measured there; add a few, or take selection=proxy"
            for part, (_, masks) in images.items()
            if masks == 0
        )
    return Report(listing, images, counts, tuple(problems), (*listing.remarks, *few))


def _examine(listing: Listing, name: str, measures: bool, tests: bool) -> _Found:
    """Read what there is of an image."""
    labels, annotated = np.zeros(len(listing.classes), bool), False
    try:
        labels = listing.labels(name)
        path = listing.image(name)
        if path is None:
            raise UserError(f"image '{cut(name)}' is on a list but there is no such file ({listing.sought(name)})")
        read_image(path)
        ground_truth = listing.mask(name)
        annotated = ground_truth is not None and measures
        seen = look(name, labels, read_ground_truth(ground_truth, path)) if ground_truth is not None else None
        if not labels.any() and not tests:
            raise UserError(f"image '{cut(name)}' shows no class; take it off the lists it is trained on")
    except UserError as error:
        return _Found(labels, annotated, None, str(error))
    return _Found(labels, annotated, seen)
