"""Image labels from a table of vectors or from the masks.

The tables of WeakTr, SemPLeS and others (cls_labels.npy) are pickles, which can hold any code. They are read by an
unpickler that knows numpy's arrays and scalars and what a pickle writes itself (dictionaries, strings, numbers): all
other names are refused before anything is called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from semples.data.files import Truth, require_file
from semples.data.names import canonical, image_name
from semples.errors import UserError, cut, quoted

LABEL_TABLES = ("cls_labels.npy", "cls_labels_onehot.npy")
PLAIN = re.compile(r"[<>|=]?[bBiufSUO]\d*")  # dtypes of numbers, strings and objects, not of records


def _array(kind: object, shape: object, code: object) -> np.ndarray:
    """The empty array that a pickle then fills by `__setstate__`."""
    return np.ndarray((0,), "b")


def _dtype(code: object, *rest: object) -> np.dtype:
    if not isinstance(code, str) or not PLAIN.fullmatch(code):
        raise pickle.UnpicklingError(f"the type {quoted(code)} is no number and no string")
    return np.dtype(code, copy=True)


def _scalar(dtype: np.dtype, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype)[0]


def _from_buffer(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only ever the first argument of _array
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
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
        return _Unpickler(file).load().item()


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
            other, before = known.setdefault(canonical(image_name(key)), (key, np.asarray(vector)))
            if other != key and not np.array_equal(before, np.asarray(vector)):
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
            raise UserError(f"{path}: no vector of {classes} labels for image '{name}'")
        if not np.isfinite(vector).all():
            raise UserError(f"{path}: the labels of image '{name}' are no numbers (NaN or infinite)")
        return vector > 0

    return labels


def labels_from_masks(mask: Callable[[str], Truth | None], classes: int) -> Callable[[str], np.ndarray]:
    """Labels from the true masks: a class is in an image where one pixel is of it."""

    @cache
    def labels(name: str) -> np.ndarray:
        truth = mask(name)
        if truth is None:
            raise UserError(f"image '{name}' has neither labels nor a mask; give labels or take it off the lists")
        return classes_in(truth.read(), classes)

    return labels


def classes_in(mask: np.ndarray, classes: int) -> np.ndarray:
    """Which classes have a pixel in a mask, bool (K,)."""
    return np.bincount(mask.ravel(), minlength=classes + 1)[1 : classes + 1] > 0
