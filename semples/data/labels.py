"""Image labels from a table of vectors or from the masks.

The tables of WeakTr, SemPLeS and others (cls_labels.npy) are pickles, which can hold any code. They are read by an
unpickler that knows numpy's arrays and scalars, which it makes itself, and what a pickle writes without a name
(dictionaries, strings, numbers): all other names are refused before anything is called.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from semples.data.files import GroundTruth, require_file
from semples.data.names import canonical, image_name
from semples.errors import UserError, cut, quoted

LABEL_TABLES = ("cls_labels.npy", "cls_labels_onehot.npy")
PLAIN = re.compile(r"[<>|=]?[bBiufSUO]\d*")  # dtypes of numbers, strings and objects, not of records


class _Dtype:
    """A type of numbers or strings; of the state in the pickle only the order of bytes is taken."""

    def __init__(self, code: object, *rest: object):
        if not isinstance(code, str) or not PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"the type {quoted(code)} is no number and no string")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array, which a pickle makes empty and then fills."""

    def __init__(self, *made_of: object):
        self.value: np.ndarray = np.zeros(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        shape, kind, fortran, data = state[-4:]
        if kind.dtype.hasobject:
            self.value = np.empty(len(data), object)
            self.value[:] = data
        else:
            self.value = np.frombuffer(data, kind.dtype)
        self.value = self.value.reshape(shape, order="F" if fortran else "C")


def _scalar(kind: _Dtype, raw: bytes) -> Any:
    return np.frombuffer(raw, kind.dtype)[0]


def _from_buffer(raw: bytes, kind: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    array = _Array()
    array.value = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
    return array


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _Array
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(
                f"it names {quoted(f'{module}.{name}')}, which a table of labels does not need and which is not called"
            )
        return KNOWN[module, name]


def _read_table(path: Path) -> Any:
    """What is in a .npy file of one object. Raises ValueError and others where it is something else."""
    with path.open("rb") as file:
        major, _ = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if not dtype.hasobject or shape != ():
            raise ValueError("it is an array")
        content = file.read()
    for code, argument, _ in pickletools.genops(content):
        # the unpickler would make room for it before anything else is known
        if "PUT" in code.name and int(argument or 0) > len(content):
            raise ValueError("it counts more parts than it has bytes")
    return _Unpickler(BytesIO(content)).load().value.item()


def _vector(value: Any) -> np.ndarray:
    return value.value if isinstance(value, _Array) else np.asarray(value)


def labels_from_table(path: Path, classes: int, columns: Sequence[int] = ()) -> Callable[[str], np.ndarray]:
    """Labels from a .npy dictionary: image name (or name.jpg) -> K numbers, above 0 = in the image.

    columns: those of a wider vector that are the K classes. Raises UserError for a file of another form.
    """
    require_file(path, "table of labels")
    try:
        table = _read_table(path)
        if not isinstance(table, Mapping):
            raise ValueError("it holds something else")
        known: dict[str, tuple[str, np.ndarray]] = {}
        for word, vector in table.items():
            key = str(word)
            other, before = known.setdefault(canonical(image_name(key)), (key, _vector(vector)))
            if other != key and not np.array_equal(before, _vector(vector)):
                raise UserError(
                    f"{path}: {quoted(other)} and {quoted(key)} are one name with different labels; keep one"
                )
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path}: expected a dictionary from image name to labels ({cut(str(error), 200)})") from None

    def labels(name: str) -> np.ndarray:
        _, vector = known.get(canonical(name), ("", np.zeros(0)))
        if vector.ndim == 1 and columns and len(vector) > max(columns) >= classes:
            vector = vector[list(columns)]
        if vector.shape != (classes,) or vector.dtype.kind not in "biuf":
            raise UserError(f"{path}: no vector of {classes} labels for image '{cut(name)}'")
        if not np.isfinite(vector).all():
            raise UserError(f"{path}: the labels of image '{cut(name)}' are no numbers (NaN or infinite)")
        return vector > 0

    return labels


def labels_from_masks(mask: Callable[[str], GroundTruth | None], classes: int) -> Callable[[str], np.ndarray]:
    """Labels from the true masks: a class is in an image where one pixel is of it."""

    @cache
    def labels(name: str) -> np.ndarray:
        ground_truth = mask(name)
        if ground_truth is None:
            raise UserError(f"image '{cut(name)}' has neither labels nor a mask; give labels or take it off the lists")
        return classes_in(ground_truth.read(), classes)

    return labels


def classes_in(mask: np.ndarray, classes: int) -> np.ndarray:
    """Which classes have a pixel in a mask, bool (K,)."""
    return np.bincount(mask.ravel(), minlength=classes + 1)[1 : classes + 1] > 0
