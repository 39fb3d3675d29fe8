"""`semples stages`: what a run would reuse, and why keys differ."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from semples.commands.options import STORE, Changes, ConfigFile, StorePlace, home, read
from semples.commands.store import looking
from semples.errors import UserError


def stages(
    config: ConfigFile = None,
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Folder of the run, whose store is looked into.", callback=home)] = Path(
        "runs/run"
    ),
    place: StorePlace = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Two keys, or their first characters: say why they differ, and nothing else."),
    ] = None,
) -> None:
    """What a run would reuse: every stage with the key of its result, whether it is stored, being computed or missing,
    its size, the time since it was last used, and the seconds that it took to compute.

    Keys of results that are stored, and of this configuration, can be compared with --why. Results that other code or
    other versions of libraries made of the same configuration and data are counted: they are not reused, unless a run
    says --reuse declared.
    """
    from semples.data import load_data
    from semples.pipeline.graph import STAGES
    from semples.pipeline.keys import declared, differences, key_parts, recorded
    from semples.preflight import check
    from semples.store import make_key
    from semples.training import resolve_device

    resolved = read(config, changes)
    check(resolved)
    resolved = resolved.model_copy(update={"runtime": resolve_device(resolved.runtime)})
    parts = key_parts(resolved, load_data(resolved.data, resolved.selection).fingerprint)
    with looking(place or str(out / STORE)) as store:
        stored = {entry.key: entry for entry in store.entries()}
        of_this = {make_key(**own): own for own in parts.values()}
        known = recorded(stored.values()) | of_this
        if why:
            one, other = (known[_complete(prefix, known)] for prefix in why)
            print("\n".join(differences(one, other, known)) or "they are the same key")
            return
        table = Table("stage", Column("key", no_wrap=True), "reads", "state", "MB", "last used", "seconds")
        for name, own in parts.items():
            key = make_key(**own)
            entry, owner = stored.get(key), store.there.owner(key)
            # an owner is host, process and a token
            row = [f"computed now by {owner.rpartition('-')[0]}" if owner else "missing", "", "", ""]
            if entry:
                age = f"{max(0.0, time.time() - entry.used) / 3600:.1f} h ago"
                row = ["stored", f"{entry.mark['bytes'] / 1e6:.2f}", age, f"{entry.mark['seconds']:.1f}"]
            table.add_row(name, key[:12], ", ".join(STAGES[name].inputs(resolved)), *row)
    console = Console(markup=False)
    console.print(table)
    same = {declared(own, known) for own in of_this.values()}
    if others := sum(declared(own, known) in same for key, own in known.items() if key not in of_this):
        console.print(
            f"{others} more result{'s' * (others > 1)} of this configuration that other code or other versions made; "
            "--why says what differs, and `semples run --reuse declared` takes them as they are",
            soft_wrap=True,
        )


def _complete(prefix: str, keys: Iterable[str]) -> str:
    """The only key that begins like this."""
    found = [key for key in keys if key.startswith(prefix)]
    if len(found) != 1:
        raise UserError(
            f"--why {prefix}: {len(found)} known keys begin like this; `semples stages` and `store ls` show them"
        )
    return found[0]
