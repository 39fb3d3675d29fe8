"""`semples-tune confirm`: the best trials and the default once more, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tune.commands.options import Name, Out, sweep_folder, word
from tune.commands.screen import console, say, say_run, say_verdict


def confirm(
    name: Name = None,
    top: Annotated[int, typer.Option(min=1, help="Number of finalists, besides the default configuration.")] = 3,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each, with seeds that the sweep did not use.")] = 5,
    out: Out = Path("sweeps"),
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: start Ray here.")] = None,
) -> None:
    """Run the best trials and the default again over seeds, and say whether one is really better.

    The best of many trials is the luckiest of them too: where no finalist is better than the default, a winner is named
    in at most one sweep of twenty. Finished runs are kept, so the same command goes on. More --seeds can be asked for
    later; every look at them needs a clearer difference than the one before.
    """
    from semples.run_folder import STAMPS
    from tune.environment import quiet, variables
    from tune.sweep_folder import load_launched

    folder = sweep_folder(out, name).resolve()
    sweep = load_launched(folder)

    with variables():
        from tune.confirm import confirm

        with quiet():
            verdict = confirm(sweep, folder, top, seeds, address, say_run)
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
    say_verdict(verdict, word(folder.name), word(out))
