"""Options and arguments that several commands have, and the sweep and trial that they mean."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from semples.commands.options import home
from semples.errors import UserError

if TYPE_CHECKING:
    from tune.sweep_file import Sweep

SweepFile = Annotated[
    str, typer.Argument(help="A sweep file, or one of the package: scenes, scenes-weaktr, voc, coco.")
]
Out = Annotated[Path, typer.Option(help="Folder of the sweeps; on a cluster one that all nodes share.", callback=home)]
Name = Annotated[str | None, typer.Argument(help="Name of the sweep; default: the one launched last.")]
Number = Annotated[int | None, typer.Option("--trial", help="Number of a complete trial; default: the best one.")]


def word(value: object) -> str:
    """A path or name as a shell takes it."""
    return quote(str(value))


def sweep_folder(out: Path, name: str | None) -> Path:
    """Folder of a sweep, by default of the one launched last. Raises UserError if there is none."""
    from tune.places import SWEEP_FILE

    if name is not None:
        if not (out / name / SWEEP_FILE).exists():
            raise UserError(f"{out / name}: no sweep here; name one, and its folder with --out")
        return out / name
    found = sorted(out.glob(f"*/{SWEEP_FILE}"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"{out}: no sweeps here; launch one with: semples-tune launch scenes --out {word(out)}")
    return found[-1].parent


def chosen_trial(folder: Path, sweep: Sweep, number: int | None) -> int:
    """Number of the best trial, or `number` if that one is complete and within the limits. Raises UserError if not."""
    from tune.study import load_study, ranked

    leading = [trial.number for trial in ranked(load_study(folder, sweep), sweep)]
    look = f"see semples-tune status {word(folder.name)} --out {word(folder.parent)}"
    if not leading:
        raise UserError(f"{folder}: no trial is complete yet; {look}")
    if number is not None and number not in leading:
        raise UserError(f"{folder}: trial {number} is not among the complete ones within the limits; {look}")
    return leading[0] if number is None else number
