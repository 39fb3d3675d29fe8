"""Options and arguments that several commands have, and what becomes of them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semples.errors import UserError

if TYPE_CHECKING:
    from semples.config import Config


def home(path: Path | None) -> Path | None:
    """A path with ~ as a shell reads it, which does not see it in --out=~/x. Raises UserError for ~somebody unknown."""
    try:
        return path and path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: nobody has this home; give the whole path") from None


def amount(number: float | None) -> float | None:
    """A number of GB. Raises UserError where it is none."""
    if number is not None and not (math.isfinite(number) and number > 0):
        raise UserError(f"--quota {number}: give a number of GB above 0")
    return number


ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        help="YAML file, or a preset: voc, coco, scenes, scenes-weaktr; without one, the defaults for `scenes`."
    ),
]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys to change, for example match.lambda_b=1.5.")
]
StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="PLACE", help="Stage results to share: a folder or a URL (s3://...); default OUT/store."
    ),
]
StoreQuota = Annotated[
    float | None,
    typer.Option(
        "--quota", help="GB that the store may take; what is least worth keeping goes first.", callback=amount
    ),
]
KeyPrefix = Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin like this, masks. for one.")]
SchemaAsJson = Annotated[bool, typer.Option("--json", help="Print the JSON schema of the file instead, for editors.")]

STORE = "store"


def read(config: Path | None, changes: list[str] | None) -> Config:
    """The configuration of the command line: a file or a preset, and KEY=VALUE words, of which the first may stand in
    the place of the file."""
    from semples.config import assignments, find_config, load

    words = list(changes or [])
    if config is not None and "=" in str(config) and not os.path.exists(config):  # a long word is no file name
        words.insert(0, str(config))
        config = None
    return load(find_config(config) if config else None, assignments(words))


def apart(config: Config, place: str | None, out: Path) -> str:
    """The folder of the data, "" where they are drawn. Raises UserError where a store in a folder overlaps it, or what
    is written into `out`."""
    from semples.folders import overlap
    from semples.lease import local_folder
    from semples.output import MASKS

    root: str = getattr(config.data, "root", "")
    folder = local_folder(place) if place else None
    for used in filter(None, (root, str(out / MASKS))):
        if folder and overlap(folder, Path(used)):
            what = "the data in" if used == root else "what is written into"
            raise UserError(f"--store {place}: overlaps {what} {used}; choose another folder")
    return root
