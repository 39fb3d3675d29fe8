"""`semples ablate`: what every step of the method adds."""

from __future__ import annotations

import os
from json import dumps, loads
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semples.commands.options import Changes, ConfigFile, StorePlace, home, read
from semples.errors import UserError

TABLE = "ablation.md"


def ablate(
    config: ConfigFile = None,
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...: the more, the narrower the intervals.", min=1)] = 5,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=home)] = Path("runs/ablation"),
    place: StorePlace = None,
    json: Annotated[
        Path | None, typer.Option(help="Also write the figures, flat, to this file.", callback=home)
    ] = None,
) -> None:
    """Measure what every step of the method adds, over seeds.

    Each seed is a whole run, and the network once more on true masks, the bound. Prints a table with means, spreads and
    paired differences, and writes it to OUT/ablation.md.

    An interrupted ablation goes on where it was when the same command is given again.
    """
    from semples import ablation
    from semples.commands.progress import bars
    from semples.folders import claim
    from semples.preflight import check
    from semples.run_folder import STORE, data_folder
    from semples.store import open_store

    resolved = read(config, changes)
    check(resolved)
    folder = claim(out, "ablation", (TABLE,), data_folder(resolved, place, out))
    if json:
        _writable(json)
    console = Console(markup=False)
    with open_store(place or str(out / STORE), out / STORE) as store, bars(console) as report:
        values = ablation.ablate(resolved, range(seeds), store, lambda seed, event: report(event, f"{seed} "))
    text = ablation.table(values, resolved.selection)
    with folder.publishing() as new:
        (new / TABLE).write_text(text + "\n")
    if json:
        new = json.with_name(f".{json.name}.new")
        new.write_text(dumps(ablation.figures(values), indent=2) + "\n")
        new.replace(json)
    print(text)


def _writable(file: Path) -> None:
    """Raise UserError, before work begins, where a file of figures cannot be written or is something else."""
    if os.path.lexists(file):
        try:
            flat = file.is_file() and not file.is_symlink() and loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            flat = None
        if not (isinstance(flat, dict) and {"seeds", "segment", "refine_minus_match"} <= {*flat}):
            raise UserError(f"--json {file}: is there and holds no figures of an ablation; name another file")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"--json {file}: cannot be written; name another file")
