"""Kinds of contradiction, in every layout in which they can be: data that contradict themselves are named, in
`data check` and before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from trees import (
    COCO_NUMBERS,
    DATA,
    WRITERS,
    Write,
    images,
    load,
    mask_files,
    repaint,
    report_of,
    write_coco_official,
    write_coco_toco,
    write_coco_weaktr,
    write_coco_weaktr_with_table,
    write_folder,
    write_voc,
    write_voc_with_masks_only,
    write_voc_with_xml,
)  # fmt: skip

from semples.config import DataConfig
from semples.data.check import recognise
from semples.data.contradictions import Seen, compare, compare_before_run
from semples.errors import UserError

LABELLED = [write_voc, write_voc_with_xml, write_folder, write_coco_toco, write_coco_weaktr_with_table]
FROM_MASKS = [write_voc_with_masks_only, write_coco_weaktr]


def only_problem(config: DataConfig) -> str:
    problems = report_of(config).problems
    assert len(problems) == 1, problems
    return problems[0]


def before_run(config: DataConfig) -> tuple[list[str], list[str]]:
    return compare_before_run(load(config))


@pytest.mark.parametrize("write", [*WRITERS, write_coco_weaktr_with_table])
def test_sound_data_are_left_alone(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    report = report_of(config)
    assert report.problems == () and report.remarks == ()
    assert before_run(config) == ([], [])


@pytest.mark.parametrize("write", LABELLED)
def test_classes_in_another_order_are_a_problem_with_the_order_that_fits(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    numbers = [*COCO_NUMBERS] if "weaktr" in write.__name__ else [*range(1, 9)]
    shifted = np.arange(256)
    shifted[numbers] = np.roll(numbers, -1)
    for path in mask_files(tmp_path):
        repaint(path, lambda mask: shifted[mask])
    problem = only_problem(config)
    assert "image labels and masks disagree in 40 of 40 images" in problem
    assert "is labelled '" in problem and "its mask shows '" in problem
    if "weaktr" not in write.__name__:  # of 80 classes most are nowhere, so more than one order fits
        assert f"in the masks 1 is '{DATA.classes[7]}', 2 is '{DATA.classes[0]}'" in problem
    else:
        assert "they agree where in the masks" in problem
    assert before_run(config)[0][0].startswith("image labels and masks disagree in 40 of 40 images: '")


@pytest.mark.parametrize("write", LABELLED)
def test_a_few_images_that_disagree_are_said_and_no_problem(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    path = next(p for p in mask_files(tmp_path) if "train-00003" in p.name)
    repaint(path, np.zeros_like)
    report = report_of(config)
    assert report.problems == () and len(report.remarks) == 1
    assert "disagree in 1 of 40 images: '" in report.remarks[0] and "train-00003' is labelled" in report.remarks[0]
    assert "its mask shows no class (1 labelled images have a mask without a pixel" in report.remarks[0]
    assert before_run(config) == ([], list(report.remarks))


@pytest.mark.parametrize("write", LABELLED)
def test_masks_without_a_pixel_of_any_class_are_a_problem(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    for path in mask_files(tmp_path):
        repaint(path, lambda mask: np.where(mask > 0, 255, 0))
    problem = only_problem(config)
    assert problem.startswith("not one of the 24 train masks has a pixel of any class; they have 255, which counts for")
    assert before_run(config)[0] == [problem]


@pytest.mark.parametrize("write", FROM_MASKS)
def test_test_masks_without_a_pixel_are_a_problem_where_labels_come_from_them(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    for path in mask_files(tmp_path):
        if path.stem.startswith("test"):
            repaint(path, np.zeros_like)
    assert "not one of the 8 test masks has a pixel of any class" in only_problem(config)
    assert "not one of the 8 test masks" in before_run(config)[0][0]


def test_objects_of_coco_without_an_outline_are_compared_with_the_labels(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:1]:
        annotation["segmentation"] = []
    path.write_text(json.dumps(content))
    report = report_of(config)
    assert report.problems == () and "disagree in 1 of 40 images" in report.remarks[0]
    for annotation in content["annotations"][1:]:
        annotation["segmentation"] = [[1, 1, 5, 5]] if annotation["image_id"] % 2 else annotation["segmentation"]
    path.write_text(json.dumps(content))
    assert "images have a mask without a pixel" in only_problem(config)
    assert before_run(config)[0]


def test_one_class_of_many_that_disagrees_is_a_problem() -> None:
    classes = tuple(f"class {k}" for k in range(20))
    labels = np.eye(20, dtype=bool)[np.arange(200) % 20]
    pixels = labels.copy()
    pixels[:, 7] = False  # 10 of 200 images
    seen = [Seen(str(i), a, b, False) for i, (a, b) in enumerate(zip(labels, pixels, strict=True))]
    problems, remarks = compare(classes, {"train": seen})
    assert "disagree in 10 of 200" in problems[0] and "of 10 images labelled 'class 7' 10 have no pixel" in problems[0]
    pixels[:] = labels
    pixels[:8, 3] = True
    seen = [Seen(str(i), a, b, False) for i, (a, b) in enumerate(zip(labels, pixels, strict=True))]
    problems, remarks = compare(classes, {"train": seen})
    assert problems == [] and "disagree in 7 of 200" in remarks[0]


def test_objects_of_unknown_names_are_a_problem_unless_they_are_meant(tmp_path: Path) -> None:
    config = write_voc_with_xml(tmp_path)
    changed = 0
    for path in sorted((tmp_path / "Annotations").iterdir()):
        text = path.read_text()
        path.write_text(text.replace("<name>boat</name>", "<name>\n  ship\t</name>"))
        changed += "boat" in text
    problem = report_of(config).problems[0]
    assert f"'ship' (in {changed} images)" in problem and '"ignore=[ship]"' in problem and ".xml" in problem
    with pytest.raises(UserError, match="'ship'"):
        load(config)
    meant = config.model_copy(update={"ignore": ("ship",), "classes": tuple(c for c in DATA.classes)})
    assert not any("ship" in p for p in report_of(meant).problems)
    with pytest.raises(UserError, match="is also a class"):
        load(config.model_copy(update={"ignore": ("Boat",)}))


def test_labels_of_a_table_that_are_not_to_be_learned(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    before = load(config)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace(",train\n", ";sky,train\n"))
    with pytest.raises(UserError, match=r"has the label 'sky', which is not in classes\.txt.*ignore=\[sky\]"):
        load(config)
    meant = config.model_copy(update={"ignore": ("sky",)})
    assert (load(meant).train.labels == before.train.labels).all()
    (tmp_path / "classes.txt").unlink()
    assert load(meant).classes == tuple(sorted(DATA.classes))


@pytest.mark.parametrize("ground", [["_background_"], ["__ignore__", "_background_"], ["Background"]])
@pytest.mark.parametrize("from_masks", [True, False])
def test_background_lines_of_classes_are_left_out_and_said(tmp_path: Path, ground: list[str], from_masks: bool) -> None:
    config = write_folder(tmp_path)
    if from_masks:
        (tmp_path / "labels.csv").unlink()
        config = config.model_copy(update={"test": 8})
    (tmp_path / "classes.txt").write_text("\n".join([*ground, *DATA.classes]))
    assert load(config).classes == DATA.classes
    report = report_of(config)
    assert report.problems == () and ground[0] in report.remarks[0] and "left out" in report.remarks[0]
    (tmp_path / "classes.txt").write_text("\n".join([*DATA.classes, *ground]))
    with pytest.raises(UserError, match="is no class: in masks the background is 0"):
        load(config)


@pytest.mark.parametrize("write", [write_voc, write_coco_official, write_coco_toco])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("background", "is no class"),
        ("  ", "is no name of a class"),
        ("boat\x1b[2J", "is no name of a class"),
        (" Aeroplane", "is there twice"),
    ],
)
def test_names_of_classes_that_cannot_be(write: Write, tmp_path: Path, name: str, message: str) -> None:
    config = write(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load(config.model_copy(update={"classes": (*DATA.classes[:7], name)}))
    assert str(error.value).isprintable()


def edit(root: Path, change: Callable[[dict[str, Any]], None], splits: tuple[str, ...] = ("train", "val")) -> None:
    for split in splits:
        path = root / "annotations" / f"instances_{split}2014.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def name_categories(names: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for category, name in zip(sorted(content["categories"], key=lambda c: c["id"]), names, strict=True):
            category["name"] = name

    return change


def test_categories_against_classes(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    edit(tmp_path, name_categories(DATA.classes))
    assert load(config).classes == DATA.classes
    words = config.model_copy(update={"classes": ("jet", *DATA.classes[1:])})  # another word for CLIP
    assert load(words).classes[0] == "jet"
    edit(tmp_path, name_categories((*DATA.classes[1:], DATA.classes[0])))
    with pytest.raises(UserError, match=r"its categories have another order than data\.classes: 1 is 'boat'") as error:
        load(config)
    assert f'"classes=[{", ".join((*DATA.classes[1:], DATA.classes[0]))}]"' in str(error.value)
    edit(tmp_path, name_categories(DATA.classes), ("train",))
    with pytest.raises(UserError, match=r"val2014\.json: category 1 is 'boat', but 'aeroplane' in .*train2014\.json"):
        load(config)
    edit(tmp_path, lambda content: content["categories"].append({"id": 1, "name": "twice"}))
    with pytest.raises(UserError, match="category 1 is there twice"):
        load(config)


def test_categories_that_are_no_class(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    before = load(config)
    edit(tmp_path, name_categories(DATA.classes))
    edit(tmp_path, lambda content: content["categories"].append({"id": 0, "name": "things"}))
    assert load(config).fingerprint != "" and "category 0 'things'" in report_of(config).remarks[0]
    assert (load(config).train.labels == before.train.labels).all()
    fewer = config.model_copy(update={"classes": DATA.classes[1:]})
    with pytest.raises(UserError, match=r'9 categories .*data.classes has 7 names.*"ignore=\[things, aeroplane\]"'):
        load(fewer)
    data = load(fewer.model_copy(update={"ignore": ("things", "aeroplane")}))
    assert len(data.train) < 24 or (data.train.labels.any(1)).all()
    assert data.num_classes == 7 and set(np.unique(np.asarray(data.test.mask(0)))) <= set(range(8))


def test_one_image_under_two_ids(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)

    def twice(content: dict[str, Any], folder: str = "") -> None:
        image = content["images"][0]
        content["images"].append({**image, "id": 777, "file_name": folder + image["file_name"]})

    edit(tmp_path, twice, ("train",))
    with pytest.raises(UserError, match=r"train2014\.json: .*'train-00000' is there under two ids, 0 .* and 777"):
        load(config)
    edit(tmp_path, lambda content: content["images"].pop(), ("train",))
    edit(tmp_path, lambda content: twice(content, "second/"), ("train",))
    with pytest.raises(UserError, match=r"0 \('train-00000\.png'\) and 777 \('second/train-00000\.png'\)"):
        load(config)
    edit(tmp_path, lambda content: content["images"].pop(), ("train",))
    edit(tmp_path, lambda content: content["images"].append({**content["images"][1], "id": 0}), ("train",))
    with pytest.raises(UserError, match="the id 0 is that of two images, 'train-00000' and 'train-00001'"):
        load(config)


def test_coco_in_the_forms_that_others_write(tmp_path: Path) -> None:
    """Folders and backslashes in names, ids with gaps, a byte order mark, compressed strings, crowds."""
    config = write_coco_official(tmp_path)
    before = load(config).fingerprint

    def change(content: dict[str, Any]) -> None:
        for i, image in enumerate(content["images"]):
            image["file_name"] = (f"../photos/{image['file_name']}", f"D:\\set\\{image['file_name']}")[i % 2]
        for image in content["images"]:
            image["id"] = f"image-{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"image-{annotation['image_id']}"
            annotation["iscrowd"] = 1
            code = rle.frPyObjects(annotation["segmentation"], *annotation["segmentation"]["size"])
            annotation["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}

    images_before = {n: x[1] for n, x in images(load(config)).items()}
    edit(tmp_path, change)
    for path in (tmp_path / "annotations").iterdir():
        path.write_text(path.read_text(), encoding="utf-8-sig")
    data = load(config)
    assert data.fingerprint != before  # that of the JSON file is in it
    after = images(data)
    assert after.keys() == images_before.keys()
    assert all((after[n][1] == images_before[n]).all() for n in after) and report_of(config).problems == ()


def test_layouts_are_recognised_by_themselves(tmp_path: Path) -> None:
    for write in WRITERS:
        root = tmp_path / write.__name__
        kind = write(root).kind
        (root / "notes.json").write_text("{}")
        assert recognise(root).kind == kind
