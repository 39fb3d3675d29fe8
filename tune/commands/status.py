"""`semples-tune status`: how far a sweep is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from semples.commands.options import AsJson, print_json
from tune.commands.options import Name, Out, sweep_folder
from tune.commands.screen import show


def status(name: Name = None, out: Out = Path("sweeps"), json: AsJson = False) -> None:
    """How far a sweep is: trials by state, and the best so far. Works while it runs.

    With --json: sweep, selection, objective and space (names); trials (asked for, or null), done, states (number of
    trials by state), seconds_computed, seconds_saved; best (each: trial, default, objective and metrics with their
    standard errors over images, objective_error and metrics_error, parameters; at most five, with several objectives
    the whole Pareto front), expected (what the first of these is expected to have on other images: trial, value and
    error; or null), unreported (the numbers of those that are not measured yet on the images on which figures are
    reported) and failures (each: trial, state, reason).
    """
    from tune.study import load_study
    from tune.summary import summarise
    from tune.sweep_folder import load_launched

    folder = sweep_folder(out, name)
    sweep = load_launched(folder)
    summary = summarise(load_study(folder, sweep), sweep, folder)
    if json:
        print_json(asdict(summary))
    else:
        show(summary)
