"""`semples-tune launch`: run a sweep, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semples.commands.options import Changes
from semples.guard import INTERRUPTED
from semples.secrets import redact
from tune.commands.options import Out, SweepFile, word
from tune.commands.screen import console, extent, say, say_run, say_verdict, show

if TYPE_CHECKING:
    from tune.sweep_file import Sweep

LOOK_EVERY = 0.2  # seconds
BEGIN = "from tune.commands.app import main; main()"


def launch(
    sweep: SweepFile,
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
    detach: Annotated[
        bool, typer.Option("--detach", help="Run it in the background, also when this terminal is closed.")
    ] = False,
) -> None:
    """Run a sweep, or go on with it: finished trials are never repeated, --trials can be raised later.

    KEY=VALUE changes the sweep file (trials, resources.gpu, ...) or the configuration that every trial starts from
    (data.train, segment.epochs, ...). Ctrl-C ends the sweep in order. What runs with --detach is seen with
    `semples-tune logs` and ended with `semples-tune stop`.
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
    if detach:
        _detach(asked, out)
        return
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


def _detach(sweep: Sweep, out: Path) -> None:
    """The same launch in a process that outlives this terminal; wait until it has begun. Raises typer.Exit where it
    ends before, with what it said."""
    import subprocess
    import sys
    import time

    from tune.places import LOG
    from tune.sweep_folder import claim_folders, runner

    folder = (out / sweep.name).resolve()
    if running := runner(folder):
        say(f"'{sweep.name}' is running already (process {running[0]} on {running[1]})")
        raise typer.Exit(2)
    claim_folders(sweep, out, folder)
    log = folder / LOG
    with log.open("ab") as file:
        begin = file.tell()
        words = [word for word in sys.argv[1:] if word != "--detach"]
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    while process.poll() is None and (runner(folder) or (0,))[0] != process.pid:
        time.sleep(LOOK_EVERY)
    if process.poll() is not None:
        say(log.read_bytes()[begin:].decode(errors="replace").rstrip())
        raise typer.Exit(process.returncode)
    which = f"{word(sweep.name)} --out {word(out)}"
    say(f"'{sweep.name}' runs in the background (process {process.pid}), also when this terminal is closed")
    say(f"what it prints: semples-tune logs {which}   how far it is: semples-tune status {which}")
    say(f"end it in order: semples-tune stop {which}")
