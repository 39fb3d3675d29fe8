"""`semples-tune launch`: run a sweep, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from semples.commands.options import Changes
from semples.guard import INTERRUPTED
from semples.secrets import redact
from tune.commands.options import Out, word
from tune.commands.screen import console, extent, say, say_run, say_verdict, show


def launch(
    sweep: Annotated[
        str, typer.Argument(help="A sweep file, or one of the package: scenes, scenes-weaktr, voc, coco.")
    ],
    changes: Changes = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials, in all.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Compute time of all trials together (90s, 30m, 6h, 2d), then no more are begun.")
    ] = None,
    time_limit: Annotated[str | None, typer.Option(help="The same for the time from this launch on.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep; default: the one in the file.")] = None,
    out: Out = Path("sweeps"),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, HOST:PORT or auto; default: start Ray here.")
    ] = None,
) -> None:
    """Run a sweep, or go on with it: finished trials are never repeated, --trials can be raised later.

    KEY=VALUE changes the sweep file (trials, resources.gpu, ...) or the configuration that every trial starts from
    (data.train, segment.epochs, ...). Ctrl-C ends the sweep in order.
    """
    from rich.progress import Progress, TextColumn

    from semples.commands.progress import COLUMNS
    from semples.config import assignments
    from tune.api import launch
    from tune.commands.progress import ProgressReporter
    from tune.places import BEST
    from tune.study import load_study, ranked, study_exists, succeeded
    from tune.summary import summarise
    from tune.sweep_file import find_sweep_file, load_sweep
    from tune.sweep_folder import check_same, tracking_uri, without_secrets

    settings: dict[str, Any] = assignments(changes or [])
    own = {"trials": trials, "budget": budget, "time_limit": time_limit, "name": name}
    settings |= {key: value for key, value in own.items() if value is not None}
    asked = without_secrets(load_sweep(find_sweep_file(sweep), settings))
    folder = out / asked.name
    done, best_value = 0, None
    spec = check_same(asked, folder.resolve())
    if study_exists(folder, spec):
        study = load_study(folder, spec)
        done = len(succeeded(study))
        best_value = next((trial.values[0] for trial in ranked(study, spec)), None)
    say(
        f"sweep '{spec.name}': {extent(spec)} ({done} trials done), objective "
        f"{' and '.join(one.metric for one in spec.objectives)}, chosen on {spec.selection}; folder {folder}"
    )
    with Progress(*COLUMNS, TextColumn("{task.fields[note]}", markup=False), console=console) as progress:
        reporter = ProgressReporter(progress, spec, done, best_value)
        results = launch(asked, out=out, address=address, on_event=reporter, on_run=say_run)
    show(summarise(results.study, results.sweep, results.folder))
    if not results.ended:
        raise typer.Exit(INTERRUPTED)
    say(f"ended: {results.ended}")
    if spec.confirm and (verdict := results.verdict):
        say_verdict(verdict, word(folder.name), word(out))
    best = folder / BEST
    if best.exists():  # written by launch
        say(f"best configuration: {best}  (again: semples run {word(best)})")
    uri = redact(tracking_uri(spec, out))
    browse = uri if uri.startswith("http") else f"semples-tune ui --out {word(out)}   (MLflow store {uri})"
    say(f"browse: {browse}")
