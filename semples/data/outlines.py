"""Outlines of objects as COCO's annotations have them: polygons, or run lengths down the columns of the image.

pycocotools decodes them in C without looking: NaN, infinite and far corners take all memory or crash, run lengths that
do not fill the image leave memory as it was. So every number is looked at before it goes there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as rle

from semples.errors import quoted

SHORTEST = 6  # numbers of a polygon: three corners
FAR = 20_000  # pixels: a corner further outside the image is a mistake, and drawing its edges would take seconds


def compress(segmentation: Any, h: int, w: int) -> Any:
    """Polygons or run lengths of one object -> compressed run lengths, a few dozen bytes; None where there is not one
    polygon with three corners, which is no pixel. Raises ValueError, in words, for what cannot be an outline."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, h, w)
        whole = [polygon for polygon in segmentation if len(polygon) >= SHORTEST]
        return rle.merge(rle.frPyObjects(whole, h, w)) if whole else None
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        raise ValueError(
            f"'segmentation' is neither a list of polygons nor run lengths with their size: {quoted(segmentation)}"
        )
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int for n in size):
        raise ValueError(f"'size' of its run lengths is not [height, width]: {quoted(size)}")
    if size != [h, w]:
        raise ValueError(
            f"its run lengths are of an image of {size[1]} x {size[0]} pixels, but the image has {w} x {h}"
        )
    runs = _decode(counts) if isinstance(counts, str) else _whole(counts)
    if len(runs) and runs.min() < 0:
        raise ValueError(f"a run length is negative: {int(runs.min())}")
    # a sum of Python's integers: that of numpy's could wrap round
    if (filled := sum(runs.tolist())) != h * w:
        raise ValueError(f"its run lengths do not fill the image: they end after {filled} of {h * w} pixels")
    if isinstance(counts, str):
        return {"size": size, "counts": counts}
    return rle.frPyObjects({"size": size, "counts": counts}, h, w)


def is_empty(outline: Any) -> bool:
    """Whether an object has no pixel at all."""
    return outline is None or rle.area(outline) == 0


def _check_polygon(polygon: Any, h: int, w: int) -> None:
    numbers = _numbers(polygon, "iuf")
    if numbers is None:
        raise ValueError(f"'segmentation' is not a list of polygons [x, y, x, y, ...]: {quoted(polygon)}")
    if len(numbers) % 2:
        raise ValueError(f"a polygon has {len(numbers)} numbers, and not an x and a y for each corner")
    if not np.isfinite(numbers).all():
        raise ValueError("a corner of its outline is NaN or infinite")
    if len(numbers) and (numbers.min() < -FAR or numbers[::2].max() > w + FAR or numbers[1::2].max() > h + FAR):
        furthest = numbers[np.abs(numbers.astype(float)).argmax()]
        raise ValueError(f"a corner of its outline is at {furthest:.6g}, far outside the image of {w} x {h} pixels")


def _whole(counts: Any) -> np.ndarray:
    runs = _numbers(counts, "i")
    if runs is None:
        raise ValueError(f"'counts' of its run lengths are no whole numbers: {quoted(counts)}")
    return runs


def _numbers(values: Any, kinds: str) -> np.ndarray | None:
    """A list of numbers of these kinds of numpy's, None if it is anything else."""
    try:
        numbers = np.asarray(values if isinstance(values, list) else None)
    except ValueError:  # lists of unequal length
        return None
    return numbers if numbers.ndim == 1 and (not len(numbers) or numbers.dtype.kind in kinds) else None


def _decode(text: str) -> np.ndarray:
    """The run lengths in COCO's string of characters 48..111: five bits each, the lowest first, the sixth where more
    follow, the fifth of the last is the sign; from the fourth number on, the difference to the last but one."""
    if not text.isascii():
        raise ValueError(f"the string of its run lengths is damaged: {quoted(text)}")
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    lengths = last - starts + 1
    whole = len(codes) and len(last) and last[-1] == len(codes) - 1 and lengths.max() <= 7  # 32 bits
    if not whole or codes.min() < 0 or codes.max() > 63:
        raise ValueError(f"the string of its run lengths is damaged: {quoted(text)}")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= np.where(codes[last] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):  # the first stands alone
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
