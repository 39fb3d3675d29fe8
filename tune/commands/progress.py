"""What a sweep shows in the terminal while it runs."""

from __future__ import annotations

from rich import progress as bars

from tune.commands.screen import say
from tune.messages import Began, Decided, Ended, EpochDone, Event, Progress, Reported, Restarted, StageDone, State
from tune.parts import HEADLINES
from tune.sweep_file import Sweep


class ProgressReporter:
    """Prints a line for every milestone and end of a trial below a bar for the sweep and one for each running trial."""

    def __init__(self, progress: bars.Progress, sweep: Sweep, done: int, best: float | None):
        self._progress = progress
        # what chooses, not what is reported
        self._objectives = [f"{sweep.selection}/{one.metric}" if one.stage else one.metric for one in sweep.objectives]
        self._better = max if sweep.directions[0] == "maximize" else min
        self._what = "proxy" if sweep.selection == "proxy" else f"{sweep.selection} mIoU"
        self._sweep = progress.add_task("sweep", total=sweep.trials, completed=done, note="")
        self._bars: dict[int, bars.TaskID] = {}
        self._best = best

    def __call__(self, number: int, event: Event) -> None:
        match event:
            case Began():
                self._bars[number] = self._progress.add_task(f"trial {number}", total=None, note="starting")
            case Restarted(reason, stage):
                say(f"trial {number:3d}  again     {stage and f'{stage}: '}{reason}")
            case Progress(stage, epoch, epochs, waiting):
                note = f"{stage}, waiting for {waiting}" if waiting else stage
                self._progress.update(self._bars[number], completed=epoch, total=max(epochs, 1), note=note)
            case EpochDone(stage, epoch, epochs):
                self._progress.update(self._bars[number], completed=epoch, total=epochs, note=stage)
            case StageDone(stage):
                total = max(len(event.curves), 1)
                self._progress.update(self._bars[number], completed=total, total=total, note=stage)
                if event.score is not None:
                    how = "stored" if event.reused else "computed"
                    say(f"trial {number:3d}  {stage:<9} {self._what} {event.score:.1f} ({how})")
            case Decided(key, value):
                say(f"trial {number:3d}  decided   {key} {value:.4g}, the best of its own scores")
            case Reported(metrics):
                known = ", ".join(f"{name} {value:.1f}" for name, value in metrics.items() if name in HEADLINES)
                say(f"trial {number:3d}  reported  {known or 'no mask to measure by'}")
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
