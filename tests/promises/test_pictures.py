"""Pictures show what they say: each row of the gallery is what its name says of the image above, the classes of a mask
can be told apart, and the examples show every class before they show one again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from semples import figures, output
from semples.config import parse
from semples.data import archive, load_data
from semples.data.dataset import IGNORE, Dataset, Split
from semples.stages import segment
from semples.stages.heatmaps import FILES

GREY = np.full((4, 6, 3), 100, np.uint8)


def test_the_classes_of_a_mask_have_colours_of_their_own_and_255_is_white() -> None:
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6)
    mask[3, 5] = IGNORE
    painted = figures.paint_mask(GREY, mask)
    colours = [tuple(int(c) for c in pixel) for pixel in painted.reshape(-1, 3)]
    assert len({*colours}) == 24
    assert colours[0] == (55, 55, 55)  # the background: the image, darker
    assert colours[-1] == (216, 216, 216)
    assert all(max(c) - min(c) > 40 for c in colours[1:11])


def test_a_cam_is_red_where_its_strongest_class_is() -> None:
    maps = np.zeros((2, 4, 6), np.uint8)
    maps[0, 0, 0], maps[1, 3, 5] = 255, 255
    painted = figures.paint_cam(GREY, maps).astype(int)
    for y, x in np.ndindex(4, 6):
        warm = painted[y, x, 0] > painted[y, x, 2]
        assert warm == ((y, x) in {(0, 0), (3, 5)})


def labelled(*shown: tuple[int, ...], masked: tuple[int, ...] = ()) -> Split:
    labels = np.array([[k in classes for k in range(3)] for classes in shown])
    truth = [np.zeros((2, 2), np.uint8) if i in masked else None for i in range(len(shown))]
    return Split(tuple(map(str, range(len(shown)))), labels, lambda i: GREY, truth.__getitem__, masked)


def test_examples_show_every_class_before_any_twice_and_few_objects_first() -> None:
    split = labelled((0, 1, 2), (0,), (0,), (1, 2), (2,), (0,))
    assert figures.choose_examples(split, 3) == [1, 4, 3]
    assert len(figures.choose_examples(split, 99)) == 6


def test_examples_have_true_masks_where_there_are_some() -> None:
    assert sorted(figures.choose_examples(labelled((0,), (1,), (2,), (0,), masked=(1, 3)), 4)) == [1, 3]


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Dataset, dict[str, Any]]:
    """What is drawn of a run whose CAMs say the class that is true, whose pseudo masks say 1 everywhere, and whose
    network predicts 2."""
    config = parse({**TINY, "runtime": {"device": "cpu"}}, "test")
    data = load_data(config.data)
    split = data.holdout
    drawn: dict[str, Any] = {"asked": []}
    for stage in ("heatmaps", "masks"):
        (tmp_path / stage).mkdir()
    truth = [np.asarray(split.mask(i)) for i in range(len(split))]
    maps = [np.concatenate([255 * (t == k + 1) for k in np.flatnonzero(split.labels[i])]) for i, t in enumerate(truth)]
    for stage, arrays in (("heatmaps", maps), ("masks", [np.ones_like(t) for t in truth])):
        of = [(name, archive.encode_mask(a.astype(np.uint8))) for name, a in zip(split.names, arrays, strict=True)]
        archive.write(tmp_path / stage / FILES["holdout"], of)

    def predict(network: Any, image: np.ndarray, runtime: Any, test: Any) -> np.ndarray:
        drawn["asked"].append(test)
        return np.full(image.shape[:2], 2, np.uint8)

    def draw(rows: Any, titles: Any, caption: str, path: Path) -> None:
        drawn.update(rows=rows, titles=titles, caption=caption)

    monkeypatch.setattr(segment, "load_network", lambda *a: segment.build_network(*a[:2]))
    monkeypatch.setattr(segment, "predict", predict)
    monkeypatch.setattr(figures, "gallery", draw)
    folders = {stage: tmp_path / stage for stage in ("heatmaps", "masks", "segment")}
    result: Any = SimpleNamespace(config=config, folders=folders, metrics={"pseudo_miou": 41.24, "seg_miou": 53.06})
    output._draw_gallery(result, tmp_path / "gallery.png")
    drawn["test"] = config.segment.test
    return data, drawn


def test_every_row_of_the_gallery_is_what_it_says(gallery: tuple[Dataset, dict[str, Any]]) -> None:
    data, drawn = gallery
    split, rows = data.holdout, drawn["rows"]
    chosen = figures.choose_examples(split, output.EXAMPLES)
    assert list(rows) == ["image", "CAM", "pseudo mask", "prediction", "truth"]
    for column, i in enumerate(chosen):
        image, truth = split.image(i), np.asarray(split.mask(i))
        shown = [255 * (truth == k + 1).astype(np.uint8) for k in np.flatnonzero(split.labels[i])]
        assert (rows["image"][column] == image).all()
        assert (rows["CAM"][column] == figures.paint_cam(image, np.array(shown))).all()
        assert (rows["pseudo mask"][column] == figures.paint_mask(image, np.ones_like(truth))).all()
        assert (rows["prediction"][column] == figures.paint_mask(image, np.full_like(truth, 2))).all()
        assert (rows["truth"][column] == figures.paint_mask(image, truth)).all()
        assert drawn["titles"][column] == ", ".join(data.classes[k] for k in np.flatnonzero(split.labels[i]))
    assert drawn["asked"] == [drawn["test"]] * len(chosen)


def test_the_caption_has_both_figures_and_how_the_choice_was_made(gallery: tuple[Dataset, dict[str, Any]]) -> None:
    assert gallery[1]["caption"] == "pseudo mask mIoU 41.2, segmentation mIoU 53.1 (chosen on holdout masks)"
