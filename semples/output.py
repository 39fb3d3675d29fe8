"""The folder of a finished run: what people look at, and what `semples predict` needs."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from semples import figures, generators
from semples.config import Config, dump, parse, read_config
from semples.data import archive
from semples.data.classes import check_classes
from semples.errors import UserError, cut, quoted
from semples.folders import overlap
from semples.formats import Format, json_object
from semples.lease import local_folder
from semples.pipeline.graph import graph, latest
from semples.pipeline.run import Result
from semples.results import KEY
from semples.stages import prompts, segment
from semples.stages.heatmaps import FILES, read_heatmaps

CONFIG, RESULT, GALLERY, MASKS = "config.yaml", "result.json", "gallery.png", "masks"
STORE = "store"  # unless another place is named
RESULT_FORMAT = Format((dict,))  # result.json of version 0.1.0 lacks the stamp only
LATER = ("stages",)  # sections of the configuration that version 0.1.0 did not write
EXAMPLES = 8
# how the choice was made, on every figure
STAMPS = {
    "holdout": "chosen on holdout masks",
    "proxy": "PROXY: chosen by CLIP, without any mask",
    "oracle": "ORACLE: chosen on the evaluation masks",
}
WEIGHTS = {"refine": generators.WEIGHTS, "prompts": prompts.WEIGHTS, "segment": segment.WEIGHTS}


def data_folder(config: Config, place: str | None, out: Path) -> str:
    """The folder of the data, "" where they are drawn. Raises UserError where the store that is named, `place`,
    overlaps it or what a run writes into `out`."""
    root: str = getattr(config.data, "root", "")
    folder = local_folder(place) if place else None
    for used in filter(None, (root, str(out / MASKS))):
        if folder and overlap(folder, Path(used)):
            what = "the data in" if used == root else "what is written into"
            raise UserError(f"store {place}: overlaps {what} {used}; choose another folder")
    return root


def headline(metrics: dict[str, float], config: Config) -> str:
    """Both mIoUs, as far as the run went, with the way of choosing stamped on them."""
    stamp = STAMPS[config.selection]
    if config.segment.train_on == "ground_truth":
        stamp += "; BOUND: the network was trained on true masks"
    names = {"pseudo_miou": "pseudo mask mIoU", "seg_miou": "segmentation mIoU"}
    found = [f"{name} {metrics[key]:.1f}" for key, name in names.items() if key in metrics]
    return f"{', '.join(found) or 'no mask to measure by'} ({stamp})"


def write_run(result: Result, out: Path) -> None:
    """Write config.yaml, gallery.png and result.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(dump(result.config, "the resolved configuration of this run: semples run config.yaml"))
    _draw_gallery(result, out / GALLERY)
    (out / RESULT).write_text(json.dumps(RESULT_FORMAT.stamp() | result.to_dict(), indent=2) + "\n")


def write_weights(folders: dict[str, Path], out: Path) -> None:
    """Copy the weights of mask generator, prompts and, if there is one, network from the results of their stages, as
    `latest` gives them."""
    out.mkdir(parents=True, exist_ok=True)
    for stage, file in WEIGHTS.items():
        if stage not in folders:
            continue
        shutil.copyfile(folders[stage] / file, out / file)


def write_masks(folders: dict[str, Path], out: Path) -> None:
    """Unpack the pseudo masks of the training set, from the results as `latest` gives them: NAME.png with VOC's
    palette."""
    (out / MASKS).mkdir(parents=True)
    with zipfile.ZipFile(folders["masks"] / FILES["train"]) as stored:
        for name in stored.namelist():
            if PurePath(name).name != name or not name.endswith(".png"):
                raise UserError(
                    f"{folders['masks'] / FILES['train']}: holds {quoted(name)}, which is no name of a mask"
                )
            (out / MASKS / name).write_bytes(stored.read(name))


class _Result(BaseModel):
    """What others rely on in result.json; more may be in it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    selection: Literal["holdout", "proxy", "oracle"]
    metrics: dict[str, float]
    keys: dict[str, Annotated[str, Field(pattern=f"^{KEY.pattern}$")]]
    classes: list[str]

    @field_validator("classes")
    @classmethod
    def _are_names(cls, classes: list[str]) -> list[str]:
        try:
            check_classes(classes, "classes")
        except UserError as error:
            raise ValueError(str(error)) from None
        return classes


def read_run(folder: Path) -> tuple[Config, dict[str, Any]]:
    """Configuration and result.json of a finished run. Raises UserError if the folder holds none, or a damaged one."""
    path = folder / RESULT
    if not path.is_file():
        raise UserError(f"{folder}: no finished run here (no {RESULT}); name the folder that `semples run` wrote")
    try:
        result = _Result.model_validate(RESULT_FORMAT.read(json_object(path.read_bytes()), str(path)))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({cut(str(error))}); run it again, what is stored is not repeated") from None
    tree = read_config(folder / CONFIG)
    if missing := {*Config.model_fields} - {*tree, *LATER}:
        raise UserError(f"{folder / CONFIG}: damaged, '{min(missing)}' is missing; run it again")
    config = parse(tree, str(folder / CONFIG))
    if unknown := {*result.keys} - {*graph(config)}:
        raise UserError(f"{path}: damaged (no stage '{cut(min(unknown))}' is known); run it again")
    return config, result.model_dump()


def _draw_gallery(result: Result, path: Path) -> None:
    data, folders = result.data, latest(result.config, result.folders)
    split, runtime, test = data.holdout, result.config.runtime, result.config.segment.test
    chosen = figures.choose_examples(split, EXAMPLES)
    stored = archive.Reader(folders["heatmaps"] / FILES["holdout"])
    heat = {i: read_heatmaps(stored, split, i)[0] for i in chosen}
    made = archive.Reader(folders["masks"] / FILES["holdout"])
    pseudo = {i: made.read(split.names[i]) for i in chosen}
    images = {i: split.image(i) for i in chosen}
    truth = {i: split.mask(i) for i in chosen}
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
    if split.masked:
        rows["truth"] = [figures.paint_mask(images[i], mask) for i in chosen if (mask := truth[i]) is not None]
    titles = [", ".join(data.classes[k] for k in np.flatnonzero(split.labels[i])) for i in chosen]
    figures.gallery(rows, titles, headline(result.metrics, result.config), path)
