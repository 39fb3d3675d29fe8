"""Files of a data set that somebody else made: nothing in them is executed, a pipe or a device never waits, and what is
damaged is one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import (
    COCO_NUMBERS,
    DATA,
    Write,
    image_files,
    images,
    load,
    mask_files,
    report_of,
    write_coco_official,
    write_coco_toco,
    write_coco_weaktr_with_table,
    write_folder,
    write_voc,
    write_voc_with_xml,
)  # fmt: skip

from semples.data.files import SUFFIXES, read_image, read_mask
from semples.data.labels import labels_from_table
from semples.errors import UserError

MARK = Path("executed")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own; what waits for ever fails after a while."""
    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for ever"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    assert not MARK.exists()


class _Attack:
    """Executes a command when it is unpickled."""

    def __init__(self, function: Any = os.system, *words: Any):
        self.call = function, words or (f"touch {MARK}",)

    def __reduce__(self) -> Any:
        return self.call


def write_table(path: Path, content: Any, protocol: int = 4) -> None:
    """A .npy file around any pickle."""
    raw = content if isinstance(content, bytes) else pickle.dumps(np.array(content, dtype=object), protocol)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header.getvalue() + raw)


ATTACKS = {
    "a vector": {"a": _Attack()},
    "a key": {_Attack(): np.zeros(8)},
    "code": {"a": _Attack(eval, f"open('{MARK}', 'w')")},
    "a file": {"a": _Attack(Path.touch, MARK)},
    "numpy's own": {"a": _Attack(np.save, str(MARK), np.zeros(1))},
    "a memory map": {"a": _Attack(np.memmap, str(MARK), "u1", "w+", 0, (9,))},
    "the whole": _Attack(),
    "by name": b"cos\nsystem\n(S'touch " + str(MARK).encode() + b"'\ntR.",
    "a codec": b"c_codecs\nencode\n(S'touch'\nS'rot13'\ntR.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x15lib.npyio.os.getcwd\x93)R.",
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("write", [write_voc, write_coco_toco, write_coco_weaktr_with_table])
def test_tables_of_labels_execute_nothing(write: Write, tmp_path: Path, attack: str) -> None:
    config = write(tmp_path)
    table = next(tmp_path.glob("cls_labels*.npy"))
    write_table(table, ATTACKS[attack])
    with pytest.raises(UserError, match=rf"{table.name}: expected a dictionary from image name to labels") as error:
        load(config)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("protocol", range(6))
def test_tables_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    vector, path = np.array([0, 1, 1], np.float32), tmp_path / "cls_labels.npy"
    table = {
        "a": vector,
        np.str_("b.jpg"): list(vector),
        "c": vector.astype(bool),
        "d": [np.int64(1), 0.5, np.bool_(0)],
    }
    write_table(path, table, protocol)
    labels = labels_from_table(path, 3)
    assert [labels(name).tolist() for name in "abcd"] == [[False, True, True]] * 3 + [[True, True, False]]
    raw = pickle.dumps(np.array(table, dtype=object), protocol)
    write_table(path, raw.replace(b"numpy._core.", b"numpy.core.") if protocol < 4 else raw)
    assert labels_from_table(path, 3)("c").tolist() == [False, True, True]


def test_damaged_tables_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "cls_labels.npy"
    write_table(path, {name: np.arange(8, dtype=np.float32) for name in ("a", "b", "c")})
    good, random_ = path.read_bytes(), random.Random(0)
    for _ in range(1500):
        raw = bytearray(good)
        for _ in range(random_.choice((1, 2, 5))):
            raw[random_.randrange(len(raw))] = random_.randrange(256)
        path.write_bytes(raw[: random_.choice((len(raw), random_.randrange(len(raw))))])
        try:
            labels_from_table(path, 8)("a")
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()


@pytest.mark.parametrize(
    "bad", [np.full(8, np.nan), np.r_[np.inf, np.zeros(7)], np.zeros((1, 8)), np.zeros(7), ["x"] * 8]
)
def test_vectors_that_are_no_labels_are_named(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "cls_labels.npy"
    write_table(path, {"a": bad})
    with pytest.raises(UserError, match=r"cls_labels\.npy: .*'a'"):
        labels_from_table(path, 8)("a")


def test_one_name_with_two_vectors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cls_labels.npy"
    write_table(path, {"x/a.jpg": np.zeros(3), "y/a.png": np.ones(3)})
    with pytest.raises(UserError, match=r"'x/a\.jpg' and 'y/a\.png' are one name with different labels"):
        labels_from_table(path, 3)


def test_other_formats_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS file would start Ghostscript."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / MARK}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n%%EOF\n"
    gif = io.BytesIO()
    Image.new("P", (9, 9)).save(gif, "GIF")
    for suffix in SUFFIXES:
        for content in (eps, gif.getvalue()):
            path = tmp_path / f"a{suffix}"
            path.write_bytes(content)
            for read in (read_image, read_mask):
                with pytest.raises(UserError, match="no PNG, JPEG, BMP, TIFF or WebP"):
                    read(path)


def test_annotations_of_voc_reach_no_other_file(tmp_path: Path) -> None:
    config = write_voc_with_xml(tmp_path)
    (tmp_path / "secret").write_text("boat")
    path = sorted((tmp_path / "Annotations").iterdir())[0]
    entity = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    path.write_text(f"<?xml version='1.0'?>{entity}<annotation><object><name>&x;</name></object></annotation>")
    with pytest.raises(UserError, match=rf"{path.name}: annotation cannot be read \(undefined entity"):
        load(config)
    bomb = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "boat"}">' for i in range(10))
    path.write_text(f"<!DOCTYPE a [{bomb}]><annotation><object><name>&e9;</name></object></annotation>")
    with pytest.raises(UserError, match=rf"{path.name}: annotation cannot be read"):
        load(config)


CODE = f"__import__('os').system('touch {MARK}')"


@pytest.mark.parametrize("text", [CODE, f"=cmd|'touch {MARK}'!A1", f"!!python/object/apply:os.system ['touch {MARK}']"])
def test_text_files_execute_nothing(tmp_path: Path, text: str) -> None:
    for write, names in (
        (write_voc, ["ImageSets/Segmentation/val.txt"]),
        (write_folder, ["labels.csv", "classes.txt"]),
        (write_coco_official, ["annotations/instances_train2014.json"]),
        (write_voc_with_xml, [f"Annotations/{DATA.train.names[0]}.xml"]),
    ):
        root = tmp_path / write.__name__
        config = write(root)
        for name in names:
            good = (root / name).read_text()
            (root / name).write_text(text)
            with pytest.raises(UserError, match=Path(name).name):
                load(config)
            (root / name).write_text(good)


# ------------------------------------------------------------------------------------------ what is no regular file
def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("put", [_pipe, _folder, _device, _loop])
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_voc, "ImageSets/Segmentation/val.txt"),
        (write_voc, "cls_labels.npy"),
        (write_voc, f"JPEGImages/{DATA.train.names[0]}.png"),
        (write_voc, f"SegmentationClass/{DATA.train.names[0]}.png"),
        (write_voc_with_xml, f"Annotations/{DATA.train.names[0]}.xml"),
        (write_folder, "labels.csv"),
        (write_folder, "classes.txt"),
        (write_folder, f"images/{DATA.train.names[0]}.png"),
        (write_folder, f"masks/{DATA.test.names[0]}.png"),
        (write_coco_official, "annotations/instances_train2014.json"),
        (write_coco_official, f"train2014/{DATA.train.names[0]}.png"),
        (write_coco_toco, "cls_labels_onehot.npy"),
    ],
)
def test_pipes_devices_and_folders_in_the_place_of_files(
    write: Write, tmp_path: Path, name: str, put: Callable[[Path], None]
) -> None:
    config = write(tmp_path)
    (tmp_path / name).unlink()
    put(tmp_path / name)
    with pytest.raises(UserError) as error:
        load(config)
    assert str(error.value).isprintable()
    try:
        problems = "\n".join(report_of(config).problems)
    except UserError as error_:
        problems = str(error_)
    assert Path(name).name in problems or Path(name).stem in problems


# -------------------------------------------------------------------------------------------------- damaged content
def _png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (200_000, 200_000), (2**31 - 1, 2**31 - 1)])
def test_images_of_no_or_an_absurd_size_are_named(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(width, height))
    with pytest.raises(UserError, match=r"a\.png: broken image"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_damaged_images_are_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(DATA.train.image(0)).save(path)
    good, random_ = path.read_bytes(), random.Random(1)
    for _ in range(150):
        raw = bytearray(good)
        for _ in range(random_.choice((1, 3, 30))):
            raw[random_.randrange(min(len(raw), random_.choice((60, 10**6))))] = random_.randrange(256)
        path.write_bytes(raw[: random_.choice((len(raw), random_.randrange(len(raw))))])
        try:
            assert read_image(path).ndim == 3
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()


@pytest.mark.parametrize(
    ("mode", "suffix", "message"),
    [
        ("RGB", "png", "found mode RGB; save masks as 8-bit grey or palette PNG"),
        ("1", "png", "found mode 1; save masks as 8-bit grey"),
        ("I;16", "png", "found mode I;16; save masks"),
        ("LA", "png", "found mode LA; save masks"),
        ("L", "jpg", "JPEG changes the values of a mask; save masks"),
    ],
)
def test_masks_that_cannot_hold_classes_say_how_to_save_them(
    tmp_path: Path, mode: str, suffix: str, message: str
) -> None:
    config = write_folder(tmp_path)
    path = mask_files(tmp_path)[0]
    path.unlink()
    size = images(DATA)[path.stem][1].shape[::-1]
    Image.new(mode, size).save(path.with_suffix(f".{suffix}"))
    assert any(message in problem for problem in report_of(config).problems)


def test_masks_of_one_bit_are_0_and_1_where_there_is_one_class(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("thing")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    (tmp_path / "labels.csv").write_text("\n".join([lines[0], *(f"{r[0]},thing,{r[2]}" for r in rows)]))
    for path in mask_files(tmp_path):
        Image.fromarray(np.asarray(Image.open(path)) > 0).save(path)
    data = load(config)
    for name, (_, mask, _, _) in images(data).items():
        assert (mask == (images(DATA)[name][1] > 0)).all()
    assert report_of(config).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"images": ' + "[" * 100_000,
        "{}",
        "[]",
        "null",
        '{"images": [3], "annotations": [], "categories": []}',
        '{"images": {}, "annotations": [], "categories": []}',
        "9" * 5000,
        "\x00",
    ],
)
def test_json_that_is_not_cocos_is_named(tmp_path: Path, text: str) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations/instances_train2014.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{path.name}: not as COCO's annotations are") as error:
        load(config)
    assert str(error.value).isprintable() and len(str(error.value)) < 700
    path.write_bytes("\ufeff{}".encode("utf-16"))
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read as UTF-8"):
        load(config)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("images", "id"), ("images", "file_name"), ("images", "height"), ("images", "width"),
        ("annotations", "image_id"), ("annotations", "category_id"), ("annotations", "segmentation"),
        ("categories", "id"), ("categories", "name"),
    ],
)  # fmt: skip
def test_values_of_another_type_in_annotations(tmp_path: Path, part: str, key: str) -> None:
    """Each is a sentence, or means the same as before."""
    config = write_coco_official(tmp_path)
    before = {name: mask for name, (_, mask, _, _) in images(load(config)).items()}
    path = tmp_path / "annotations/instances_train2014.json"
    good = path.read_text()
    for value in (None, True, "1", -1, 0, 2.5, np.nan, np.inf, 10**400, [], {}, [1], "\x1b[2J"):
        content = json.loads(good)
        content[part][2][key] = value
        path.write_text(json.dumps(content))
        try:
            masks = {name: mask for name, (_, mask, _, _) in images(load(config)).items()}
        except UserError as error:
            assert path.name in str(error) or "the image has" in str(error)
            assert str(error).isprintable() and len(str(error)) < 700
        else:
            same = all((masks[name] == before[name]).all() for name in masks)
            assert same or key in ("category_id", "image_id") or (key, value) == ("segmentation", []), value


def test_numbers_of_categories_are_whole(tmp_path: Path) -> None:
    config = write_coco_official(tmp_path)
    path = tmp_path / "annotations/instances_train2014.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": str(n)} for n in COCO_NUMBERS]  # "10" would come before "2"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"category no\. 1 has the id '1'"):
        load(config)


def test_a_broken_image_does_not_hide_the_others(tmp_path: Path) -> None:
    config = write_folder(tmp_path)
    for path in image_files(tmp_path)[:3]:
        path.write_bytes(b"")
    assert sum("broken image" in problem for problem in report_of(config).problems) == 3
