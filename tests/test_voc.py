from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semples.config import VocData
from semples.data import load_data, scenes, voc
from semples.errors import UserError

DATA = scenes.load(24, 8, 8, 0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    voc.write(DATA, tmp_path)
    return tmp_path


def config(tree: Path, **changes: object) -> VocData:
    return VocData.model_validate({"root": str(tree), "classes": scenes.CLASSES, "holdout": 8, **changes})


def test_a_written_tree_reads_as_the_same_images(tree: Path) -> None:
    data = load_data(config(tree))
    assert len(data.train) == 24 and len(data.holdout) == 8 and len(data.test) == 8
    assert not set(data.train.names) & set(data.holdout.names)
    original = {n: (s, i) for s in (DATA.train, DATA.holdout, DATA.test) for i, n in enumerate(s.names)}
    for split in (data.train, data.holdout, data.test):
        for i, name in enumerate(split.names):
            source, j = original[name]
            assert (split.image(i) == source.image(j)).all()
            assert (split.mask(i) == source.mask(j)).all()
            assert (split.labels[i] == source.labels[j]).all()


def test_labels_come_from_xml_or_masks_where_there_is_no_table(tree: Path) -> None:
    expected = load_data(config(tree))
    (tree / "cls_labels.npy").unlink()
    voc.load.cache_clear()
    assert (load_data(config(tree)).train.labels == expected.train.labels).all()
    (tree / "Annotations").mkdir()
    for split in (DATA.train, DATA.holdout, DATA.test):
        for name, labels in zip(split.names, split.labels, strict=True):
            objects = "".join(
                f"<object><name>{c}</name></object>" for c, x in zip(DATA.classes, labels, strict=True) if x
            )
            (tree / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    for mask in (tree / "SegmentationClass").iterdir():
        if mask.stem.startswith("test"):
            mask.unlink()
    voc.load.cache_clear()
    with pytest.raises(UserError, match="no test image has a true mask"):
        load_data(config(tree))
    data = voc.load(config(tree))
    assert (data.train.labels == expected.train.labels).all()
    assert data.test.mask(0) is None


def test_the_fingerprint_is_of_the_content(tree: Path) -> None:
    first = load_data(config(tree)).fingerprint
    path = tree / "JPEGImages" / f"{DATA.train.names[0]}.png"
    image = np.asarray(Image.open(path)).copy()
    path.touch()
    voc.load.cache_clear()
    assert load_data(config(tree)).fingerprint == first
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    voc.load.cache_clear()
    assert load_data(config(tree)).fingerprint != first


def test_what_is_missing_or_broken_is_named(tree: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root 'nowhere' is not a folder"):
        load_data(config(tree, root="nowhere"))
    with pytest.raises(UserError, match=r"none\.txt: no such list"):
        load_data(config(tree, test_list="none"))
    with pytest.raises(UserError, match=r"data\.holdout = 32 leaves no image"):
        load_data(config(tree, holdout=32))
    with pytest.raises(UserError, match=r"is on train\.txt and also trained or chosen on"):
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
    voc.load.cache_clear()
    path.unlink()
    with pytest.raises(UserError, match="no such image, though a list names it"):
        load_data(config(tree))


def test_only_images_of_the_mask_list_are_measured(tree: Path) -> None:
    few = (*DATA.holdout.names, *DATA.train.names[:3])
    (tree / "ImageSets/Segmentation/few.txt").write_text("\n".join(few))
    data = load_data(config(tree, mask_list="few", holdout=4))
    assert len(data.train) == 28 and len(data.train.masked) == 7
    assert {data.train.names[i] for i in data.train.masked} < set(few)
    assert all((data.train.mask(i) is not None) == (i in data.train.masked) for i in range(28))


def test_an_image_that_shows_no_class_is_named(tree: Path) -> None:
    table = np.load(tree / "cls_labels.npy", allow_pickle=True).item()
    table[DATA.train.names[5]] = np.zeros(8)
    np.save(tree / "cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"image '.*' shows no class; take it off"):
        load_data(config(tree))
