"""What a sweep shows in the terminal while it runs, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

if TYPE_CHECKING:
    from tune.summary import Summary
    from tune.sweep_file import Sweep

console = Console()


def say(line: str) -> None:
    """Print a line as it is, above the bars if there are any; in a log it stays one line."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


class Screen:
    """Prints a line for every milestone and end of a trial below a bar for the sweep and one for each running trial."""

    def __init__(self, progress: Progress, sweep: Sweep, done: int, best: float):
        from tune.sweep_file import OBJECTIVES

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
            say(f"trial {number:3d}  {report['state']:<9} {note}")
        elif "again" in report:
            say(f"trial {number:3d}  again     {report['again']}")
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
                say(line)


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
    from tune.sweep_file import OBJECTIVES

    several = len(summary.objective) > 1
    best = summary.best[:TOP]
    title = f"{summary.sweep}: {'trials that no other beats' if several else 'best trials'}"
    title += f" by {' and '.join(summary.objective)} ({STAMPS[summary.selection]})"
    table = Table(title=title, title_justify="left")
    table.add_column("trial")
    for trial in best:
        table.add_column("default" if trial.default else str(trial.trial), justify="right")
    for name in summary.objective:
        label = f"objective {name}" if several else "objective"
        table.add_row(label, *(f"{trial.objective[name]:.1f}" for trial in best))
    metrics = [metric for metric in OBJECTIVES if best and all(metric in trial.metrics for trial in best)]
    for metric in metrics:
        table.add_row(metric, *(f"{trial.metrics[metric]:.1f}" for trial in best))
    table.add_section()
    for key in summary.space:
        values = (trial.parameters.get(key, "-") for trial in best)
        table.add_row(key, *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)
    if more := len(summary.best) - len(best):
        say(f"{more} more that no other beats are in MLflow.")
    if summary.selection != "oracle" and metrics:
        say(f"{' and '.join(metrics)} of images that were never used to choose.")
    counts = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    of = f" of {summary.trials}" if summary.trials else ""
    say(f"{summary.done}{of} trials done: {counts}")
    computed, saved = summary.seconds_computed / 60, summary.seconds_saved / 60
    say(f"{computed:.1f} minutes of compute; {saved:.1f} more were saved by stored stages")
    for failure in summary.failures:
        say(f"trial {failure.trial} {failure.state}: {failure.reason}")
