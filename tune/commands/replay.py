"""`semples-tune replay`: a sweep on a table of measured trials."""

from __future__ import annotations

from typing import Annotated

import typer

from semples.commands.options import Changes
from semples.errors import UserError
from tune.commands.screen import say, show

REPLAYED = ("sampler", "early_stopping", "objective", "selection", "seed", "trials", "budget", "limits.seconds")


def replay(
    changes: Changes = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials.")] = 60,
    workers: Annotated[int, typer.Option(min=1, help="Virtual workers.")] = 4,
    profile: Annotated[
        str,
        typer.Option(help="How long stages take: measured, or estimated for VOC: voc (an older card), voc-h100."),
    ] = "measured",
    reuse: Annotated[bool, typer.Option(help="Whether trials share their stages.")] = True,
) -> None:
    """Replay a sweep on a table of measured trials, in seconds: how would another search have done?

    KEY=VALUE changes the sweep: sampler=tpe, early_stopping=asha, objective=pseudo_miou, seed=3, budget=2h, ...
    """
    from semples.config import assignments
    from semples.errors import nearest
    from tune.environment import quiet
    from tune.replay import PROFILES, TABLE, Table, replay
    from tune.summary import summarise

    settings = {"trials": trials, **assignments(changes or [])}
    for key in settings:
        if key not in REPLAYED:
            raise UserError(f"{key} cannot be changed in a replay{nearest(key, REPLAYED)}; take {', '.join(REPLAYED)}")
    if profile not in PROFILES:
        raise UserError(f"--profile '{profile}' is none{nearest(profile, PROFILES)}; take {' or '.join(PROFILES)}")
    table = Table(TABLE, settings)
    with quiet():
        done = replay(table.sweep, table, workers, profile, reuse)
    show(summarise(done.study, table.sweep))
    say(f"{done.ends[-1].clock / 60:.1f} minutes on {workers} virtual workers")
