"""`semples-tune logs`: what a sweep in the background prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from semples.errors import UserError
from tune.commands.options import Name, Out, sweep_folder

LOOK_EVERY = 0.5  # seconds


def logs(
    name: Name = None,
    out: Out = Path("sweeps"),
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the sweep ends; Ctrl-C ends this command alone.")
    ] = False,
) -> None:
    """Print what `semples-tune launch --detach` printed, all of its launches one after another."""
    import time

    from tune.places import LOG
    from tune.sweep_folder import runner

    folder = sweep_folder(out, name)
    if not (log := folder / LOG).exists():
        raise UserError(f"{folder}: this sweep was not launched with --detach; its lines are in its own terminal")
    with log.open("rb") as file:
        running = True
        while running:
            running = follow and runner(folder) is not None  # asked before the last look
            sys.stdout.write(file.read().decode(errors="replace"))
            sys.stdout.flush()
            time.sleep(LOOK_EVERY if running else 0)
