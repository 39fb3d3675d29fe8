"""COCO's annotations: JSON files of images, categories and the outlines of objects, one file a split.

They are read as files of somebody else: every field is looked at, and what cannot be is a sentence with the file and
the id of the annotation. Categories are the classes 1..K in the order of their ids; one without an object that is not
in `data.classes` is left out (Roboflow writes such a root), as are those that `data.ignore` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from semples.data.classes import as_key, listed, plain
from semples.data.files import is_there, read_text
from semples.data.names import Entry, Files, canonical, name_of
from semples.data.outlines import compress, is_empty
from semples.errors import UserError, cut, quoted

MOST = 12  # names in a message


@dataclass
class Objects:
    """The objects of one image: sizes, classes 1..K and outlines as compact run lengths (None = no pixel), in the order
    of the file; entry: what names the image."""

    entry: Entry
    height: int
    width: int
    outlines: list[tuple[int, Any]] = field(default_factory=list)

    def labels(self, classes: int) -> np.ndarray:
        """Which classes are there, bool (K,)."""
        return np.isin(np.arange(1, classes + 1), [k for k, _ in self.outlines])

    def paint(self) -> np.ndarray:
        """The true mask; where two objects overlap the first stands, as in the customary conversions."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for k, outline in self.outlines:
            if outline is not None:
                mask[(rle.decode(outline) > 0) & (mask == 0)] = k
        return mask


@dataclass(frozen=True)
class Annotations:
    """A file that was read: by image name its objects; outlined: whether there is an object with an outline, or none at
    all."""

    path: Path
    objects: dict[str, Objects]
    outlined: bool


def read_annotations(
    paths: Sequence[Path], files: Sequence[Files], classes: Sequence[str], ignore: Sequence[str]
) -> tuple[list[Annotations], list[str]]:
    """The annotations of each split and remarks on what was left out. files: the images of each split.

    Raises UserError for whatever is not as COCO's annotations are, and where categories and classes contradict.
    """
    contents = [_read_json(path) for path in paths]
    named = [_categories(path, content) for path, content in zip(paths, contents, strict=True)]
    for path, names in zip(paths[1:], named[1:], strict=True):
        _agree(paths[0], named[0], path, names)
    used = {
        a.get("category_id") for content in contents for a in content["annotations"] if _is_id(a.get("category_id"))
    }
    numbers, remarks = _classes_of(paths[0], named[0], used, classes, ignore)
    index = {number: k for k, number in enumerate(numbers, 1)}
    result = []
    for path, content, found in zip(paths, contents, files, strict=True):
        result.append(_read_objects(path, content, found, index, named[0].keys() - index.keys()))
    return result, remarks


def _wrong(path: Path, what: str) -> UserError:
    return UserError(f"{path}: not as COCO's annotations are: {what}; mend it or export the file again")


def _read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three lists of an annotation file. Raises UserError where they are not there."""
    if not is_there(path):
        raise UserError(f"{path}: no such file; unpack COCO's annotations there")
    try:
        content = json.loads(read_text(path, "file of annotations"))
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"no valid JSON ({cut(str(error))})") from None
    for key in ("images", "annotations", "categories"):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise _wrong(path, f"'{key}' is no list of entries: {quoted(value)}")
    return content


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0)


def _id(entry: Mapping[str, Any], key: str) -> Any:
    """A number or word by which entries refer to each other. Raises ValueError, in words, where it is none."""
    value = entry.get(key)
    if not _is_id(value):
        raise ValueError(
            f"{key} {'is missing' if key not in entry else f'= {quoted(value)} is neither number nor word'}"
        )
    return value


def _categories(path: Path, content: Mapping[str, list[dict[str, Any]]]) -> dict[int, str]:
    """Name of each category by its id, "" where it has none."""
    names: dict[int, str] = {}
    for position, category in enumerate(content["categories"], 1):
        number, name = category.get("id"), category.get("name", "")
        if type(number) is not int or not isinstance(name, str):
            raise _wrong(
                path,
                f"category no. {position} has the id {quoted(number)} and the name {quoted(name)}, and not a whole "
                "number and a word",
            )
        if names.setdefault(number, name) != name:
            raise _wrong(path, f"category {number} is there twice, as {quoted(names[number])} and as {quoted(name)}")
    return names


def _agree(first: Path, names: Mapping[int, str], path: Path, others: Mapping[int, str]) -> None:
    """Raises UserError where two files mean different things by a number."""
    for number, name in others.items():
        if number not in names:
            raise UserError(f"{path}: category {number} {quoted(name)} is not in {first}; both must have the same ones")
        if name and names[number] and plain(name) != plain(names[number]):
            raise UserError(
                f"{path}: category {number} is {quoted(name)}, but {quoted(names[number])} in {first}; both must count "
                "their categories alike"
            )


def _classes_of(
    path: Path, names: Mapping[int, str], used: set[Any], classes: Sequence[str], ignore: Iterable[str]
) -> tuple[list[int], list[str]]:
    """The ids of the categories that are the classes 1..K, and remarks on those that were left out.

    Raises UserError where their number is not that of the classes, or a class has the name of another category.
    """
    ignored, known = {plain(name) for name in ignore}, {plain(name) for name in classes}
    numbers = sorted(number for number, name in names.items() if plain(name) not in ignored)
    unused = [n for n in numbers if n not in used and plain(names[n]) not in known]
    remarks = []
    if len(numbers) > len(classes) == len(numbers) - len(unused):
        numbers = [n for n in numbers if n not in unused]
        what = ", ".join(f"{n} {quoted(names[n])}" for n in unused)
        remarks.append(f"{path}: without an object and not in data.classes, so left out: category {what}")
    words = [names[n] for n in numbers]
    copy = f"; in the order of the ids: {as_key(words)}" if all(words) and len(words) <= MOST else ""
    if len(numbers) != len(classes):
        extra = [name for name in words if name and plain(name) not in known]
        out = f"; or leave some out: {as_key(extra, 'ignore')}" if 0 < len(extra) <= len(numbers) - len(classes) else ""
        which = f" ({listed(words)})" if any(words) else ""
        raise UserError(
            f"{path}: {len(numbers)} categories{which}, but data.classes has {len(classes)} names; they must agree"
            f"{copy}{out}"
        )
    place = {plain(word): k for k, word in enumerate(words)}
    moved = [k for k, name in enumerate(classes) if place.get(plain(name), k) != k and plain(words[k]) != plain(name)]
    if moved:
        pairs = ", ".join(f"{numbers[k]} is {quoted(words[k])} and not {quoted(classes[k])}" for k in moved[:4])
        more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
        raise UserError(
            f"{path}: its categories have another order than data.classes: {pairs}{more} (file: {listed(words, MOST)}; "
            f"data.classes: {listed(classes, MOST)}){copy or '; put the names into the order of the ids'}"
        )
    return numbers, remarks


def _read_objects(
    path: Path, content: Mapping[str, list[dict[str, Any]]], files: Files, index: Mapping[int, int], left_out: set[int]
) -> Annotations:
    images = _read_images(path, content["images"], files)
    for position, annotation in enumerate(content["annotations"], 1):
        try:
            _add_object(annotation, images, index, left_out)
        except ValueError as error:
            which = f"id {quoted(annotation['id'])}" if "id" in annotation else f"no. {position}"
            image = images.get(annotation["image_id"]) if _is_id(annotation.get("image_id")) else None
            of = f" (image '{cut(image[0])}')" if image else ""
            raise _wrong(path, f"annotation {which}{of}: {error}") from None
    outlined = any(not is_empty(outline) for _, objects in images.values() for _, outline in objects.outlines)
    some = any(objects.outlines for _, objects in images.values())
    return Annotations(path, dict(images.values()), outlined or not some)


def _add_object(
    annotation: Mapping[str, Any],
    images: Mapping[Any, tuple[str, Objects]],
    index: Mapping[int, int],
    left_out: set[int],
) -> None:
    """Put an object to its image. Raises ValueError, in words, for what cannot be."""
    number, image = _id(annotation, "category_id"), _id(annotation, "image_id")
    if image not in images:
        raise ValueError(f"there is no image with the id {quoted(image)}")
    if number in left_out:
        return
    if number not in index:
        raise ValueError(f"there is no category with the id {quoted(number)}")
    if "segmentation" not in annotation:
        raise ValueError("'segmentation' is missing, as in a file for detection, which has no outlines")
    objects = images[image][1]
    outline = compress(annotation["segmentation"], objects.height, objects.width)
    objects.outlines.append((index[number], outline))


def _read_images(path: Path, images: Sequence[dict[str, Any]], files: Files) -> dict[Any, tuple[str, Objects]]:
    """Name and (still no) objects by the image's id."""
    result: dict[Any, tuple[str, Objects]] = {}
    ids: dict[str, Any] = {}
    for position, image in enumerate(images, 1):
        try:
            key, word = _id(image, "id"), image.get("file_name")
            if not isinstance(word, str):
                raise ValueError(f"file_name = {quoted(word)} is no name of a file")
            height, width = _size(image, "height"), _size(image, "width")
            if height * width > 2 * (Image.MAX_IMAGE_PIXELS or 0):  # what Pillow refuses to read
                raise ValueError(f"{width} x {height} pixels are more than any image that can be read")
        except ValueError as error:
            which = f"id {quoted(image['id'])}" if "id" in image else f"no. {position}"
            raise _wrong(path, f"image {which}: {error}") from None
        entry = Entry(word, f"{path}, image id {quoted(key)}")
        name = name_of(files, word, entry.where)
        known, objects = result.setdefault(key, (name, Objects(entry, height, width)))
        if (known, objects.height, objects.width) != (name, height, width):
            raise _wrong(path, f"the id {quoted(key)} is that of two images, '{cut(known)}' and '{cut(name)}'")
        if (other := ids.setdefault(canonical(name), key)) != key:
            both = f"{quoted(other)} ('{cut(result[other][1].entry.word)}') and {quoted(key)} ('{cut(word)}')"
            raise _wrong(path, f"image '{cut(name)}' is there under two ids, {both}, and needs one id and one name")
    return result


def _size(image: Mapping[str, Any], key: str) -> int:
    value = image.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 1 or value % 1 != 0:
        raise ValueError(f"{key} = {quoted(value)} is no number of pixels")
    return int(value)
