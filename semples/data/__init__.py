"""Data sets behind one shape, see semples.data.dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from semples.config import DataConfig, ScenesData
from semples.data import coco, folder, scenes, voc
from semples.data.dataset import Dataset
from semples.errors import UserError, cut

LAYOUTS: dict[str, Any] = {"voc": voc, "coco": coco, "folder": folder}  # in the order in which they are recognised


def load_data(config: DataConfig, selection: str = "holdout") -> Dataset:
    """The data set that the configuration names. Raises UserError for what is missing, broken or empty; true masks may
    be missing where `selection` is "proxy"."""
    data: Dataset = (
        scenes.load(config.train, config.holdout, config.test, config.seed)
        if isinstance(config, ScenesData)
        else LAYOUTS[config.kind].load(config)
    )
    empty = [name for name, count in zip(data.classes, data.train.labels.sum(0), strict=True) if count == 0]
    if empty:
        raise UserError(f"data: no training image shows the class '{empty[0]}'; add some or take the class away")
    for name, split in (("training", data.train), ("holdout", data.holdout), ("test", data.test)):
        if selection != "proxy" and not split.masked:
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
