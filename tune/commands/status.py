"""`semples-tune status`: how far a sweep is."""

from __future__ import annotations

from pathlib import Path

from tune.commands.options import Name, Out, sweep_folder
from tune.commands.screen import show


def status(name: Name = None, out: Out = Path("sweeps")) -> None:
    """How far a sweep is: trials by state, and the best so far. Works while it runs."""
    from tune.study import load_study
    from tune.sweep_folder import load_launched

    folder = sweep_folder(out, name)
    sweep = load_launched(folder)
    show(load_study(folder, sweep), sweep)
