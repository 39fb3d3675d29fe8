"""Outlines of COCO's objects: what is sound is drawn as pycocotools draws it, what cannot be never reaches its C."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from trees import COCO_NUMBERS, load, report_of, write_coco_official

from semples.data.outlines import compress, is_empty
from semples.errors import UserError

H, W = 48, 64


def drawn(segmentation: Any) -> np.ndarray:
    return np.asarray(rle.decode(compress(segmentation, H, W)))


def test_polygons_are_drawn_as_pycocotools_draws_them() -> None:
    """Inside, partly and far outside, some as whole numbers."""
    rng = np.random.default_rng(0)
    for i in range(300):
        low, high = ((0, 48), (-50, 900), (-3000, 3000), (-15_000, 15_000))[i % 4]
        polygons = [rng.uniform(low, high, 2 * rng.integers(3, 9)).tolist() for _ in range(rng.integers(1, 4))]
        if i % 3 == 0:
            polygons = [[int(x) for x in polygon] for polygon in polygons]
        expected = rle.decode(rle.merge(rle.frPyObjects(polygons, H, W)))
        assert (drawn(polygons) == expected).all()
        assert (drawn([*polygons, [1, 2], []]) == expected).all()  # what has no three corners is no pixel


def test_run_lengths_are_what_was_encoded() -> None:
    rng = np.random.default_rng(1)
    for share in (0, 0.001, 0.1, 0.5, 0.99, 1):
        mask = np.asfortranarray((rng.random((H, W)) < share).astype(np.uint8))
        code = rle.encode(mask)
        text = {"size": [H, W], "counts": code["counts"].decode()}
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]])))
        runs = np.diff(np.concatenate([[0], edges[edges < mask.size], [mask.size]])).tolist()
        assert (drawn(text) == mask).all() and (drawn({"size": [H, W], "counts": runs}) == mask).all()
        assert is_empty(compress(text, H, W)) == (not mask.any())
    large = np.zeros((3000, 2000), np.uint8, order="F")
    large[100:2900, 3:1999] = 1
    code = rle.encode(large)
    assert compress({"size": [3000, 2000], "counts": code["counts"].decode()}, 3000, 2000) is not None


BAD: dict[str, tuple[Any, str]] = {
    "NaN": ([[0, 0, 5, float("nan"), 5, 5]], "NaN or infinite"),
    "infinite": ([[0, 0, 5, float("inf"), 5, 5]], "NaN or infinite"),
    "far": ([[0, 0, 1e7, 0, 5, 5]], r"at 1e\+07, far outside the image of 64 x 48"),
    "far to the left": ([[0, 0, -1e300, 0, 5, 5]], "far outside"),
    "a number of many digits": ([[0, 0, 10**30, 0, 5, 5]], "not a list of polygons"),
    "odd": ([[0, 0, 5, 0, 5, 5, 7]], "has 7 numbers"),
    "odd and short": ([[0, 0, 5]], "has 3 numbers"),
    "flat": ([0, 0, 5, 0, 5, 5], "not a list of polygons"),
    "pairs": ([[[0, 0], [5, 0], [5, 5]]], "not a list of polygons"),
    "unequal": ([[[0, 0], 5]], "not a list of polygons"),
    "words": ([["0", "0", "5", "0", "5", "5"]], "not a list of polygons"),
    "nothing": ([[None] * 6], "not a list of polygons"),
    "flags": ([[True, False] * 3], "not a list of polygons"),
    "a word": ("1 2 3", "neither a list of polygons nor run lengths"),
    "null": (None, "neither a list of polygons"),
    "no size": ({"counts": [H * W]}, "neither a list of polygons"),
    "short": ({"size": [H, W], "counts": [100, 20]}, "end after 120 of 3072 pixels"),
    "long": ({"size": [H, W], "counts": [100, H * W]}, "end after 3172 of 3072"),
    "none": ({"size": [H, W], "counts": []}, "end after 0 of"),
    "negative": ({"size": [H, W], "counts": [-1, H * W + 1]}, "negative: -1"),
    "wraps round": ({"size": [H, W], "counts": [2**63 - 1, 2**63 - 1, H * W + 2]}, "do not fill"),
    "fractions": ({"size": [H, W], "counts": [0.5, H * W - 0.5]}, "no whole numbers"),
    "turned": ({"size": [W, H], "counts": [H * W]}, "of an image of 48 x 64 pixels, but the image has 64 x 48"),
    "size of words": ({"size": ["48", "64"], "counts": [H * W]}, r"not \[height, width\]"),
    "size too short": ({"size": [48], "counts": [H * W]}, r"not \[height, width\]"),
    "negative size": ({"size": [-48, -64], "counts": [H * W]}, "of an image of -64 x -48"),
    "counts of nothing": ({"size": [H, W], "counts": None}, "no whole numbers"),
    "an empty string": ({"size": [H, W], "counts": ""}, "is damaged"),
    "an open string": ({"size": [H, W], "counts": "PPP"}, "is damaged"),
    "a string without end": ({"size": [H, W], "counts": "o" * 50 + "0"}, "is damaged"),
    "another alphabet": ({"size": [H, W], "counts": "Ünicode"}, "is damaged"),
    "control characters": ({"size": [H, W], "counts": "\x01\x02"}, "is damaged"),
    "a short string": ({"size": [H, W], "counts": "0"}, "do not fill"),
}


@pytest.mark.parametrize("kind", BAD)
def test_outlines_that_cannot_be(kind: str) -> None:
    segmentation, message = BAD[kind]
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        compress(segmentation, H, W)
    assert str(error.value).isprintable() and time.perf_counter() - start < 0.5


@pytest.mark.parametrize("kind", ["NaN", "far", "short", "turned", "a short string"])
def test_the_file_and_the_annotation_are_named(tmp_path: Path, kind: str) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    segmentation, _ = BAD[kind]
    content["annotations"][5] |= {"id": 815, "segmentation": segmentation}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{path.name}: .*annotation id 815 \(image 'train-.*'\): ") as error:
        load(config)
    assert len(str(error.value)) < 500
    with pytest.raises(UserError, match="annotation id 815"):
        report_of(config)


def test_damaged_strings_never_reach_the_decoder() -> None:
    """What passes fills the image exactly: it can be decoded."""
    rng, random_ = np.random.default_rng(2), random.Random(2)
    good = rle.encode(np.asfortranarray((rng.random((H, W)) < 0.2).astype(np.uint8)))["counts"].decode()
    passed = 0
    for _ in range(4000):
        text = list(good)
        for _ in range(random_.choice((1, 2, 4))):
            text[random_.randrange(len(text))] = chr(random_.randrange(40, 120))
        with contextlib.suppress(ValueError):
            passed += drawn({"size": [H, W], "counts": "".join(text)}).shape == (H, W)
    assert passed < 4000


@pytest.mark.parametrize(("height", "width"), [(10**5, 10**5), (0, 5), (-5, 5), (48.5, 5), (10**400, 1)])
def test_sizes_of_images_that_cannot_be(tmp_path: Path, height: Any, width: Any) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations/instances_val2014.json"
    content = json.loads(path.read_text())
    content["images"][1] |= {"height": height, "width": width}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{path.name}: .*image id 1: .*pixels"):
        load(config)


@pytest.mark.parametrize("boxes", [[], [[1, 1, 5, 5]]])
def test_files_for_detection_are_for_the_proxy_alone(tmp_path: Path, boxes: Any) -> None:
    config = write_coco_official(tmp_path)
    labels = load(config).test.labels
    for split in ("train", "val"):
        path = tmp_path / f"annotations/instances_{split}2014.json"
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            annotation["segmentation"] = boxes
        path.write_text(json.dumps(content))
    data = load(config)
    assert not data.train.annotated and not data.test.annotated and (data.test.labels == labels).all()
    problems = report_of(config).problems
    assert len(problems) == 2 and all("no object has an outline" in p and "selection=proxy" in p for p in problems)
    content["annotations"][0]["segmentation"] = [[1, 1, 30, 1, 30, 30]]  # one is enough for the file of the test images
    path.write_text(json.dumps(content))
    assert len(load(config).test.annotated) == 8 and not load(config).train.annotated


def test_categories_with_gaps_in_their_ids(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    masks = [np.asarray(load(config).test.mask(i)) for i in range(8)]
    for split in ("train", "val"):
        path = tmp_path / f"annotations/instances_{split}2014.json"
        content = json.loads(path.read_text())
        for entry in (*content["annotations"], *content["categories"]):
            key = "category_id" if "category_id" in entry else "id"
            entry[key] = 7 * COCO_NUMBERS.index(entry[key]) - 3
        content["categories"].reverse()
        path.write_text(json.dumps(content))
    assert all((np.asarray(load(config).test.mask(i)) == masks[i]).all() for i in range(8))
