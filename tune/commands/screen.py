"""What a sweep shows in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tune.summary import Summary
    from tune.sweep_file import Sweep
    from tune.verdict import Verdict

console = Console()


def say(line: str) -> None:
    """Print a line as it is, above the bars if there are any; in a log it stays one line."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def extent(sweep: Sweep) -> str:
    """When a sweep ends, in words."""
    parts = [f"{sweep.trials} trials"] if sweep.trials else []
    parts += [f"{sweep.budget:.0f} s of compute"] if sweep.budget else []
    parts += [f"{sweep.time_limit:.0f} s"] if sweep.time_limit else []
    confirmed = sweep.confirm and f", then {sweep.confirm.top + 1} finalists over {sweep.confirm.seeds} seeds"
    parts += [f"an hour is expected to bring less than {sweep.stop_when:g}"] if sweep.stop_when else []
    return (" or ".join(parts) or "every point of its grid") + (confirmed or "")


def say_run(finalist: str, seed: int, problem: str) -> None:
    """A run of a confirmation that has ended."""
    say(f"{finalist}, seed {seed}: {problem or 'done'}")


def say_verdict(verdict: Verdict, name: str, out: str) -> None:
    """What a confirmation says, and what to do with it."""
    say(verdict.sentence)
    if verdict.winner:
        number = verdict.winner.removeprefix("trial ")
        say(f"take it: semples-tune export FOLDER --out {out} --name {name} --trial {number}")


def figure(value: float, error: float | None) -> str:
    """A figure and, where it is known, its standard error."""
    return f"{value:.1f}" if error is None else f"{value:.1f} ± {error:.1f}"


def show(summary: Summary) -> None:
    """The best trials as a table, and how many ended how."""
    from semples.run_folder import STAMPS
    from tune.parts import HEADLINES
    from tune.study import TOP

    several = len(summary.objective) > 1
    best = summary.best[:TOP]
    title = f"{summary.sweep}: {'Pareto front' if several else 'best trials'}"
    title += f" by {' and '.join(summary.objective)} ({STAMPS[summary.selection]})"
    table = Table(title=title, title_justify="left")
    table.add_column("trial")
    for trial in best:
        table.add_column("default" if trial.default else str(trial.trial), justify="right")
    for name in summary.objective:
        label = f"objective {name}" if several else "objective"
        table.add_row(label, *(figure(trial.objective[name], trial.objective_error.get(name)) for trial in best))
    metrics = [metric for metric in HEADLINES if any(metric in trial.metrics for trial in best)]
    for metric in metrics:
        known = ((trial.metrics.get(metric), trial.metrics_error.get(metric)) for trial in best)
        table.add_row(metric, *("-" if value is None else figure(value, error) for value, error in known))
    table.add_section()
    for key in summary.space:
        values = (trial.parameters.get(key, "-") for trial in best)
        table.add_row(key, *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)
    if any(trial.objective_error or trial.metrics_error for trial in best):
        say("±: standard error over the images that were measured; another seed of the training is not in it.")
    if e := summary.expected:
        say(
            f"Expected of trial {e.trial} on other images: {figure(e.value, e.error)}, for the best of several is also "
            "the luckiest."
        )
    if more := len(summary.best) - len(best):
        say(f"{more} more of the front are in MLflow.")
    if summary.selection != "oracle" and metrics:
        say(f"{' and '.join(metrics)} of images that were never used to choose.")
    if summary.unreported:
        which = ", ".join(map(str, summary.unreported))
        say(f"Not measured yet on the images on which figures are reported: trials {which}; done when the sweep ends.")
    counts = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    total = f" of {summary.trials}" if summary.trials else ""
    say(f"{summary.done}{total} trials done: {counts}")
    computed, saved = summary.seconds_computed / 60, summary.seconds_saved / 60
    say(f"{computed:.1f} minutes of compute; {saved:.1f} more were saved by stored stages")
    if summary.another_hour is not None:
        say(f"Another hour of compute is expected to bring {summary.another_hour:.2g} more of {summary.objective[0]}.")
    for failure in summary.failures:
        say(f"trial {failure.trial} {failure.state}: {failure.reason}")
