"""What a layout of files found, and the data set that is made of it.

A layout (`voc`, `coco`, `folder`) finds lists, images, labels and masks and says so in a `Listing`, together with what
contradicts itself in them; `assemble` makes the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semples.data.dataset import Dataset, Split
from semples.data.digests import file_digests
from semples.data.files import GroundTruth, read_ground_truth, read_image
from semples.data.names import Entry, Files, strays
from semples.digests import digest
from semples.errors import UserError, cut, quoted

FEW = 0.1  # share of images or masks up to which a contradiction is no reason to stop: real data sets have some


@dataclass(frozen=True)
class Listing:
    """What a layout found below its root.

    train: names to train on; measured: those of them whose masks measure and from which the holdout is drawn; test:
    names of the test set. image(name): path or None; sought(name): where it was looked for; mask(name): its ground
    truth, or None; labels(name): bool (K,), or UserError. layout, labels_from: for people, what was recognised and
    where labels come from.
    problems: what makes every run wrong; doubts: what must be put right, though some runs can do without; remarks: what
    was understood in one of several ways. One sentence each.
    """

    layout: str
    classes: tuple[str, ...]
    train: tuple[str, ...]
    measured: tuple[str, ...]
    test: tuple[str, ...]
    image: Callable[[str], Path | None]
    sought: Callable[[str], str]
    mask: Callable[[str], GroundTruth | None]
    labels: Callable[[str], np.ndarray]
    labels_from: str
    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """The images that are named: `find` and `sought` of a listing. also: another name that the file of one may have."""

    files: Files
    named: Mapping[str, Entry]
    also: Callable[[str], str] = lambda name: name

    def find(self, name: str) -> Path | None:
        """The file of an image. Raises UserError where two compete."""
        word = self.named[name].word if name in self.named else ""
        return self.files.find(name, word) or self.files.find(self.also(name), word)

    def sought(self, name: str) -> str:
        """Where an image is named, and where its file was looked for."""
        where = f"{self.named[name].where}: {quoted(self.named[name].word)}" if name in self.named else "by its mask"
        folders = " and ".join(str(folder) for folder in self.files.folders)
        return f"named in {where}; looked for in {folders}, with the suffix of an image"


def differently_named(files: Files, named: Mapping[str, Entry]) -> list[str]:
    """A remark where files have another suffix than the one by which they are named."""
    other = [(n, e) for n, e in named.items() if n in files and not files.has(e.word)]
    if not other:
        return []
    name, entry = other[0]
    return [
        f"{len(other)} images are named with another suffix than their file has, as in {entry.where}: "
        f"'{entry.word}', read is {files.paths_of(name)[0]}"
    ]


def stray_masks(
    masks: Files, images: Files, unmasked: int, also: Callable[[str], str] = lambda name: name
) -> tuple[list[str], list[str]]:
    """Doubts and remarks about masks that belong to no image: a doubt where there are many and images lack one.

    unmasked: number of images on the lists without a mask.
    """
    lost = strays(masks, images, also)
    if not lost:
        return [], []
    text = f"{len(lost)} of {len(masks)} masks belong to no image, as {lost[0]}"
    if unmasked and len(lost) > FEW * len(masks):
        return [f"{text}, and {unmasked} images have no mask; a mask has the name of its image (NAME.png)"], []
    return [], [text]


def draw_test(names: Sequence[str], test: int, seed: int, source: str, what: str) -> tuple[str, ...]:
    """`test` of the names. Raises UserError where that leaves none; source: what has no test set; what: the names."""
    if test >= len(names):
        raise UserError(
            f"{source}data.test = {test}, but only {len(names)} images {what}; choose a smaller one, as in "
            f"test={max(1, len(names) // 5)}"
        )
    drawn = np.random.default_rng([seed, 1]).choice(len(names), test, replace=False)
    return tuple(sorted(names[i] for i in drawn))


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


def assemble(listing: Listing, holdout: int, seed: int) -> Dataset:
    """Draw the holdout and read labels; images and masks are read when they are asked for.

    Raises UserError for a problem of the listing, a missing image, labels that are missing, or an image on two sides.
    """
    if listing.problems:
        raise UserError(f"data: {listing.problems[0]}")
    for part, names in (("training", listing.train), ("test", listing.test)):
        if not names and (part == "training" or listing.measured):
            raise UserError(f"data: the list of {part} images is empty; see `semples data check`")
    chosen, train = draw_holdout(listing, holdout, seed)
    if shared := ({*chosen, *train} & set(listing.test)):
        raise UserError(f"data: image '{cut(min(shared))}' is in the test set and also trained or chosen on")
    # pseudo masks of the other training images are not measured, even if they have a mask
    measured = {*listing.measured, *listing.test}
    content: list[bytes | str] = [listing.layout, *listing.classes]

    def split(names: Sequence[str]) -> Split:
        paths = []
        for name in names:
            path = listing.image(name)
            if path is None:
                raise UserError(
                    f"data: no image file for '{cut(name)}', though a list names it ({listing.sought(name)})"
                )
            paths.append(path)
        ground_truths = [listing.mask(name) if name in measured else None for name in names]
        labels = np.array([listing.labels(name) for name in names], bool).reshape(len(names), len(listing.classes))
        sha = file_digests([*paths, *(ground_truth.source for ground_truth in ground_truths if ground_truth)])
        for name, path, ground_truth in zip(names, paths, ground_truths, strict=True):
            content.extend((name, sha[path], sha[ground_truth.source] if ground_truth else ""))
        content.append(labels.tobytes())

        def true_mask(i: int) -> np.ndarray | None:
            ground_truth = ground_truths[i]
            return read_ground_truth(ground_truth, paths[i]) if ground_truth else None

        has_mask = tuple(i for i, ground_truth in enumerate(ground_truths) if ground_truth)
        return Split(tuple(names), labels, lambda i: read_image(paths[i]), true_mask, has_mask)

    parts = [split(names) for names in (train, chosen, listing.test)]
    return Dataset(listing.classes, parts[0], parts[1], parts[2], digest(*content), listing.doubts)
