"""Data sets behind one shape, see semples.data.dataset.

A layout is a module or another object with `load(config)`, which gives the Dataset of a section `data`. Where it is one
of files it also has `recognises(root)`, whether a folder looks like it, and `read_listing(config)`, what it found there
(semples.data.listing): then `semples data check` knows it, and `load` is one line, `assemble(read_listing(config),
config.holdout, config.seed)`. Another package adds one by an entry point of the group `semples.data`; the name is
`data.kind`, and it is given an OtherData. Wrong input is a UserError: one sentence that names the file and what to do.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import numpy as np

from semples import registry
from semples.data.dataset import Dataset
from semples.errors import UserError, cut

if TYPE_CHECKING:
    from semples.config import DataConfig

GROUP = "semples.data"
# modules with `load(config)`, in the order in which `recognise` is asked of those that have it
LAYOUTS = {name: f"semples.data.{name}" for name in ("voc", "coco", "folder", "scenes")}


def find(kind: str) -> EntryPoint:
    """The module that loads data of a kind. Raises UserError for an unknown one."""
    return registry.find(GROUP, LAYOUTS, kind, "data.kind")


def layout(config: DataConfig) -> Any:
    """What knows data of this kind, see the head of this file. Raises UserError where it is unknown or is none."""
    found = registry.load(find(config.kind), "data.kind")
    if not hasattr(found, "load"):
        raise UserError(f"data.kind '{cut(config.kind)}': its package gives no layout, for there is no `load` in it")
    return found


def load_data(config: DataConfig, selection: str = "holdout") -> Dataset:
    """The data set that the configuration names. Raises UserError for what is missing, broken or empty; true masks may
    be missing where `selection` is "proxy"."""
    data: Dataset = layout(config).load(config)
    empty = [name for name, count in zip(data.classes, data.train.labels.sum(0), strict=True) if count == 0]
    if empty:
        raise UserError(f"data: no training image shows the class '{empty[0]}'; add some or take the class away")
    for name, split in (("training", data.train), ("holdout", data.holdout), ("test", data.test)):
        if selection != "proxy" and not split.annotated:
            reason = f" ({data.doubts[0]})" if data.doubts else ""
            raise UserError(
                f"data: no {name} image has a true mask, so nothing can be measured there; add a few, or take "
                f"selection=proxy{reason}"
            )
        unlabelled = np.flatnonzero(~split.labels.any(1))
        if split is not data.test and len(unlabelled):
            raise UserError(
                f"data: image '{cut(split.names[unlabelled[0]])}' shows no class; take it off the {name} list"
            )
    return data
