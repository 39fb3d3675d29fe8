"""How far a command is: bars in a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from semples.pipeline.run import Event

    class Report(Protocol):
        def __call__(self, event: Event, heading: str = "") -> None: ...


COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
LOG_EVERY = 60.0  # seconds between two lines of progress where there is no terminal


@contextmanager
def bars(console: Console) -> Iterator[Report]:
    """A bar a stage (under a heading, where there are several runs), in a log lines now and then and at a stage's
    end."""
    log, columns = not console.is_terminal, (*COLUMNS, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, disable=log) as progress:
        tasks: dict[str, TaskID] = {}
        spoke = time.monotonic()

        def report(event: Event, heading: str = "") -> None:
            nonlocal spoke
            name, total, done = f"{heading}{event.stage}", max(event.epochs, 1), event.epoch
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, note="")
            if event.waiting:
                note = f"waiting for {event.waiting}, which computes it"
            elif event.metrics is None:
                note = "  ".join(f"{k} {v:.3f}" for k, v in event.values.items())
            else:
                done = total
                told = {name: value for name, value in event.metrics.items() if name.split("/")[-1] == event.milestone}
                note = "  ".join(f"{name} {value:.1f}" for name, value in told.items())  # nothing without masks
                note += " (stored)" if event.reused else ""
            progress.update(tasks[name], completed=done, total=total, note=note)
            if log and (event.metrics is not None or time.monotonic() - spoke > LOG_EVERY):
                console.print(
                    f"{name:<8} {done}/{total}  {note.strip()}".rstrip(), soft_wrap=True, highlight=False, markup=False
                )
                spoke = time.monotonic()

        yield report
