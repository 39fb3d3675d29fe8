"""What a sweep shows in the terminal while it runs, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from tune.messages import Began, Ended, Event, Progress, Restarted, StageDone, State
from tune.parts import HEADLINES

if TYPE_CHECKING:
    from tune.summary import Summary
    from tune.sweep_file import Sweep

console = Console()


def say(line: str) -> None:
    """Print a line as it is, above the bars if there are any; in a log it stays one line."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


class ProgressReporter:
    """Prints a line for every milestone and end of a trial below a bar for the sweep and one for each running trial."""

    def __init__(self, progress: bars.Progress, sweep: Sweep, done: int, best: float | None):
        self._progress = progress
        # what chooses, not what is reported
        self._objectives = [f"{sweep.selection}/{one.metric}" if one.stage else one.metric for one in sweep.objectives]
        self._better = max if sweep.directions[0] == "maximize" else min
        self._what = "proxy" if sweep.selection == "proxy" else f"{sweep.selection} mIoU"
        self._sweep = progress.add_task("sweep", total=sweep.trials, completed=done, note="")
        self._bars: dict[int, TaskID] = {}
        self._best = best

    def __call__(self, number: int, event: Event) -> None:
        match event:
            case Began():
                self._bars[number] = self._progress.add_task(f"trial {number}", total=None, note="starting")
            case Restarted(reason):
                say(f"trial {number:3d}  again     {reason}")
            case Progress(stage, epoch, epochs, waiting):
                note = f"{stage}, waiting for {waiting}" if waiting else stage
                self._progress.update(self._bars[number], completed=epoch, total=max(epochs, 1), note=note)
            case StageDone(stage):
                total = max(len(event.curves), 1)
                self._progress.update(self._bars[number], completed=total, total=total, note=stage)
                if event.score is not None:
                    how = "stored" if event.reused else "computed"
                    say(f"trial {number:3d}  {stage:<9} {self._what} {event.score:.1f} ({how})")
            case Ended():
                self._progress.remove_task(self._bars.pop(number))
                self._progress.advance(self._sweep)
                say(f"trial {number:3d}  {event.state:<9} {self._how(event)}")

    def _how(self, end: Ended) -> str:
        note = end.reason
        if end.state == State.COMPLETE:
            named = zip(self._objectives, end.values, strict=True)
            note = ", ".join(f"{name} {value:.1f}" for name, value in named)
            value = end.values[0]
            self._best = value if self._best is None else self._better(self._best, value)
            note += f", best {self._best:.1f}" if len(self._objectives) == 1 else ""
        return f"{note}, computed {end.seconds_computed:.0f} s, saved {end.seconds_saved:.0f} s"


def extent(sweep: Sweep) -> str:
    """When a sweep ends, in words."""
    parts = [f"{sweep.trials} trials"] if sweep.trials else []
    parts += [f"{sweep.budget:.0f} s of compute"] if sweep.budget else []
    parts += [f"{sweep.time_limit:.0f} s"] if sweep.time_limit else []
    return " or ".join(parts) or "every point of its grid"


def show(summary: Summary) -> None:
    """The best trials as a table, and how many ended how."""
    from semples.output import STAMPS
    from tune.summary import TOP

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
        table.add_row(label, *(f"{trial.objective[name]:.1f}" for trial in best))
    metrics = [metric for metric in HEADLINES if best and all(metric in trial.metrics for trial in best)]
    for metric in metrics:
        table.add_row(metric, *(f"{trial.metrics[metric]:.1f}" for trial in best))
    table.add_section()
    for key in summary.space:
        values = (trial.parameters.get(key, "-") for trial in best)
        table.add_row(key, *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)
    if more := len(summary.best) - len(best):
        say(f"{more} more of the front are in MLflow.")
    if summary.selection != "oracle" and metrics:
        say(f"{' and '.join(metrics)} of images that were never used to choose.")
    counts = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    total = f" of {summary.trials}" if summary.trials else ""
    say(f"{summary.done}{total} trials done: {counts}")
    computed, saved = summary.seconds_computed / 60, summary.seconds_saved / 60
    say(f"{computed:.1f} minutes of compute; {saved:.1f} more were saved by stored stages")
    for failure in summary.failures:
        say(f"trial {failure.trial} {failure.state}: {failure.reason}")
