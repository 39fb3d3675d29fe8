"""Which file a list, a table or an annotation means, in every layout: suffixes, forms of Unicode, blanks, slashes."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import (
    DATA,
    WRITERS,
    Write,
    image_files,
    load,
    mask_files,
    report_of,
    write_coco_official,
    write_coco_toco,
    write_coco_weaktr_with_table,
    write_folder,
    write_voc,
)  # fmt: skip

from semples.config import DataConfig
from semples.data import load_data
from semples.errors import UserError


def only_problem(config: DataConfig) -> str:
    problems = report_of(config).problems
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize("write", WRITERS)
def test_two_files_of_one_name_are_named_or_the_suffix_decides(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    before = load(config)
    path = next(p for p in image_files(tmp_path) if p.stem.endswith(DATA.train.names[5]))
    other = path.with_suffix(".bmp")
    Image.fromarray(255 - np.asarray(Image.open(path))).save(other)
    if write in (write_folder, write_coco_official):  # they give the suffix
        assert load(config).fingerprint == before.fingerprint
        text = next(
            p for p in (tmp_path / "labels.csv", tmp_path / "annotations/instances_train2014.json") if p.exists()
        )
        text.write_text(text.read_text().replace(path.name, other.name))
        data = load(config)
        found = {n: s.image(i) for s in (data.train, data.holdout) for i, n in enumerate(s.names)}
        assert (found[path.stem] == 255 - DATA.train.image(5)).all()
        return
    with pytest.raises(UserError, match="compete for the name") as error:
        load(config)
    assert str(path) in str(error.value) and str(other) in str(error.value)
    assert any("compete for the name" in problem for problem in report_of(config).problems)


@pytest.mark.parametrize("write", [w for w in WRITERS if w is not write_coco_official])
def test_two_masks_of_one_name_are_named(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    path = mask_files(tmp_path)[4]
    Image.fromarray(np.asarray(Image.open(path)) * 0).save(path.with_suffix(".bmp"))
    with pytest.raises(UserError, match="compete for the name") as error:
        load(config)
    assert str(path) in str(error.value) and str(path.with_suffix(".bmp")) in str(error.value)


def test_a_list_of_voc_says_which_of_two_files(tmp_path: Path) -> None:
    config = write_voc(tmp_path)
    before = load(config).fingerprint
    name = DATA.test.names[0]
    (tmp_path / "JPEGImages" / f"{name}.jpg").write_bytes(b"another picture")
    listed = tmp_path / "ImageSets/Segmentation/val.txt"
    listed.write_text(listed.read_text().replace(name, f"JPEGImages/{name}.PNG SegmentationClass/{name}.png"))
    assert load(config).fingerprint == before


@pytest.mark.parametrize("write", WRITERS)
def test_files_that_other_systems_add_change_nothing(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    before = load(config).fingerprint
    for path in [*image_files(tmp_path), *mask_files(tmp_path)]:
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
        (path.parent / "Thumbs.db").write_bytes(b"")
    assert load(config).fingerprint == before
    report = report_of(config)
    assert report.problems == () and report.remarks == ()


@pytest.mark.parametrize("write", WRITERS)
def test_names_in_both_forms_of_unicode_are_the_same(write: Write, tmp_path: Path) -> None:
    """File names with accents as two characters, as a Mac's archive has them; lists with one."""
    config = write(tmp_path)
    for path in [*image_files(tmp_path), *mask_files(tmp_path), *tmp_path.rglob("Annotations/*.xml")]:
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name.replace("train-", "entraîné-"))))
    for path in (p for p in tmp_path.rglob("*") if p.suffix in (".txt", ".csv", ".json")):
        path.write_text(path.read_text().replace("train-", "entraîné-"))
    for path in tmp_path.glob("cls_labels*.npy"):
        table = np.load(path, allow_pickle=True).item()
        renamed = {name.replace("train-", "entraîné-"): vector for name, vector in table.items()}
        np.save(path, np.array(renamed, dtype=object), allow_pickle=True)
    data = load(config)
    assert (len(data.train), len(data.holdout), len(data.test)) == (24, 8, 8)
    assert len(data.train.annotated) == 24 and report_of(config).problems == ()


@pytest.mark.parametrize("write", WRITERS)
def test_names_with_blanks_are_names(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)

    def renamed(text: str) -> str:
        return text.replace("train-", "my photo ").replace("holdout-", "my photo h").replace("test-", "a (test) ")

    for path in [*image_files(tmp_path), *mask_files(tmp_path), *tmp_path.rglob("Annotations/*.xml")]:
        path.rename(path.with_name(renamed(path.name)))
    for path in (p for p in tmp_path.rglob("*") if p.suffix in (".txt", ".csv", ".json")):
        path.write_text(renamed(path.read_text()))
    for path in tmp_path.glob("cls_labels*.npy"):
        table = np.load(path, allow_pickle=True).item()
        np.save(path, np.array({renamed(n): v for n, v in table.items()}, dtype=object), allow_pickle=True)
    data = load(config)
    assert (len(data.train), len(data.holdout), len(data.test)) == (24, 8, 8)
    assert all("my photo " in name for name in (*data.train.names, *data.holdout.names))
    assert report_of(config).problems == ()


@pytest.mark.parametrize("write", [write_voc, write_folder, write_coco_toco, write_coco_weaktr_with_table])
def test_masks_of_no_image_are_a_problem_where_images_lack_one(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    before = load(config)
    if write is write_coco_toco:  # without lists all masks are on them
        for split, part in (("train2014", "train"), ("val2014", "val")):
            names = sorted(p.stem for p in (tmp_path / "JPEGImages" / split).iterdir())
            (tmp_path / f"{part}.txt").write_text("\n".join(names))
    shutil.copy(mask_files(tmp_path)[0], mask_files(tmp_path)[0].with_name("left-over.png"))
    report = report_of(config)
    assert report.problems == () and "1 of 41 masks belong to no image, as " in report.remarks[0]
    (mask_files(tmp_path)[0].with_name("left-over.png")).unlink()
    for path in mask_files(tmp_path):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert load(config).fingerprint == before.fingerprint and report_of(config).problems == ()
    for path in mask_files(tmp_path):
        path.rename(path.with_name(f"gt_{path.name}"))
    problems = report_of(config).problems
    assert any("40 of 40 masks belong to no image, as " in p and "gt_" in p for p in problems)
    if len(config.classes if hasattr(config, "classes") else DATA.classes) == 8:  # the scenes have not all 80 of COCO
        with pytest.raises(UserError, match=r"no training image has a true mask.*40 of 40 masks belong to no image"):
            load_data(config)


def test_a_file_in_a_subfolder_is_not_taken_for_another(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    path = image_files(tmp_path)[0]
    (tmp_path / "images/second").mkdir()
    shutil.copy(image_files(tmp_path)[1], tmp_path / "images/second" / path.name)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace(path.name, f"second/{path.name}"))
    with pytest.raises(UserError, match="in a folder below that of the images"):
        load(config)


def test_images_that_labels_csv_leaves_out_are_said(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    table = tmp_path / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-2]))
    report = report_of(config)
    assert report.problems == () and "2 images are not in labels.csv and not used, as " in report.remarks[0]


def test_another_suffix_than_the_file_has_is_said(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace(".png", ".jpg"))
    report = report_of(config)
    assert report.problems == () and "40 images are named with another suffix" in report.remarks[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: "".join(f"/JPEGImages/{n}.jpg /SegmentationClass/{n}.png\r\n" for n in lines),
        lambda lines: "\ufeff" + "".join(f"{n} 0 14\n\n" for n in lines),
        lambda lines: "".join(f"C:\\data\\JPEGImages\\{n}.png\r\n" for n in lines),
        lambda lines: "".join(f"  {n}.PNG\tSegmentationClass/{n}.png \n" for n in lines),
    ],
)
def test_lists_in_the_forms_that_others_write(tmp_path: Path, change: Callable[[list[str]], str]) -> None:
    config = write_voc(tmp_path)
    before = load(config).fingerprint
    for path in (tmp_path / "ImageSets/Segmentation").iterdir():
        path.write_text(change(path.read_text().split()), newline="")
    assert load(config).fingerprint == before


def test_a_missing_image_is_named_with_its_list_and_line(tmp_path: Path) -> None:
    config = write_voc(tmp_path)
    listed = tmp_path / "ImageSets/Segmentation/val.txt"
    (tmp_path / "JPEGImages/my.png").write_bytes(image_files(tmp_path)[0].read_bytes())
    listed.write_text(listed.read_text() + "my lost photo.jpg\n")
    message = only_problem(config)
    assert "no vector" in message or "val.txt, line 9: 'my lost photo.jpg'" in message
    (tmp_path / "cls_labels.npy").unlink()
    assert any("is on a list but" in p or "neither labels nor a mask" in p for p in report_of(config).problems)
    with pytest.raises(UserError, match=r"no image file for 'my lost photo'.*val\.txt, line 9.*JPEGImages"):
        load(config)


@pytest.mark.parametrize("bad", ["..", "a\x1b[31m", "\x00", "x/.."])
@pytest.mark.parametrize("write", [write_voc, write_folder, write_coco_official])
def test_words_that_are_no_name_of_a_file_are_refused(write: Write, tmp_path: Path, bad: str) -> None:
    config = write(tmp_path)
    path = next(
        p
        for p in (
            tmp_path / "ImageSets/Segmentation/val.txt",
            tmp_path / "labels.csv",
            tmp_path / "annotations/instances_val2014.json",
        )
        if p.exists()
    )
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        content["images"][0]["file_name"] = bad
        path.write_text(json.dumps(content))
    else:
        path.write_text(path.read_text() + (f"{bad},boat,test\n" if path.suffix == ".csv" else f"{bad}\n"))
    with pytest.raises(UserError, match=r"names no image|not valid CSV") as error:
        load(config)
    assert str(error.value).isprintable()


def test_file_names_with_control_characters_are_refused(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "labels.csv").unlink()
    image_files(tmp_path)[0].rename(tmp_path / "images" / "a\nb.png")
    with pytest.raises(UserError, match="names no image") as error:
        load(config)
    assert str(error.value).isprintable()
    os.rename(tmp_path / "images" / "a\nb.png", os.fsencode(tmp_path / "images") + b"/\xff.png")
    with pytest.raises(UserError, match="names no image"):
        load(config)
