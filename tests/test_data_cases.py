"""Small data sets as people have them, each bent in one way: what `semples data check` says of them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from semples.data.png_archive import encode_mask

CLASSES = ("red thing", "green thing", "blue thing")
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
SHOWN = ((0, 1), (1, 2), (2, 0), (0, 1, 2))  # classes of im0..im3; im3 is the test image
SIZE, SIDE = 48, 13
KEY = f"classes=[{', '.join(CLASSES)}]"


def corner(image: int, place: int) -> tuple[int, int]:
    """Left and top of the square at the place."""
    return 4 + 2 * image + 9 * place, 2 + 15 * place


def picture(image: int) -> np.ndarray:
    result = np.full((SIZE, SIZE, 3), 128, np.uint8)
    for place, k in enumerate(SHOWN[image]):
        x, y = corner(image, place)
        result[y : y + SIDE, x : x + SIDE] = COLOURS[k]
    return result


def truth(image: int) -> np.ndarray:
    result = np.zeros((SIZE, SIZE), np.uint8)
    for place, k in enumerate(SHOWN[image]):
        x, y = corner(image, place)
        result[y : y + SIDE, x : x + SIDE] = k + 1
    return result


def square(image: int, place: int) -> list[list[int]]:
    x, y = corner(image, place)
    return [[x, y, x + SIDE, y, x + SIDE, y + SIDE, x, y + SIDE]]


def annotations(images: range) -> dict[str, Any]:
    entries = [{"id": i + 1, "file_name": f"im{i}.jpg", "height": SIZE, "width": SIZE} for i in images]
    objects = [
        {"image_id": i + 1, "category_id": k + 1, "iscrowd": 0, "segmentation": square(i, place)}
        for i in images
        for place, k in enumerate(SHOWN[i])
    ]
    categories = [{"id": k + 1, "name": name, "supercategory": "things"} for k, name in enumerate(CLASSES)]
    return {
        "images": entries,
        "annotations": [{"id": n + 1, **entry} for n, entry in enumerate(objects)],
        "categories": categories,
    }


def save_pictures(folder: Path, images: range, suffix: str = "jpg") -> None:
    folder.mkdir(parents=True)
    for i in images:
        Image.fromarray(picture(i)).save(folder / f"im{i}.{suffix}")


def write_coco(
    root: Path,
    change: Callable[[dict[str, Any]], None] = lambda content: None,
    train: tuple[str, str] = ("train2014", "annotations/instances_train2014.json"),
    test: tuple[str, str] = ("val2014", "annotations/instances_val2014.json"),
) -> None:
    """Folder of the images and file of the annotations, for the training and the test images."""
    for (folder, file), images in ((train, range(3)), (test, range(3, 4))):
        save_pictures(root / folder, images)
        content = annotations(images)
        change(content)
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(json.dumps(content))


def write_folder(root: Path, csv: str = "", masks: bool = True) -> None:
    save_pictures(root / "images", range(4), "png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    if csv:
        (root / "labels.csv").write_text(csv)
    if masks:
        (root / "masks").mkdir()
        for i in range(4):
            encode_mask(truth(i)).save(root / "masks" / f"im{i}.png")


def write_voc(root: Path, lists: tuple[str, ...] = ("train_aug", "train", "val"), name: str = "im") -> None:
    save_pictures(root / "JPEGImages", range(4), "png")
    for folder in ("SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        encode_mask(truth(i)).save(root / "SegmentationClass" / f"im{i}.png")
    for file in lists:
        images = range(3, 4) if file == "val" else range(3)
        (root / "ImageSets/Segmentation" / f"{file}.txt").write_text("".join(f"{name}{i}\n" for i in images))


def table(line: str, columns: str = "image,labels,split", between: str = ";") -> str:
    """labels.csv, whose lines are made from `line` with NAME, LABELS and SPLIT."""
    rows = [columns]
    for i, shown in enumerate(SHOWN):
        labels = between.join(CLASSES[k] for k in shown)
        split = "test" if i == 3 else "train"
        rows.append(line.replace("NAME", f"im{i}.png").replace("LABELS", labels).replace("SPLIT", split))
    return "\n".join(rows) + "\n"


ROWS = table("NAME,LABELS,SPLIT")


def each(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Set fields in every annotation; a function gets the annotation."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry.update({key: value(entry) if callable(value) else value for key, value in fields.items()})

    return change


def first(segmentation: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = segmentation

    return change


def permute(content: dict[str, Any]) -> None:
    for category, name in zip(content["categories"], ("blue thing", "red thing", "green thing"), strict=True):
        category["name"] = name


def backslashes(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image["file_name"] = f"..\\photos\\{image['file_name']}"


def add_root(content: dict[str, Any]) -> None:
    content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})


# what changes a tree of COCO, and what the exit code is and is said
COCO: dict[str, tuple[Callable[[dict[str, Any]], None], int, list[str]]] = {
    "nothing": (lambda content: None, 0, ["nothing is missing"]),
    "NaN": (first([[float("nan"), 2, 17, 2, 17, 15]]), 2, ["instances_train2014.json", "annotation id 1", "NaN"]),
    "huge": (first([[4, 2, 1e7, 2, 17, 15]]), 2, ["instances_train2014.json", "annotation id 1", "1e+07"]),
    "short": (
        first({"size": [SIZE, SIZE], "counts": [100, 20]}),
        2,
        ["instances_train2014.json", "annotation id 1", "do not fill the image", "120 of 2304"],
    ),
    "other size": (
        first({"size": [24, 96], "counts": [2304]}),
        2,
        ["instances_train2014.json", "annotation id 1", "96 x 24", "48 x 48"],
    ),
    "permuted": (
        permute,
        2,
        ["1 is 'blue thing' and not 'red thing'", '"classes=[blue thing, red thing, green thing]"'],
    ),
    "boxes only": (each(segmentation=[]), 2, ["no object has an outline", "only selection=proxy can use it"]),
    "boxes as polygons": (
        each(segmentation=lambda entry: [entry["segmentation"][0][:4]]),
        2,
        ["no object has an outline", "only selection=proxy can use it"],
    ),
    "backslashes": (backslashes, 0, ["nothing is missing"]),
    "root category": (add_root, 0, ["remark: ", "category 0 'things'", "nothing is missing"]),
    "an object without an outline": (
        lambda content: first([])(content) if len(content["images"]) == 3 else None,
        0,
        ["remark: ", "disagree in 1 of 4 images: 'im0' is labelled", "nothing is missing"],
    ),
}


@pytest.mark.parametrize("case", COCO)
def test_coco(command: Command, case: str) -> None:
    change, expected, words = COCO[case]
    write_coco(Path("set"), change)
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert code == expected, err
    assert all(word in out + err for word in words) and "Traceback" not in err
    if expected == 2:
        assert len(err) < 900 and err.startswith("error: ")


def test_a_byte_order_mark_before_json(command: Command) -> None:
    write_coco(Path("set"))
    for path in Path("set/annotations").iterdir():
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert command("semples", "data", "check", "set", KEY, "holdout=1")[0] == 0


def test_file_names_of_coco_2017(command: Command) -> None:
    write_coco(
        Path("set"),
        lambda content: None,
        ("train2017", "annotations/instances_train2017.json"),
        ("val2017", "annotations/instances_val2017.json"),
    )
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert (code, err) == (0, "") and "layout: coco, 2017" in out and "nothing is missing" in out


def test_file_names_of_cvat(command: Command) -> None:
    save_pictures(Path("set/images/default"), range(4))
    Path("set/annotations").mkdir()
    path = Path("set/annotations/instances_default.json")
    path.write_text(json.dumps(annotations(range(4))))
    code, _, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert code == 2 and f"{path} has no test set of its own" in err and "data.test = 100" in err and "test=1" in err
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1", "test=1")
    assert (code, err) == (0, "") and "train on 2 images" in out and "network on 1 test images" in out
    path.rename("set/annotations/my_labels.json")
    code, _, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert code == 2 and "my_labels.json is there" in err and "instances_default.json" in err


def test_file_names_of_roboflow(command: Command) -> None:
    write_coco(
        Path("set"), add_root, ("train", "train/_annotations.coco.json"), ("valid", "valid/_annotations.coco.json")
    )
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert (code, err) == (0, "") and "layout: coco, Roboflow" in out and "category 0 'things'" in out
    save_pictures(Path("set/test"), range(3, 4))
    Path("set/test/_annotations.coco.json").write_text(Path("set/valid/_annotations.coco.json").read_text())
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert code == 0 and "remark: set/valid: not used" in out


# labels.csv of a folder without masks, the exit code and what is said
TABLES: dict[str, tuple[str, int, list[str]]] = {
    "nothing": (ROWS, 0, ["needs selection=proxy"]),
    "backslashes": (table("images\\NAME,LABELS,SPLIT"), 0, ["nothing is missing"]),
    "case": ("\ufeff" + table("NAME,LABELS,SPLIT", "Image,Labels,Split").replace("\n", "\r\n"), 0, ["nothing is"]),
    "blanks": (table("NAME, LABELS, SPLIT", "image, labels, split"), 0, ["nothing is missing"]),
    "semicolons": (
        "\ufeff" + table("NAME;LABELS;SPLIT", "image;labels;split", ","),
        2,
        ["'image;labels;split'", "columns separated by semicolons (`;`)"],
    ),
    "tabs": (table("NAME\tLABELS\tSPLIT", "image\tlabels\tsplit"), 2, ["columns separated by tabs"]),
    "other words": (table("NAME,LABELS,SPLIT", "file,class,part"), 2, ["found 'file,class,part'"]),
    "a column twice": (table("NAME,LABELS,SPLIT", "image,labels,Image"), 2, ["has the column 'image' twice"]),
    "too many columns": (table("NAME,LABELS,SPLIT", between=","), 2, ["line 2: 4 columns, but the first line has 3"]),
    "trailing commas": (table("NAME,LABELS,SPLIT,,"), 0, ["nothing is missing"]),
    "parts in capitals": (ROWS.replace(",train", ",Train"), 0, ["nothing is missing"]),
}


@pytest.mark.parametrize("case", TABLES)
def test_folder_with_labels_csv(command: Command, case: str) -> None:
    text, expected, words = TABLES[case]
    write_folder(Path("set"), text, masks=False)
    code, out, err = command("semples", "data", "check", "set", "holdout=1")
    assert code == expected, err
    assert all(word in out + err for word in words)


def check_folder(command: Command) -> tuple[int, str, str]:
    return command("semples", "data", "check", "set", "holdout=1", "test=1")


def test_folder_with_the_class_names_of_labelme(command: Command) -> None:
    write_folder(Path("set"))
    Path("set/classes.txt").write_text("\n".join(["_background_", *CLASSES]))
    code, out, err = check_folder(command)
    assert (code, err) == (0, "") and "1 red thing" in out and "'_background_' at the beginning is no class" in out


def test_folder_with_files_of_a_mac(command: Command) -> None:
    write_folder(Path("set"))
    for path in list(Path("set/images").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    code, out, err = check_folder(command)
    assert (code, err) == (0, "") and "train on 2 images" in out and "nothing is missing" in out


def test_folder_with_masks_of_another_name(command: Command) -> None:
    write_folder(Path("set"), ROWS)
    for path in list(Path("set/masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    code, out, err = check_folder(command)
    assert (code, err) == (0, "") and "choose on the masks of 1" in out
    for path in list(Path("set/masks").iterdir()):
        path.rename(path.with_name(path.name.replace("_mask", "_labels")))
    code, out, err = check_folder(command)
    assert code == 2 and "4 of 4 masks belong to no image, as set/masks/im" in err and "4 images have no mask" in err


def test_folder_with_masks_of_one_bit(command: Command) -> None:
    write_folder(Path("set"), table("NAME,thing,SPLIT"))
    Path("set/classes.txt").write_text("thing\n")
    for i in range(4):
        Image.fromarray(truth(i) > 0).save(f"set/masks/im{i}.png")
    code, out, err = check_folder(command)
    assert (code, err) == (0, "") and "nothing is missing" in out


def test_voc_without_one_of_its_lists(command: Command) -> None:
    write_voc(Path("set"), ("train", "val"))
    code, _, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert code == 2 and "train_aug.txt: no such list of images; there are train, val" in err
    assert "train_list=train" in err
    assert command("semples", "data", "check", "set", KEY, "holdout=1", "train_list=train")[0] == 0
    for path in list(Path("set/ImageSets/Segmentation").iterdir()):
        path.unlink()
    code, _, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert code == 2 and "no such list of images, nor any other list" in err


def test_voc_with_names_in_two_forms(command: Command) -> None:
    write_voc(Path("set"), name="caf\u00e9")
    for path in [*Path("set/JPEGImages").iterdir(), *Path("set/SegmentationClass").iterdir()]:
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name.replace("im", "café"))))
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert (code, err) == (0, "") and "train on 2 images" in out


def test_voc_with_white_space_in_annotations(command: Command) -> None:
    write_voc(Path("set"))
    Path("set/Annotations").mkdir()
    for i, shown in enumerate(SHOWN):
        objects = "".join(f"<object>\n<name>\n\t{CLASSES[k]}\n</name></object>" for k in shown)
        Path(f"set/Annotations/im{i}.xml").write_text(f"<annotation>{objects}</annotation>")
    code, out, err = command("semples", "data", "check", "set", KEY, "holdout=1")
    assert (code, err) == (0, "") and "image labels from set/Annotations" in out


def test_names_with_brackets_are_printed_as_they_are(command: Command) -> None:
    """Not taken for the markup of the terminal."""
    write_folder(Path("set"), ROWS.replace("red thing", "[red] thing[/x]"))
    Path("set/classes.txt").write_text("\n".join(["[red] thing[/x]", *CLASSES[1:]]))
    code, out, err = check_folder(command)
    assert (code, err) == (0, "") and "1 [red] thing[/x]" in out


def test_a_run_is_refused_before_it_starts(command: Command) -> None:
    write_folder(Path("set"), ROWS)
    order = np.array([0, 2, 3, 1], np.uint8)
    for i in range(4):
        encode_mask(order[truth(i)]).save(f"set/masks/im{i}.png")
    code, _, err = check_folder(command)
    assert code == 2 and "disagree in 3 of 4 images" in err
    words = ("data.kind=folder", "data.root=set", "data.holdout=1", "classify.epochs=1")
    code, _, err = command("semples", "run", *words, "--out", "r")
    assert code == 2 and err.startswith("error: data: image labels and masks disagree in 3 of 4 images")
    assert not Path("r/store").exists() or not any(Path("r/store").iterdir())
