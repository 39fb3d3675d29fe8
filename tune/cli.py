"""The command `semples-tune`: launch sweeps, look at them, take the best configuration away."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from semples.cli import Changes
from semples.errors import UserError
from semples.guard import guard

if TYPE_CHECKING:
    import optuna

    from tune.space import Sweep

app = typer.Typer(
    help="Hyperparameter search over the whole SemPLeS pipeline: Ray Tune schedules, Optuna suggests, MLflow records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Out = Annotated[Path, typer.Option(help="Folder of the sweeps; on a cluster one that all nodes share.")]
Name = Annotated[str | None, typer.Argument(help="Name of the sweep; default: the one launched last.")]
Number = Annotated[int | None, typer.Option("--trial", help="Number of a complete trial; default: the best one.")]
TOP = 5
REPLAYED = ("sampler", "early_stopping", "objective", "selection", "seed", "trials", "budget", "limits.seconds")


def main() -> None:
    """Entry point of `semples-tune`."""
    import logging

    said = logging.StreamHandler()
    said.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("tune").addHandler(said)
    logging.getLogger("tune").propagate = False
    guard(app)


def _say(line: str) -> None:
    """Print a line as it is, above the bars if there are any; in a log it stays one line."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _folder(out: Path, name: str | None) -> Path:
    """Folder of a sweep, by default of the one launched last. Raises UserError if there is none."""
    from tune.trial import SWEEP_FILE

    if name is not None:
        if not (out / name / SWEEP_FILE).exists():
            raise UserError(f"{out / name}: no sweep here; name one, and its folder with --out")
        return out / name
    found = sorted(out.glob(f"*/{SWEEP_FILE}"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"{out}: no sweeps here; launch one with: semples-tune launch scenes --out {out}")
    return found[-1].parent


def _complete(folder: Path, sweep: Sweep, number: int | None) -> int:
    """Number of the best trial, or `number` if that one is complete and within the limits. Raises UserError if not."""
    from tune.study import load_study, ranked

    leading = [trial.number for trial in ranked(load_study(folder, sweep), sweep)]
    look = f"see semples-tune status {folder.name} --out {folder.parent}"
    if not leading:
        raise UserError(f"{folder}: no trial is complete yet; {look}")
    if number is not None and number not in leading:
        raise UserError(f"{folder}: trial {number} is not among the complete ones within the limits; {look}")
    return leading[0] if number is None else number


class _Screen:
    """Prints a line for every milestone and end of a trial below a bar for the sweep and one for each running trial."""

    def __init__(self, progress: Progress, sweep: Sweep, done: int, best: float):
        from tune.space import OBJECTIVES

        self._progress = progress
        # what chooses, not what is reported
        self._objective = [f"{sweep.selection}/{name}" if OBJECTIVES[name] else name for name in sweep.objective]
        self._what = "proxy" if sweep.selection == "proxy" else f"{sweep.selection} mIoU"
        self._sweep = progress.add_task("sweep", total=sweep.trials, completed=done, note="")
        self._bars: dict[int, TaskID] = {}
        self._best = best

    def __call__(self, number: int, report: dict[str, Any]) -> None:
        if "started" in report:
            self._bars[number] = self._progress.add_task(f"trial {number}", total=None, note="starting")
        elif "state" in report:
            self._progress.remove_task(self._bars.pop(number))
            self._progress.advance(self._sweep)
            note = report.get("reason", "")
            if report["state"] == "COMPLETE":
                note = ", ".join(
                    f"{name} {value:.1f}" for name, value in zip(self._objective, report["values"], strict=True)
                )
                self._best = max(self._best, report["values"][0])
                note += f", best {self._best:.1f}" if len(self._objective) == 1 else ""
            note += f", computed {report['seconds_computed']:.0f} s, saved {report['seconds_saved']:.0f} s"
            _say(f"trial {number:3d}  {report['state']:<9} {note}")
        elif "again" in report:
            _say(f"trial {number:3d}  again     {report['again']}")
        elif "stage" in report:
            total = max(report["epochs"], 1)
            self._progress.update(
                self._bars[number],
                completed=total if "metrics" in report else report["epoch"],
                total=total,
                note=f"{report['stage']}, waiting for {report['waiting']}" if "waiting" in report else report["stage"],
            )
            if "milestone" in report:
                how = "stored" if report["reused"] else "computed"
                line = f"trial {number:3d}  {report['stage']:<9} {self._what} {report['score']:.1f} ({how})"
                _say(line)


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
    wall: Annotated[str | None, typer.Option(help="The same for the time from this launch on.")] = None,
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
    from tune.space import find_sweep_file, load_sweep
    from tune.study import load_study, ranked, study_exists, succeeded
    from tune.sweep import BEST, check_same, launch, tracking_uri

    settings: dict[str, Any] = assignments(changes or [])
    own = {"trials": trials, "budget": budget, "wall": wall, "name": name}
    settings |= {key: value for key, value in own.items() if value is not None}
    spec = load_sweep(find_sweep_file(sweep), settings)
    folder = out / spec.name
    done, best_value = 0, float("-inf")
    check_same(spec, folder.resolve())
    if study_exists(folder, spec):
        study = load_study(folder, spec)
        done = len(succeeded(study))
        best_value = max((trial.values[0] for trial in ranked(study, spec)[:1]), default=best_value)
    _say(
        f"sweep '{spec.name}': {_extent(spec)} ({done} trials done), objective {' and '.join(spec.objective)}, "
        f"chosen on {spec.selection}; folder {folder}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=console) as progress:
        why = launch(spec, out, address, _Screen(progress, spec, done, best_value))
    _show(load_study(folder, spec), spec)
    if not why:
        print("stopped before its end; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130)
    _say(f"ended: {why}")
    best = folder / BEST
    if best.exists():  # written by launch
        _say(f"best configuration: {best}  (again: semples run {best})")
    uri = tracking_uri(spec, out)
    browse = uri if uri.startswith("http") else f"semples-tune ui --out {out}   (MLflow store {uri})"
    _say(f"browse: {browse}")


def _extent(sweep: Sweep) -> str:
    """When a sweep ends, in words."""
    parts = [f"{sweep.trials} trials"] if sweep.trials else []
    parts += [f"{sweep.budget:.0f} s of compute"] if sweep.budget else []
    parts += [f"{sweep.wall:.0f} s"] if sweep.wall else []
    return " or ".join(parts) or "every point of its grid"


def _show(study: optuna.Study, sweep: Sweep) -> None:
    """The best trials as a table, and how many ended how."""
    from semples.output import STAMPS
    from tune.space import OBJECTIVES
    from tune.study import DUPLICATE, effort, front, is_default, ranked, succeeded

    several = len(sweep.objective) > 1
    leading = front(study, sweep) if several else ranked(study, sweep)
    best = leading[:TOP]
    title = (
        f"{sweep.name}: {'trials that no other beats' if several else 'best trials'} by {' and '.join(sweep.objective)}"
    )
    table = Table(title=f"{title} ({STAMPS[sweep.selection]})", title_justify="left")
    table.add_column("trial")
    for trial in best:
        table.add_column("default" if is_default(study, sweep, trial.number) else str(trial.number), justify="right")
    for i, name in enumerate(sweep.objective):
        table.add_row(f"objective {name}" if several else "objective", *(f"{trial.values[i]:.1f}" for trial in best))
    metrics = [m for m in OBJECTIVES if best and all(m in trial.user_attrs["metrics"] for trial in best)]
    for metric in metrics:
        table.add_row(metric, *(f"{trial.user_attrs['metrics'][metric]:.1f}" for trial in best))
    table.add_section()
    for key in sweep.space:
        values = (trial.params.get(key, "-") for trial in best)
        table.add_row(key, *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)
    if several and len(leading) > TOP:
        _say(f"{len(leading) - TOP} more that no other beats are in MLflow.")
    if sweep.selection != "oracle" and metrics:
        _say(f"{' and '.join(metrics)} of images that were never used to choose.")
    trials = study.get_trials(deepcopy=False)
    own = [trial for trial in trials if DUPLICATE not in trial.user_attrs and trial.state.name != "WAITING"]
    states = Counter(trial.user_attrs.get("state", trial.state.name) for trial in own)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    of = f" of {sweep.trials}" if sweep.trials else ""
    _say(f"{len(succeeded(study))}{of} trials done: {counts}")
    computed, saved = (seconds / 60 for seconds in effort(trials).values())
    _say(f"{computed:.1f} minutes of compute; {saved:.1f} more were saved by stored stages")
    for trial in trials:
        if trial.user_attrs.get("state") in ("FAILED", "LOST"):
            reason = trial.user_attrs["reason"]
            _say(f"trial {trial.number} {trial.user_attrs['state']}: {reason}")


@app.command()
def status(name: Name = None, out: Out = Path("sweeps")) -> None:
    """How far a sweep is: trials by state, and the best so far. Works while it runs."""
    from tune.study import load_study
    from tune.sweep import load_launched

    folder = _folder(out, name)
    sweep = load_launched(folder)
    _show(load_study(folder, sweep), sweep)


@app.command()
def best(name: Name = None, trial: Number = None, out: Out = Path("sweeps")) -> None:
    """Print the best configuration so far, or that of another trial, as YAML (`semples run` takes it as it is)."""
    from tune.sweep import describe, load_launched

    folder = _folder(out, name)
    sweep = load_launched(folder)
    print(describe(folder, _complete(folder, sweep, trial)), end="")


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
    from tune.sweep import load_launched

    folder = _folder(out, name).resolve()
    sweep = load_launched(folder)

    def notice(finalist: str, seed: int, problem: str) -> None:
        _say(f"{finalist}, seed {seed}: {problem or 'done'}")

    verdict = confirm(sweep, folder, top, seeds, address, notice)
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
            _say(f"{verdict.leader} over {finalist}: {over.mean:+.1f} ({over.low:+.1f} to {over.high:+.1f})")
    _say(verdict.sentence)
    if verdict.winner:
        number = verdict.winner.removeprefix("trial ")
        _say(f"take it: semples-tune export FOLDER --name {folder.name} --trial {number}")


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="New folder.")],
    name: Annotated[str | None, typer.Option(help="Name of the sweep; default: the one launched last.")] = None,
    trial: Number = None,
    out: Out = Path("sweeps"),
) -> None:
    """Copy the best trial, or another one, out of a sweep: configuration, result, gallery and weights.

    `semples run TO/config.yaml` repeats it, `semples predict --run TO IMAGE...` uses its network.
    """
    import shutil

    from semples.output import CONFIG, GALLERY, RESULT, read_run, write_weights
    from semples.store import open_store
    from tune.sweep import load_launched, store_place
    from tune.trial import STORE, trial_folder

    folder = _folder(out, name)
    sweep = load_launched(folder)
    number = _complete(folder, sweep, trial)
    source = trial_folder(folder, number)
    _, result = read_run(source)
    place = store_place(sweep, folder)
    with open_store(place, folder / STORE) as store:
        folders = {stage: store.find(key) for stage, key in result["keys"].items()}
        if missing := [stage for stage, found in folders.items() if found is None]:
            raise UserError(
                f"{place}: the result of '{missing[0]}' is gone; compute it with: semples run {source / CONFIG}"
            )
        write_weights({stage: found for stage, found in folders.items() if found}, to)
    for file in (CONFIG, GALLERY, RESULT):
        shutil.copyfile(source / file, to / file)
    print(f"trial {number} of '{folder.name}' in {to}; use it with: semples predict --run {to} IMAGE...")


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
    _show(done.study, table.sweep)
    _say(f"{done.ends[-1].clock / 60:.1f} minutes on {workers} virtual workers")


@app.command()
def ui(
    out: Out = Path("sweeps"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Serve the MLflow UI on the store of these sweeps. Ctrl-C ends it."""
    import os

    from tune.sweep import load_launched, tracking_uri

    uri = tracking_uri(load_launched(_folder(out, None)), out)
    if uri.startswith("http"):
        print(f"the sweep launched last is tracked by a server: open {uri} in a browser")
        return
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    words = ["ui", "--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    print(f"MLflow UI on http://{host}:{port}/#/experiments/1/runs (a sweep's trials open under its run)")
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words])
