"""A stage that only measures: which part of the pseudo masks is of a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semples.config import Config
from semples.data import png_archive
from semples.data.dataset import Dataset
from semples.log import Log
from semples.stage import Stage, fixed

STAGE = Stage("other_count", inputs=fixed("masks"))


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes the share of each image."""
    made = png_archive.Reader(inputs["masks"] / png_archive.FILE)
    shares = np.array([(made.read(name) > 0).mean() for name in data.holdout.names])
    np.save(out / "shares.npy", shares)
    return {"share": float(shares.mean())}
