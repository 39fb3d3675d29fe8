"""The command `semples-tune`: launch sweeps, look at them, take the best configuration away."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from semples.cli import Changes, KeyPrefix, SchemaAsJson, home
from semples.errors import UserError, cut, quoted
from semples.guard import INTERRUPTED, guard
from semples.secrets import redact
from tune.screen import ProgressReporter, console, extent, say, show

if TYPE_CHECKING:
    from tune.sweep_file import Sweep

app = typer.Typer(
    help="Hyperparameter search over the whole SemPLeS pipeline: Ray Tune schedules, Optuna suggests, MLflow records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder of the sweeps; on a cluster one that all nodes share.", callback=home)]
Name = Annotated[str | None, typer.Argument(help="Name of the sweep; default: the one launched last.")]
Number = Annotated[int | None, typer.Option("--trial", help="Number of a complete trial; default: the best one.")]
REPLAYED = ("sampler", "early_stopping", "objective", "selection", "seed", "trials", "budget", "limits.seconds")


def main() -> None:
    """Entry point of `semples-tune`."""
    import logging

    said = logging.StreamHandler()
    said.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("tune").addHandler(said)
    logging.getLogger("tune").propagate = False
    guard(app)


def _word(value: object) -> str:
    """A path or name as a shell takes it."""
    return quote(str(value))


def _folder(out: Path, name: str | None) -> Path:
    """Folder of a sweep, by default of the one launched last. Raises UserError if there is none."""
    from tune.places import SWEEP_FILE

    if name is not None:
        if not (out / name / SWEEP_FILE).exists():
            raise UserError(f"{out / name}: no sweep here; name one, and its folder with --out")
        return out / name
    found = sorted(out.glob(f"*/{SWEEP_FILE}"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"{out}: no sweeps here; launch one with: semples-tune launch scenes --out {_word(out)}")
    return found[-1].parent


def _complete(folder: Path, sweep: Sweep, number: int | None) -> int:
    """Number of the best trial, or `number` if that one is complete and within the limits. Raises UserError if not."""
    from tune.study import load_study, ranked

    leading = [trial.number for trial in ranked(load_study(folder, sweep), sweep)]
    look = f"see semples-tune status {_word(folder.name)} --out {_word(folder.parent)}"
    if not leading:
        raise UserError(f"{folder}: no trial is complete yet; {look}")
    if number is not None and number not in leading:
        raise UserError(f"{folder}: trial {number} is not among the complete ones within the limits; {look}")
    return leading[0] if number is None else number


@app.command()
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
    from semples.config import assignments
    from tune.launch import launch
    from tune.places import BEST
    from tune.study import load_study, ranked, study_exists, succeeded
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
        f"{' and '.join(one.metric for one in spec.objectives)}, "
        f"chosen on {spec.selection}; folder {folder}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=console) as progress:
        why = launch(asked, out, address, ProgressReporter(progress, spec, done, best_value))
    show(load_study(folder, spec), spec)
    if not why:
        raise typer.Exit(INTERRUPTED)
    say(f"ended: {why}")
    best = folder / BEST
    if best.exists():  # written by launch
        say(f"best configuration: {best}  (again: semples run {_word(best)})")
    uri = redact(tracking_uri(spec, out))
    browse = uri if uri.startswith("http") else f"semples-tune ui --out {_word(out)}   (MLflow store {uri})"
    say(f"browse: {browse}")


@app.command()
def status(name: Name = None, out: Out = Path("sweeps")) -> None:
    """How far a sweep is: trials by state, and the best so far. Works while it runs."""
    from tune.study import load_study
    from tune.sweep_folder import load_launched

    folder = _folder(out, name)
    sweep = load_launched(folder)
    show(load_study(folder, sweep), sweep)


@app.command()
def best(name: Name = None, trial: Number = None, out: Out = Path("sweeps")) -> None:
    """Print the best configuration so far, or that of another trial, as YAML (`semples run` takes it as it is)."""
    from tune.sweep_folder import load_launched, trial_config_yaml

    folder = _folder(out, name)
    sweep = load_launched(folder)
    print(trial_config_yaml(folder, _complete(folder, sweep, trial)), end="")


@app.command()
def confirm(
    name: Name = None,
    top: Annotated[int, typer.Option(min=1, help="Number of finalists, besides the default configuration.")] = 3,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each, with seeds that the sweep did not use.")] = 5,
    out: Out = Path("sweeps"),
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: start Ray here.")] = None,
) -> None:
    """Run the best trials and the default again over seeds, and say whether one is really better.

    The best of many trials is the luckiest of them too: a winner is named only where its paired difference to the
    default is above 0 with 95% confidence. Finished runs are kept, so the same command goes on, and more --seeds can be
    asked for later.
    """
    from semples.output import STAMPS
    from tune.confirm import confirm
    from tune.sweep_folder import load_launched

    folder = _folder(out, name).resolve()
    sweep = load_launched(folder)

    def on_run(finalist: str, seed: int, problem: str) -> None:
        say(f"{finalist}, seed {seed}: {problem or 'done'}")

    verdict = confirm(sweep, folder, top, seeds, address, on_run)
    title = f"{sweep.name}: {verdict.metric} over {seeds} seeds ({STAMPS[sweep.selection]})"
    table = Table("finalist", "what chose, mean", "reported, mean", "min - max", "over default", title=title)
    for finalist, reported in verdict.reported.items():
        over = verdict.over_default.get(finalist)
        table.add_row(
            finalist,
            f"{verdict.chosen[finalist].mean:.1f}",
            f"{reported.mean:.1f}",
            f"{reported.minimum:.1f} - {reported.maximum:.1f}",
            f"{over.mean:+.1f} ({over.low:+.1f} to {over.high:+.1f})" if over else "",
        )
    console.print(table)
    for finalist, over in verdict.over_others.items():
        if finalist != "default":
            say(f"{verdict.leader} over {finalist}: {over.mean:+.1f} ({over.low:+.1f} to {over.high:+.1f})")
    say(verdict.sentence)
    if verdict.winner:
        number = verdict.winner.removeprefix("trial ")
        say(f"take it: semples-tune export FOLDER --out {_word(out)} --name {_word(folder.name)} --trial {number}")


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="New folder.", callback=home)],
    name: Annotated[str | None, typer.Option(help="Name of the sweep; default: the one launched last.")] = None,
    trial: Number = None,
    out: Out = Path("sweeps"),
) -> None:
    """Copy the best trial, or another one, out of a sweep: configuration, result, gallery and weights.

    `semples run TO/config.yaml` repeats it, `semples predict --run TO IMAGE...` uses its network.
    """
    import shutil
    from tempfile import TemporaryDirectory

    from semples.folders import claim
    from semples.output import CONFIG, GALLERY, RESULT, WEIGHTS, read_run, write_weights
    from semples.secrets import reveal
    from semples.store import open_store
    from tune.places import trial_folder
    from tune.sweep_folder import load_launched, store_place

    folder = _folder(out, name)
    sweep = load_launched(folder)
    number = _complete(folder, sweep, trial)
    source = trial_folder(folder, number)
    _, result = read_run(source)
    place = store_place(sweep, folder)
    files = (CONFIG, GALLERY, RESULT)
    exported = claim(to, "export", (*files, *WEIGHTS.values()))
    with TemporaryDirectory() as copies, open_store(reveal(place, "store"), Path(copies), reading=True) as store:
        folders = {stage: store.find(key) for stage, key in result["keys"].items()}
        if missing := [stage for stage, found in folders.items() if found is None]:
            raise UserError(
                f"{place}: the result of '{missing[0]}' is gone; compute it with: semples run {_word(source / CONFIG)}"
            )
        with exported.publishing(last=RESULT) as new:
            write_weights({stage: found for stage, found in folders.items() if found}, new)
            for file in files:
                shutil.copyfile(source / file, new / file)
    print(f"trial {number} of '{folder.name}' in {to}; use it with: semples predict --run {_word(to)} IMAGE...")


@app.command("keys")
def show_keys(prefix: KeyPrefix = "", json: SchemaAsJson = False) -> None:
    """Every key of a sweep file: its values, its default and what it means. Those of `base`, and those that `space` may
    name, are shown by `semples keys`."""
    from semples.keys import show
    from tune.keys import sweep_keys, sweep_schema

    show(sweep_keys(), sweep_schema(), prefix, json)


@app.command()
def replay(
    changes: Changes = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials.")] = 60,
    workers: Annotated[int, typer.Option(min=1, help="Virtual workers.")] = 4,
    profile: Annotated[str, typer.Option(help="How long stages take: measured, or voc (estimated).")] = "measured",
    reuse: Annotated[bool, typer.Option(help="Whether trials share their stages.")] = True,
) -> None:
    """Replay a sweep on a table of measured trials, in seconds: how would another search have done?

    KEY=VALUE changes the sweep: sampler=tpe, early_stopping=asha, objective=pseudo_miou, seed=3, budget=2h, ...
    """
    from semples.config import assignments
    from semples.errors import nearest
    from tune.replay import PROFILES, TABLE, Table, replay

    settings = {"trials": trials, **assignments(changes or [])}
    for key in settings:
        if key not in REPLAYED:
            raise UserError(f"{key} cannot be changed in a replay{nearest(key, REPLAYED)}; take {', '.join(REPLAYED)}")
    if profile not in PROFILES:
        raise UserError(f"--profile '{profile}' is none{nearest(profile, PROFILES)}; take {' or '.join(PROFILES)}")
    table = Table(TABLE, settings)
    done = replay(table.sweep, table, workers, profile, reuse)
    show(done.study, table.sweep)
    say(f"{done.ends[-1].clock / 60:.1f} minutes on {workers} virtual workers")


@app.command()
def ui(
    out: Out = Path("sweeps"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """Serve the MLflow UI on the store of these sweeps. Ctrl-C ends it."""
    import os
    import socket

    from tune.sweep_folder import load_launched, moved, tracking_uri

    try:
        socket.getaddrinfo(host or "?", port)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {quoted(host)}: is no address of this machine ({cut(str(error))})") from None
    uri = tracking_uri(load_launched(_folder(out, None)), out)
    if uri.startswith("http"):
        print(f"the sweep launched last is tracked by a server: open {redact(uri)} in a browser")
        return
    if said := moved(out):
        print(f"warning: {said}", file=sys.stderr)
    # in the environment, for a command line is seen by everybody
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    words = ["ui", "--host", host, "--port", str(port), "--workers", "1"]
    print(f"MLflow UI on http://{host}:{port}/#/experiments/1/runs (a sweep's trials open under its run)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words])
