"""What the files of others say is what the method is told: whichever of their customs they follow, an object is its
class, a mask value is its class, and an image is on the side on which it was put. (How trees of every layout are read,
and what is said of those that contradict themselves, is in tests/test_data*.py and tests/test_contradictions.py.)"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import (
    DATA,
    WRITERS,
    images,
    load,
    mask_files,
    repaint,
    report_of,
    write_coco_official,
    write_coco_weaktr,
    write_folder,
    write_voc,
    write_voc_with_masks_only,
    write_voc_with_xml,
)  # fmt: skip

from semples.config import FolderData, VocData
from semples.data import coco, voc
from semples.data.files import mask_file, read_mask
from semples.data.labels import classes_in, labels_from_table
from semples.data.png_archive import encode_mask

CLASSES = ("boat", "player", "tv monitor")


def write_small_voc(root: Path, annotations: dict[str, str], classes: tuple[str, ...] = CLASSES) -> VocData:
    """Images im0, im1, ... with these annotations and, as their mask, 1 + their number; all are trained on but the
    last."""
    for folder in (voc.IMAGES, "SegmentationClass", "Annotations", voc.LISTS):
        (root / folder).mkdir(parents=True)
    for i, (name, text) in enumerate(annotations.items()):
        Image.new("RGB", (8, 6)).save(root / voc.IMAGES / f"{name}.png")
        encode_mask(np.full((6, 8), i + 1, np.uint8)).save(root / "SegmentationClass" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    *training, last = annotations
    for file, names in (("train_aug", training), ("train", training), ("val", [last])):
        (root / voc.LISTS / f"{file}.txt").write_text("\n".join(names))
    return VocData(root=str(root), classes=classes, holdout=1)


def an_object(name: str, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}</object>"


OBJECTS: dict[str, tuple[str, list[str]]] = {
    "an object": (an_object("boat"), ["boat"]),
    "several": (an_object("boat") * 2 + an_object("player"), ["boat", "player"]),
    "VOC's person": (an_object("person"), ["player"]),
    "VOC's tvmonitor": (an_object("tvmonitor"), ["tv monitor"]),
    "a difficult one": (an_object("boat", "<difficult>1</difficult><truncated>1</truncated>"), ["boat"]),
    "an occluded one": (an_object("boat", "<occluded>1</occluded>") + an_object("person"), ["boat", "player"]),
    "parts": (an_object("boat", "<part><name>player</name></part><part><name>hand</name></part>"), ["boat"]),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_an_image_of_voc_has_the_classes_of_its_objects(tmp_path: Path, case: str) -> None:
    text, expected = OBJECTS[case]
    config = write_small_voc(tmp_path, {"a": text, "b": text, "c": text})
    listing = voc.read_listing(config)
    assert listing.problems == ()
    assert [CLASSES[k] for k in np.flatnonzero(listing.labels("a"))] == expected


def test_classes_that_keep_the_names_of_voc_are_found_by_them(tmp_path: Path) -> None:
    text = an_object("person") + an_object("tvmonitor")
    config = write_small_voc(tmp_path, dict.fromkeys("abc", text), ("tvmonitor", "boat", "person"))
    assert voc.read_listing(config).labels("b").tolist() == [True, False, True]


def test_labels_of_voc_come_from_table_annotations_or_masks_in_that_order(tmp_path: Path) -> None:
    config = write_small_voc(tmp_path, dict.fromkeys("abc", an_object("person")))
    table = {name: np.array([0, 0, 1.0]) for name in "abc"}
    np.save(tmp_path / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    assert np.flatnonzero(voc.read_listing(config).labels("a")).tolist() == [2]
    (tmp_path / "cls_labels.npy").unlink()
    assert np.flatnonzero(voc.read_listing(config).labels("a")).tolist() == [1]
    for path in (tmp_path / "Annotations").iterdir():
        path.unlink()
    (tmp_path / "Annotations").rmdir()
    assert [np.flatnonzero(voc.read_listing(config).labels(n)).tolist() for n in "abc"] == [[0], [1], [2]]


def test_masks_that_were_added_to_voc_go_before_its_own(tmp_path: Path) -> None:
    config = write_small_voc(tmp_path, dict.fromkeys("abc", an_object("boat")))
    (tmp_path / "SegmentationClassAug").mkdir()
    encode_mask(np.full((6, 8), 2, np.uint8)).save(tmp_path / "SegmentationClassAug" / "a.png")
    listing = voc.read_listing(config)
    values = [listing.mask(name).read() for name in "ab"]  # type: ignore[union-attr]
    assert [np.unique(v).tolist() for v in values] == [[2], [2]] and (values[0] == 2).all()
    encode_mask(np.full((6, 8), 3, np.uint8)).save(tmp_path / "SegmentationClassAug" / "b.png")
    assert (voc.read_listing(config).mask("b").read() == 3).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("width", [80, 90, 91])
def test_tables_of_coco_count_classes_or_category_numbers(tmp_path: Path, width: int) -> None:
    """Of a vector as long as the numbers of categories are, only the columns of the 80 classes are read."""
    config = write_coco_weaktr(tmp_path)
    table = {}
    for name, (_, _, labels, _) in images(DATA).items():
        vector = np.zeros(width, np.float32)
        vector[[coco.CATEGORIES[40 + k] - 1 if width > 80 else 40 + k for k in np.flatnonzero(labels)]] = 1
        table[name] = vector
    np.save(tmp_path / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    listing = coco.read_listing(config)
    for name, (_, _, labels, _) in images(DATA).items():
        assert np.flatnonzero(listing.labels(name)).tolist() == (40 + np.flatnonzero(labels)).tolist()


def test_what_is_above_0_in_a_table_is_in_the_image(tmp_path: Path) -> None:
    table: dict[str, Any] = {"a.jpg": [0.0, 0.2, -1.0, 1.0]}
    np.save(tmp_path / "t.npy", np.array(table, dtype=object), allow_pickle=True)
    assert labels_from_table(tmp_path / "t.npy", 4)("a").tolist() == [False, True, False, True]


@pytest.mark.parametrize("kind", ["<f4", ">f4", ">i2"])
def test_tables_of_other_machines_are_read(tmp_path: Path, kind: str) -> None:
    table = {"a": np.array([0, 128, -1, 1], kind)}
    np.save(tmp_path / "t.npy", np.array(table, dtype=object), allow_pickle=True)
    assert labels_from_table(tmp_path / "t.npy", 4)("a").tolist() == [False, True, False, True]


def test_one_pixel_is_a_label() -> None:
    """And 255 is none."""
    mask = np.full((20, 30), 255, np.uint8)
    mask[:, 7:] = 0
    mask[3, 20] = 2
    assert classes_in(mask, 4).tolist() == [False, True, False, False]


def test_the_colours_of_a_mask_mean_nothing_and_its_values_all(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.uint8).reshape(5, 6)
    values[4, 5] = 255
    for name, mode in (("grey", None), ("voc", "voc"), ("other", "other")):
        image = encode_mask(values) if mode == "voc" else Image.fromarray(values)
        if mode == "other":
            image.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
        image.save(tmp_path / f"{name}.png")
        assert (read_mask(tmp_path / f"{name}.png") == values).all()
        truth = mask_file(tmp_path / f"{name}.png", 29)
        assert truth is not None and (truth.read() == values).all()


def test_numbers_of_categories_become_classes(tmp_path: Path) -> None:
    """There are 80, of the numbers up to 90: the last eight, here."""
    config = write_coco_weaktr(tmp_path)
    numbers = np.r_[0, coco.CATEGORIES[72:], np.zeros(246), 255]
    for path in mask_files(tmp_path):
        repaint(path, lambda mask: numbers[mask])
    data = load(config)
    for name, (_, mask, labels, _) in images(data).items():
        before = images(DATA)[name][1].astype(int)
        assert (mask == np.where(before > 0, before + 72, 0)).all()
        assert np.flatnonzero(labels).tolist() == [k - 1 for k in np.unique(mask).tolist() if k]


def test_the_test_set_of_roboflow_is_test_where_it_is_there_and_else_valid(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    for before, after in (("train2014", "train"), ("val2014", "valid")):
        (tmp_path / before).rename(tmp_path / after)
        path = tmp_path / "annotations" / f"instances_{before}.json"
        path.rename(tmp_path / after / "_annotations.coco.json")
    (tmp_path / "annotations").rmdir()
    assert load(config).test.names == DATA.test.names
    content = json.loads((tmp_path / "valid" / "_annotations.coco.json").read_text())
    (tmp_path / "test").mkdir()
    for entry in content["images"]:
        shutil.copy(tmp_path / "valid" / entry["file_name"], tmp_path / "test" / f"of-{entry['file_name']}")
        entry["file_name"] = f"of-{entry['file_name']}"
    (tmp_path / "test" / "_annotations.coco.json").write_text(json.dumps(content))
    assert load(config).test.names == tuple(f"of-{name}" for name in DATA.test.names)


@pytest.mark.parametrize("write", WRITERS)
def test_the_holdout_is_drawn_by_the_seed_of_the_data_and_leaves_the_training_set(write: Any, tmp_path: Path) -> None:
    config = write(tmp_path)
    parts = []
    for seed in (0, 0, 1):
        data = load(config.model_copy(update={"seed": seed, "holdout": 7}))
        parts.append([{*split.names} for split in (data.train, data.holdout, data.test)])
        assert [len(part) for part in parts[-1]] == [25, 7, 8] and not parts[-1][0] & parts[-1][1]
        assert all(names == tuple(sorted(names)) for names in (data.holdout.names,))
    assert parts[0] == parts[1] and parts[0][1] != parts[2][1]
    assert parts[0][2] == parts[2][2] and parts[0][0] | parts[0][1] == parts[2][0] | parts[2][1]


def test_a_test_set_that_is_drawn_is_apart_from_the_holdout(tmp_path: Path) -> None:
    """By the same seed, but not the same images."""
    write_folder(tmp_path)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    drawn = []
    for seed in (0, 0, 1):
        data = load(FolderData(root=str(tmp_path), holdout=10, test=10, seed=seed))
        names = [{*split.names} for split in (data.train, data.holdout, data.test)]
        assert [len(n) for n in names] == [20, 10, 10] and len(set.union(*names)) == 40
        drawn.append(names[2])
    assert drawn[0] == drawn[1] != drawn[2]


def test_only_masks_of_measured_images_and_of_the_test_set_are_looked_at(tmp_path: Path) -> None:
    config = write_voc(tmp_path)
    few = (*DATA.holdout.names, *DATA.train.names[:4])
    (tmp_path / voc.LISTS / "few.txt").write_text("\n".join(few))
    for path in mask_files(tmp_path):
        if path.stem not in {*few, *DATA.test.names}:
            path.write_bytes(b"no mask")
    data = load(config.model_copy(update={"mask_list": "few"}))
    assert {data.train.names[i] for i in data.train.annotated} | {*data.holdout.names} == {*few}
    assert all(data.train.mask(i) is None for i in range(len(data.train)) if i not in data.train.annotated)
    assert len(data.test.annotated) == 8


@pytest.mark.parametrize("write", [write_voc_with_xml, write_voc_with_masks_only])
def test_names_that_are_meant_to_be_left_out_change_nothing(write: Any, tmp_path: Path) -> None:
    config = write(tmp_path)
    before = load(config)
    if write is write_voc_with_xml:
        for path in (tmp_path / "Annotations").iterdir():
            path.write_text(path.read_text().replace("</annotation>", an_object("rudder") + "</annotation>"))
        assert any("'rudder' (in 40 images)" in problem for problem in report_of(config).problems)
    after = load(config.model_copy(update={"ignore": ("rudder",)}))
    assert (after.train.labels == before.train.labels).all() and after.classes == before.classes
