"""Pictures and tables show what they say: each row of the gallery is what its name says of the image above, the classes
of a mask can be told apart, the examples show every class before they show one again, and a class has its own name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Command
from PIL import Image

from semples import figures, output
from semples.config import parse
from semples.data import load_data, png_archive
from semples.data.dataset import IGNORE, Dataset, Split
from semples.stages import segment

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


def test_masks_are_saved_in_the_colours_of_voc() -> None:
    colours = np.reshape(png_archive.encode_mask(np.zeros((1, 1), np.uint8)).getpalette(), (256, 3)).tolist()
    assert colours[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert colours[15] == [192, 128, 128] and colours[20] == [0, 64, 128] and colours[255] == [224, 224, 192]


def test_a_cam_is_red_where_its_strongest_class_is() -> None:
    maps = np.zeros((2, 4, 6), np.uint8)
    maps[0, 0, 0], maps[1, 3, 5] = 255, 255
    painted = figures.paint_cam(GREY, maps).astype(int)
    for y, x in np.ndindex(4, 6):
        warm = painted[y, x, 0] > painted[y, x, 2]
        assert warm == ((y, x) in {(0, 0), (3, 5)})


def labelled(*shown: tuple[int, ...], annotated: tuple[int, ...] = ()) -> Split:
    labels = np.array([[k in classes for k in range(3)] for classes in shown])
    truth = [np.zeros((2, 2), np.uint8) if i in annotated else None for i in range(len(shown))]
    return Split(tuple(map(str, range(len(shown)))), labels, lambda i: GREY, truth.__getitem__, annotated)


def test_examples_show_every_class_before_any_twice_and_few_objects_first() -> None:
    split = labelled((0, 1, 2), (0,), (0,), (1, 2), (2,), (0,))
    assert figures.choose_examples(split, 3) == [1, 4, 3]
    assert len(figures.choose_examples(split, 99)) == 6


def test_examples_have_true_masks_where_there_are_some() -> None:
    assert sorted(figures.choose_examples(labelled((0,), (1,), (2,), (0,), annotated=(1, 3)), 4)) == [1, 3]


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
        of = [(name, png_archive.encode_mask(a.astype(np.uint8))) for name, a in zip(split.names, arrays, strict=True)]
        png_archive.write(tmp_path / stage / png_archive.FILE, of)

    def predict(network: Any, image: np.ndarray, runtime: Any, test: Any) -> np.ndarray:
        drawn["asked"].append(test)
        return np.full(image.shape[:2], 2, np.uint8)

    def draw(rows: Any, titles: Any, caption: str, path: Path) -> None:
        drawn.update(rows=rows, titles=titles, caption=caption)

    monkeypatch.setattr(segment, "load_network", lambda *a: segment.build_network(*a[:2]))
    monkeypatch.setattr(segment, "predict", predict)
    monkeypatch.setattr(figures, "gallery", draw)
    folders = {stage: tmp_path / stage for stage in ("heatmaps", "masks", "segment")}
    metrics = {"pseudo_miou": 41.24, "seg_miou": 53.06}
    result: Any = SimpleNamespace(config=config, data=data, folders=folders, metrics=metrics)
    output._draw_gallery(result, tmp_path / "gallery.png")
    drawn["test"] = config.segment.test
    return data, drawn


def test_every_row_of_the_gallery_is_what_it_says(gallery: tuple[Dataset, dict[str, Any]]) -> None:
    data, drawn = gallery
    split, rows = data.holdout, drawn["rows"]
    chosen = figures.choose_examples(split, output.EXAMPLES)
    assert list(rows) == ["image", "CAM", "pseudo mask", "prediction", "ground truth"]
    for column, i in enumerate(chosen):
        image, truth = split.image(i), np.asarray(split.mask(i))
        shown = [255 * (truth == k + 1).astype(np.uint8) for k in np.flatnonzero(split.labels[i])]
        assert (rows["image"][column] == image).all()
        assert (rows["CAM"][column] == figures.paint_cam(image, np.array(shown))).all()
        assert (rows["pseudo mask"][column] == figures.paint_mask(image, np.ones_like(truth))).all()
        assert (rows["prediction"][column] == figures.paint_mask(image, np.full_like(truth, 2))).all()
        assert (rows["ground truth"][column] == figures.paint_mask(image, truth)).all()
        assert drawn["titles"][column] == ", ".join(data.classes[k] for k in np.flatnonzero(split.labels[i]))
    assert drawn["asked"] == [drawn["test"]] * len(chosen)


def test_the_caption_has_both_figures_and_how_the_choice_was_made(gallery: tuple[Dataset, dict[str, Any]]) -> None:
    assert gallery[1]["caption"] == "pseudo mask mIoU 41.2, segmentation mIoU 53.1 (chosen on holdout masks)"


CLASSES = ["cat", "dog", "cow"]


@pytest.fixture
def a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Commands find a run with three classes, whose network sees a dog everywhere; the settings it is asked with."""
    config = parse({**TINY, "segment": {"test": {"scales": [0.5, 1.0]}}}, "test")
    asked: list[Any] = []

    def predict(network: Any, image: np.ndarray, runtime: Any, test: Any = None) -> np.ndarray:
        asked.append((test, image.shape, config.segment.test))
        return np.pad(np.full((1, 1), 2, np.uint8), ((0, image.shape[0] - 1), (0, image.shape[1] - 1)))

    for reader in ("semples.api.read_run", "semples.run_folder.read_run"):
        monkeypatch.setattr(reader, lambda folder: (config, {"classes": CLASSES}))
    monkeypatch.setattr(segment, "load_network", lambda *a: SimpleNamespace(to=lambda device: None))
    monkeypatch.setattr(segment, "predict", predict)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / segment.WEIGHTS).write_bytes(b"")
    return asked


def test_a_prediction_names_the_classes_that_are_in_it(command: Command, a_run: list[Any]) -> None:
    for name, size in (("a", (9, 5)), ("b", (4, 7))):
        Image.new("RGB", size).save(f"{name}.png")
    code, out, err = command("semples", "predict", "a.png", "b.png", "--run", "r", "--out", "p")
    assert (code, err) == (0, "") and [line.split() for line in out.splitlines()] == [
        ["p/a.png", "dog"],
        ["p/b.png", "dog"],
    ]
    assert [shape for _, shape, _ in a_run] == [(5, 9, 3), (7, 4, 3)] and all(got == own for got, _, own in a_run)
    mask = np.asarray(Image.open("p/b.png"))
    assert mask.shape == (7, 4) and mask[0, 0] == 2 and mask.sum() == 2


@pytest.mark.usefixtures("a_run")
def test_the_table_of_a_folder_of_masks_names_every_class(command: Command) -> None:
    for folder, rows in (("truth", [[0, 1, 3, 3, 255]]), ("made", [[0, 1, 3, 0, 2]])):
        Path(folder).mkdir()
        Image.fromarray(np.array(rows, np.uint8)).save(f"{folder}/a.png")
    code, out, _ = command("semples", "evaluate", "made", "truth", "--run", "r")
    lines = {line.split("│")[1].strip(): line.split("│")[2:5] for line in out.splitlines() if line[0] == "│"}
    assert code == 0 and list(lines) == ["background", *CLASSES, "mean over 1 masks"]
    figures = {name: [x.strip() for x in values] for name, values in lines.items()}
    assert figures["background"] == ["50.00", "50.00", "100.00"] and figures["cow"] == ["50.00", "100.00", "50.00"]
    assert figures["cat"] == ["100.00"] * 3 and figures["dog"] == ["nan"] * 3
