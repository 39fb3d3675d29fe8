"""A stage that blurs heatmaps; whoever reads heatmaps reads the blurred ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFilter
from pydantic import Field

from semples.config import Config, Section
from semples.data import png_archive
from semples.data.dataset import Dataset
from semples.log import Log
from semples.stage import Stage
from semples.stages.heatmaps import read_heatmaps


class Smoothing(Section):
    """What is set in `stages.smooth`."""

    radius: int = Field(default=2, ge=0, le=20, description="Radius of the blur in pixels; 0 = none.")


STAGE = Stage("other_smoothing", refines="heatmaps", settings=Smoothing)


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes what the stage heatmaps writes."""
    blur, changed = ImageFilter.BoxBlur(config.stages["smooth"]["radius"]), 0.0
    split, stored = data.images, png_archive.Reader(inputs["heatmaps"] / png_archive.FILE)

    def blurred() -> Iterator[tuple[str, Image.Image]]:
        nonlocal changed
        for i, name in enumerate(split.names):
            maps, _ = read_heatmaps(stored, split, i)
            flat = maps.reshape(-1, maps.shape[-1]).copy()
            for k, of_class in enumerate(maps):
                flat[k * maps.shape[1] : (k + 1) * maps.shape[1]] = Image.fromarray(of_class).filter(blur)
            changed += float(abs(flat.astype(float) - maps.reshape(flat.shape)).mean())
            yield name, Image.fromarray(flat)

    png_archive.write(out / png_archive.FILE, blurred())
    return {"changed": changed / len(split)}
