"""`semples stages`: what a run would reuse, and why keys differ."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from semples.commands.options import AsJson, Changes, ConfigFile, StorePlace, home, print_json, read
from semples.commands.store import looking
from semples.errors import UserError

if TYPE_CHECKING:
    from semples.results import Entry
    from semples.store import Store


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
    json: AsJson = False,
) -> None:
    """What a run would reuse: every stage with the key of its result, whether it is stored, being computed or missing,
    its size, the time since it was last used, and the seconds that it took to compute.

    Keys of results that are stored, and of this configuration, can be compared with --why. Results that other code or
    other versions of libraries made of the same configuration and data are counted: they are not reused, unless a run
    says --reuse declared.

    With --json: stages (each: stage, key, reads, state "stored", "computing" or "missing", computed_by, and, else null,
    bytes, last_used in seconds since 1970, seconds) and others, their number; with --why: differences, as sentences.
    """
    from semples.data import load_data
    from semples.pipeline.graph import graph
    from semples.pipeline.keys import declared, differences, key_parts, recorded
    from semples.preflight import check
    from semples.results import make_key
    from semples.run_folder import STORE
    from semples.training import resolve_device

    resolved = read(config, changes)
    check(resolved)
    resolved = resolved.model_copy(update={"runtime": resolve_device(resolved.runtime)})
    data = load_data(resolved.data, resolved.selection)
    made = graph(resolved, data)
    parts = key_parts(resolved, data.fingerprint, made)
    with looking(place or str(out / STORE)) as store:
        stored = {entry.key: entry for entry in store.entries()}
        of_this = {make_key(**own): name for name, own in parts.items()}
        known = recorded(stored.values()) | {key: parts[name] for key, name in of_this.items()}
        if why:
            one, other = (known[_complete(prefix, known)] for prefix in why)
            reasons = differences(one, other, known)
            if json:
                print_json({"differences": reasons})
            else:
                print("\n".join(reasons) or "they are the same key")
            return
        rows = [_row(name, key, made[name].sources.values(), stored.get(key), store) for key, name in of_this.items()]
    same = {declared(own, known) for own in parts.values()}
    others = sum(declared(own, known) in same for key, own in known.items() if key not in of_this)
    if json:
        print_json({"stages": rows, "others": others})
        return
    table = Table("stage", Column("key", no_wrap=True), "reads", "state", "MB", "last used", "seconds")
    for row in rows:
        state = f"computed now by {row['computed_by']}" if row["computed_by"] else row["state"]
        figures = ("", "", "")
        if row["state"] == "stored":
            age = f"{max(0.0, time.time() - row['last_used']) / 3600:.1f} h ago"
            figures = (f"{row['bytes'] / 1e6:.2f}", age, f"{row['seconds']:.1f}")
        table.add_row(row["stage"], row["key"][:12], ", ".join(row["reads"]), state, *figures)
    console = Console(markup=False)
    console.print(table)
    if others:
        console.print(
            f"{others} more result{'s' * (others > 1)} of this configuration that other code or other versions made; "
            "--why says what differs, and `semples run --reuse declared` takes them as they are",
            soft_wrap=True,
        )


def _row(stage: str, key: str, inputs: Iterable[str], entry: Entry | None, store: Store) -> dict[str, Any]:
    """What is said of a stage, as --json has it."""
    owner = "" if entry else store.there.owner(key)  # an owner is host, process and a token
    return {
        "stage": stage,
        "key": key,
        "reads": list(inputs),
        "state": "stored" if entry else "computing" if owner else "missing",
        "computed_by": owner.rpartition("-")[0] if owner else None,
        "bytes": entry.manifest["bytes"] if entry else None,
        "last_used": entry.used if entry else None,
        "seconds": entry.manifest["seconds"] if entry else None,
    }


def _complete(prefix: str, keys: Iterable[str]) -> str:
    """The only key that begins like this."""
    found = [key for key in keys if key.startswith(prefix)]
    if len(found) != 1:
        raise UserError(
            f"--why {prefix}: {len(found)} known keys begin like this; `semples stages` and `store ls` show them"
        )
    return found[0]
