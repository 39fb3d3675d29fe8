"""Writes the folder of a finished run: what people look at, and what `semples predict` needs."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np

from semples import by_image, figures, generators
from semples.config import dump
from semples.data import png_archive
from semples.errors import UserError, quoted
from semples.image_sets import judging
from semples.pipeline.graph import latest
from semples.pipeline.run import Result
from semples.run_folder import CONFIG, GALLERY, MASKS, RESULT, RESULT_FORMAT, headline
from semples.stages import prompts, segment
from semples.stages.heatmaps import read_heatmaps

EXAMPLES = 8
WEIGHTS = {"refine": generators.WEIGHTS, "prompts": prompts.WEIGHTS, "segment": segment.WEIGHTS}


def write_run(result: Result, out: Path) -> None:
    """Write config.yaml, gallery.png, by_image.npz and result.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(dump(result.config, "the resolved configuration of this run: semples run config.yaml"))
    _draw_gallery(result, out / GALLERY)
    stages = latest(result.config, result.folders).values()
    by_image.write(out, {name: of for folder in stages for name, of in by_image.read(folder).items()})
    (out / RESULT).write_text(json.dumps(RESULT_FORMAT.stamp() | result.to_dict(), indent=2) + "\n")


def write_weights(folders: dict[str, Path], out: Path) -> None:
    """Copy the weights of mask generator, prompts and, if there is one, network from the results of their stages, as
    `latest` gives them."""
    out.mkdir(parents=True, exist_ok=True)
    for stage, file in WEIGHTS.items():
        if stage not in folders:
            continue
        shutil.copyfile(folders[stage] / file, out / file)


def write_masks(folders: Iterable[Path], out: Path) -> None:
    """Unpack the pseudo masks of these results, those of the training set say: NAME.png with VOC's palette."""
    (out / MASKS).mkdir(parents=True)
    for path in (folder / png_archive.FILE for folder in folders):
        with zipfile.ZipFile(path) as stored:
            for name in stored.namelist():
                if PurePath(name).name != name or not name.endswith(".png"):
                    raise UserError(f"{path}: holds {quoted(name)}, which is no name of a mask")
                (out / MASKS / name).write_bytes(stored.read(name))


def _draw_gallery(result: Result, path: Path) -> None:
    data, folders = result.data, latest(result.config, result.folders)
    split = data.treating(judging(result.config.selection)).images
    runtime, test = result.config.runtime, result.config.segment.test
    chosen = figures.choose_examples(split, EXAMPLES)
    stored = png_archive.Reader(folders["heatmaps"] / png_archive.FILE)
    heat = {i: read_heatmaps(stored, split, i)[0] for i in chosen}
    made = png_archive.Reader(folders["masks"] / png_archive.FILE)
    pseudo = {i: made.read(split.names[i]) for i in chosen}
    images = {i: split.image(i) for i in chosen}
    ground_truth = {i: split.mask(i) for i in chosen}
    rows: dict[str, list[np.ndarray]] = {
        "image": [images[i] for i in chosen],
        "CAM": [figures.paint_cam(images[i], heat[i]) for i in chosen],
        "pseudo mask": [figures.paint_mask(images[i], pseudo[i]) for i in chosen],
    }
    if "segment" in folders:
        network = segment.load_network(result.config.segment, data.num_classes, folders["segment"])
        network.to(runtime.device)
        predicted = {i: segment.predict(network, images[i], runtime, test) for i in chosen}
        rows["prediction"] = [figures.paint_mask(images[i], predicted[i]) for i in chosen]
    if split.annotated:
        rows["ground truth"] = [
            figures.paint_mask(images[i], mask) for i in chosen if (mask := ground_truth[i]) is not None
        ]
    titles = [", ".join(data.classes[k] for k in np.flatnonzero(split.labels[i])) for i in chosen]
    figures.gallery(rows, titles, headline(result.metrics, result.config), path)
