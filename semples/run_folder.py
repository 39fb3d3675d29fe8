"""The folder of a finished run: the names of its files, and what they say. Read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from semples.config import Config, parse, read_config
from semples.data.classes import check_classes
from semples.errors import UserError, cut
from semples.folders import overlap
from semples.formats import Format, json_object
from semples.lease import local_folder
from semples.pipeline.graph import graph
from semples.results import KEY

CONFIG, RESULT, GALLERY, MASKS = "config.yaml", "result.json", "gallery.png", "masks"
STORE = "store"  # unless another place is named
RESULT_FORMAT = Format((dict,))  # result.json of version 0.1.0 lacks the stamp only
LATER = ("stages",)  # sections of the configuration that version 0.1.0 did not write
# how the choice was made, on every figure
STAMPS = {
    "holdout": "chosen on holdout masks",
    "proxy": "PROXY: chosen by CLIP, without any mask",
    "oracle": "ORACLE: chosen on the evaluation masks",
}


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
    found = []
    for key, name in names.items():
        if key in metrics:
            found.append(f"{name} {metrics[key]:.1f}")
        elif f"holdout/{key}" in metrics:  # of a trial that was only judged
            found.append(f"{name} {metrics[f'holdout/{key}']:.1f} on the holdout")
    return f"{', '.join(found) or 'no mask to measure by'} ({stamp})"


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
