"""Options and arguments that several commands have, and what becomes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    typer.Option("--quota", help="GB that the store may take; what is least worth keeping goes first."),
]
KeyPrefix = Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin like this, masks. for one.")]
SchemaAsJson = Annotated[bool, typer.Option("--json", help="Print the JSON schema of the file instead, for editors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead, its figures as they are.")]


def read(config: Path | None, changes: list[str] | None) -> Config:
    """The configuration of the command line: a file or a preset, and KEY=VALUE words, of which the first may stand in
    the place of the file."""
    from semples.config import assignments, load

    words = list(changes or [])
    if config is not None and "=" in str(config) and not os.path.exists(config):  # a long word is no file name
        words.insert(0, str(config))
        config = None
    return load(config, assignments(words), "command line")


def print_json(facts: Mapping[str, Any]) -> None:
    """What --json prints, on stdout: one object."""
    print(json.dumps(facts, indent=1, allow_nan=False))
