"""One suite over every layout of files: all trees are written from the same scenes and must read as the same data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import (
    COCO_NUMBERS,
    DATA,
    WRITERS,
    Write,
    images,
    load,
    write_coco_official,
    write_coco_toco,
    write_coco_weaktr,
    write_folder,
    write_voc,
)  # fmt: skip

from semples.config import FolderData, VocData
from semples.data import coco, digests, find, load_data, scenes
from semples.data.check import check, recognise
from semples.data.files import GroundTruth, read_ground_truth, read_image
from semples.data.png_archive import encode_mask
from semples.digests import file_digest
from semples.errors import UserError


@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_reads_as_the_scenes_it_was_written_from(write: Write, tmp_path: Path) -> None:
    data, expected = load(write(tmp_path)), images(DATA)
    assert len(data.train) == 24 and len(data.holdout) == 8 and len(data.test) == 8
    assert not set(data.train.names) & set(data.holdout.names)
    for name, (image, mask, labels, test) in images(data).items():
        wanted = expected[name.split("2014_")[-1]]
        assert (image == wanted[0]).all() and (mask == wanted[1]).all() and test == wanted[3]
        assert (labels[:8] == wanted[2]).all() and not labels[8:].any()
    again = load(write(tmp_path / "again"))
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_is_recognised_and_checked(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    changes = config.model_dump(mode="json", exclude={"kind", "root"}, exclude_defaults=True)
    assert recognise(tmp_path, changes) == config
    report = check(config)
    assert report.images == {"train": (24, 24), "holdout": (8, 8), "test": (8, 8)}
    assert report.counts["test"][:8].tolist() == DATA.test.labels.sum(0).tolist()
    absent = len(report.listing.classes) - 8
    assert len(report.problems) == absent
    name = report.listing.train[0]
    path = report.listing.image(name)
    assert path is not None
    path.write_bytes(path.read_bytes()[:150])
    assert any(f"{path}: broken image" in problem for problem in check(config).problems)


@pytest.mark.parametrize("write", WRITERS)
def test_the_fingerprint_is_of_the_content(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    first = load(config).fingerprint
    path = find(config.kind).load().read_listing(config).image(find(config.kind).load().read_listing(config).train[3])
    image = np.asarray(Image.open(path)).copy()
    path.touch()
    assert load(config).fingerprint == first
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    assert load(config).fingerprint != first


def test_image_files_of_every_kind_become_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(DATA.train.image(0))
    grey = np.asarray(rgb.convert("L"))
    for mode, suffix in (("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png"), ("LA", "png")):
        path = tmp_path / f"{mode}.{suffix}"
        rgb.convert(mode).save(path)
        read = read_image(path)
        assert read.shape == (*grey.shape, 3) and read.dtype == np.uint8
    assert (read_image(tmp_path / "L.png") == grey[..., None]).all()
    assert (read_image(tmp_path / "RGBA.png") == np.asarray(rgb)).all()
    cmyk = read_image(tmp_path / "CMYK.jpg").astype(int)
    assert np.abs(cmyk - np.asarray(rgb)).mean() < 12  # the right colours, not the negative


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = DATA.train.image(int(np.argmax([DATA.train.image(i).shape[0] == 96 for i in range(24)])))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees to see it
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(image)).save(path, exif=exif)
    assert (read_image(path) == image).all()
    upright = GroundTruth(lambda: np.zeros(image.shape[:2], np.uint8), tmp_path)
    assert read_ground_truth(upright, path).shape == image.shape[:2]


def test_polygons_of_coco_are_filled(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    first = content["images"][0]
    content["annotations"] = [
        {"image_id": first["id"], "category_id": COCO_NUMBERS[2], "segmentation": [[4, 2, 14, 2, 14, 8, 4, 8]]},
        {"image_id": first["id"], "category_id": COCO_NUMBERS[5], "segmentation": [[10, 0, 20, 0, 20, 30, 10, 30]]},
    ]
    path.write_text(json.dumps(content))
    test = load(config).test
    mask = test.mask(0)
    assert mask is not None and mask.shape == (first["height"], first["width"])
    assert set(np.unique(mask[3:7, 5:13])) == {3} and set(np.unique(mask[10:28, 11:19])) == {6}
    assert test.labels[0].tolist() == [k in (2, 5) for k in range(8)] and not test.labels[1].any()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_voc(tmp_path)
    return tmp_path


def config(tree: Path, **changes: object) -> VocData:
    return VocData.model_validate({"root": str(tree), "classes": scenes.CLASSES, "holdout": 8, **changes})


def test_what_is_missing_or_broken_is_named(tree: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root 'nowhere' is not a folder"):
        load_data(config(tree, root="nowhere"))
    with pytest.raises(UserError, match=r"none\.txt: no such list"):
        load_data(config(tree, test_list="none"))
    with pytest.raises(UserError, match=r"data\.holdout = 32 leaves no image"):
        load_data(config(tree, holdout=32))
    with pytest.raises(UserError, match="is in the test set and also trained or chosen on"):
        load_data(config(tree, test_list="train"))
    with pytest.raises(UserError, match="no training image shows the class 'unicorn'"):
        (tree / "cls_labels.npy").unlink()
        load_data(config(tree, classes=(*scenes.CLASSES, "unicorn")))
    data = load_data(config(tree))
    path = tree / "JPEGImages" / f"{data.train.names[0]}.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"{path.name}: broken image"):
        data.train.image(0)
    mask = tree / "SegmentationClass" / f"{data.train.names[0]}.png"
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(mask)
    with pytest.raises(UserError, match=r"value 77 is no class: expected 0\.\.8 and 255"):
        data.train.mask(0)
    encode_mask(np.zeros((64, 64), np.uint8)).save(mask)
    path.unlink()
    with pytest.raises(UserError, match="though a list names it"):
        load_data(config(tree))


def test_a_mask_of_another_size_and_an_image_without_a_class_are_found(tree: Path) -> None:
    path = next((tree / "SegmentationClass").iterdir())
    encode_mask(np.zeros((10, 10), np.uint8)).save(path)
    table = np.load(tree / "cls_labels.npy", allow_pickle=True).item()
    table[DATA.train.names[5]] = np.zeros(8)
    np.save(tree / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    problems = "\n".join(check(config(tree)).problems)
    assert "pixels, its mask 10 x 10" in problems
    data = load(config(tree))
    splits = {name: (split, i) for split in (data.train, data.holdout, data.test) for i, name in enumerate(split.names)}
    split, i = splits[path.stem]
    with pytest.raises(UserError, match="pixels, its mask 10 x 10"):
        split.mask(i)
    assert f"image '{DATA.train.names[5]}' shows no class" in problems


def test_only_images_of_the_mask_list_are_measured(tree: Path) -> None:
    few = (*DATA.holdout.names, *DATA.train.names[:3])
    (tree / "ImageSets/Segmentation/few.txt").write_text("\n".join(few))
    data = load_data(config(tree, mask_list="few", holdout=4))
    assert len(data.train) == 28 and len(data.train.annotated) == 7
    assert {data.train.names[i] for i in data.train.annotated} < set(few)
    assert all((data.train.mask(i) is not None) == (i in data.train.annotated) for i in range(28))


def test_an_image_that_shows_no_class_is_named(tree: Path) -> None:
    table = np.load(tree / "cls_labels.npy", allow_pickle=True).item()
    table[DATA.train.names[5]] = np.zeros(8)
    np.save(tree / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"image '.*' shows no class; take it off"):
        load_data(config(tree))


def test_a_folder_without_splits_draws_its_test_set_from_the_masks(tmp_path: Path) -> None:
    write_folder(tmp_path)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    for name in DATA.train.names[:10]:
        (tmp_path / "masks" / f"{name}.png").unlink()
    (tmp_path / "classes.txt").unlink()
    data = load(FolderData(root=str(tmp_path), holdout=5, test=6))
    assert (len(data.train), len(data.holdout), len(data.test)) == (29, 5, 6)
    assert data.classes == tuple(sorted(scenes.CLASSES))
    assert len(data.train.annotated) == 30 - 5 - 6
    with pytest.raises(UserError, match=r"data\.test = 30, but only 30 images have masks"):
        load(FolderData(root=str(tmp_path), test=30))


def test_errors_in_labels_csv_are_named(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    table = tmp_path / "labels.csv"
    good = table.read_text()
    for text, message in (
        (good + '"unbalanced,boat,train', "no image file for 'unbalanced,boat,train'"),
        (good + ",boat,train", "line 42 names no image"),
        (good.replace("image,labels,split", "file,label,split"), "the first line must be"),
        (good.replace(",train", ",holdout"), "has the split 'holdout'; use train or test"),
        (good + good.splitlines()[1], "is there twice"),
        (good.replace(",boat,", ",ship,"), "has the label 'ship', which is not in classes.txt"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            load(config)


def test_coco_masks_with_numbers_of_no_category(tmp_path: Path) -> None:
    """12 is no category: masks with it count their classes 0..80; 200 is a mistake in either way of counting."""
    config = write_coco_weaktr(tmp_path)
    paths = sorted((tmp_path / "voc_format" / "class_labels").iterdir())
    encode_mask(np.full((64, 64), 200, np.uint8)).save(paths[0])
    with pytest.raises(UserError, match="value 200 is no class: expected 0, one of COCO's 91 category numbers"):
        load(config)
    for path in paths:
        mask = np.asarray(Image.open(path))
        encode_mask(np.where(mask == 200, 0, np.where(mask > 0, mask + 11, 0)).astype(np.uint8)).save(path)
    listing = coco.read_listing(config)
    assert "classes 0..80" in listing.layout
    name = DATA.train.names[3]
    assert np.flatnonzero(listing.labels(name)).tolist() == (11 + np.flatnonzero(DATA.train.labels[3])).tolist()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("annotations", [{"image_id": 0, "category_id": 12, "segmentation": [[0, 0, 5, 0, 5, 5]]}]),
        ("annotations", [{"image_id": 99, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 5]]}]),
        ("annotations", [{"image_id": 0, "category_id": 1}]),
        ("annotations", [{"image_id": 0, "category_id": 1, "segmentation": 7}]),
        ("images", 5),
        ("images", [{"id": 0, "file_name": "a.png"}]),
        ("categories", [{"name": "cat"}]),
    ],
)
def test_annotations_that_are_not_cocos_are_named(tmp_path: Path, key: str, value: Any) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations" / "instances_train2014.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=rf"{path.name}: not as COCO's annotations are"):
        load(config)


def test_degenerate_outlines_of_coco_are_no_pixels(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"image_id": 0, "category_id": COCO_NUMBERS[0], "segmentation": outline} for outline in ([], [[1, 2]])
    ]
    path.write_text(json.dumps(content))
    assert not np.asarray(load(config).test.mask(0)).any()


def test_files_that_are_no_text_and_odd_classes_are_named(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for text, message in (
        ("boat\nboat", "class 'boat' is there twice"),
        ("", "0 classes"),
        ("\n".join(map(str, range(300))), "300"),
    ):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            load(config)
    (tmp_path / "classes.txt").write_text("\ufeff" + "\n".join(DATA.classes))  # with a byte order mark
    assert load(config).classes == DATA.classes
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"labels\.csv: cannot be read as UTF-8"):
        load(config)


def test_names_with_dots_and_upper_case_suffixes(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for part in ("images", "masks"):
        for path in (tmp_path / part).iterdir():
            path.rename(path.with_name(f"shot.{path.stem}.PNG"))
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join([lines[0], *(f"shot.{line}" for line in lines[1:])]))
    data = load(config)
    assert len(data.train) == 24 and len(data.test.annotated) == 8 and data.test.names[0].startswith("shot.test-")


@pytest.mark.parametrize("table", [{"a": 3}, {"a": "cat"}, [1, 2], {1: None}])
def test_label_tables_of_another_form_are_named(tree: Path, table: Any) -> None:
    np.save(tree / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"cls_labels\.npy: (expected a dictionary|no vector of 8 labels)"):
        load(config(tree))


def test_a_broken_test_image_is_named_when_its_mask_is_asked_for(tree: Path) -> None:
    path = tree / "JPEGImages" / f"{DATA.test.names[2]}.png"
    path.write_bytes(b"garbage")
    data = load(config(tree))
    with pytest.raises(UserError, match=rf"{path.name}: broken image"):
        data.test.mask(data.test.names.index(path.stem))


def test_lists_name_every_image_once(tree: Path) -> None:
    path = tree / "ImageSets/Segmentation/val.txt"
    path.write_text(path.read_text() * 2)
    assert len(load(config(tree)).test) == 8
    path.write_text("a/one.jpg\nb/one.jpg\n")
    with pytest.raises(UserError, match=r"'b/one\.jpg' and 'a/one\.jpg' have the same name"):
        load(config(tree))
    path.write_text("")
    with pytest.raises(UserError, match="the list of test images is empty"):
        load(config(tree))


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((5, 5), 4000, np.uint16)).save(path)
    with pytest.raises(UserError, match="more than 8 bits a channel"):
        read_image(path)


def test_a_part_of_the_masks_of_coco_is_measured(tmp_path: Path) -> None:
    config = write_coco_toco(tmp_path)
    data = load(config.model_copy(update={"measured": 12}))
    assert len(data.train) == 24 and len(data.holdout) == 8 and len(data.train.annotated) == 4


def test_digests_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = [tmp_path / f"{i}.bin" for i in range(5)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * 10)
    monkeypatch.setattr(digests, "SETTLED", 0.0)
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(digests, "file_digest", count)
    first = digests.file_digests(files)
    assert first == {file: file_digest(file) for file in files} and sorted(read) == files
    read.clear()
    assert digests.file_digests(files) == first and read == []
    # the same size and the same time of modification do not hide a change
    status = files[2].stat()
    files[2].write_bytes(b"changed...")
    os.utime(files[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests.file_digests(files)[files[2]] == file_digest(files[2]) and read == [files[2]]
    # what cannot be remembered is read
    read.clear()
    digests.memory().write_bytes(b"no database")
    assert digests.file_digests(files)[files[0]] == first[files[0]] and len(read) == 5
