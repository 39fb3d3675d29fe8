"""`semples-tune check`: whether the nodes of a cluster can compute a sweep."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from semples.commands.options import AsJson, Changes, print_json
from tune.commands.options import Out, SweepFile
from tune.commands.screen import console, say


def check(
    sweep: SweepFile,
    changes: Changes = None,
    out: Out = Path("sweeps"),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, HOST:PORT or auto; default: this machine alone.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Look at every node of a cluster before a sweep is launched there: the package and its commit, libraries, the
    shared folder, disk, GPU, data, weights and clock. What is wrong is said with what to do, and the exit code is 2.

    `launch --address` does the same, and leaves out nodes on which something is wrong. KEY=VALUE changes the sweep as
    for `launch`. With --json: nodes (each: id, name, address, resources) and defects (each: node, part, what, cure).
    """
    from rich.table import Table

    from semples.config import assignments
    from semples.preflight import check as check_here
    from tune.environment import quiet, variables
    from tune.sweep_file import find_sweep_file, load_sweep
    from tune.sweep_folder import without_secrets

    asked = without_secrets(load_sweep(find_sweep_file(sweep), assignments(changes or [])))
    with variables():
        from tune.cluster import joined
        from tune.nodes import PARTS, examined, kinds_to_come

        with quiet():
            check_here(asked.base_config())
            with joined(asked.resources, address):
                nodes, found = examined(asked, (out / asked.name).resolve(), kinds_to_come(Path.home()))
    if json:
        print_json({"nodes": list(map(asdict, nodes)), "defects": [asdict(of) | {"node": of.node.id} for of in found]})
    else:
        table = Table(title=f"{asked.name}: nodes", title_justify="left")
        for column in ("node", *PARTS):
            table.add_column(column)
        for node in nodes:
            wrong = {of.part for of in found if of.node == node}
            table.add_row(str(node), *("wrong" if part in wrong else _unless(part, wrong) for part in PARTS))
        console.print(table)
        for of in found:
            say(str(of))
        say(f"{len(nodes)} nodes, {len({of.node.id for of in found})} of which cannot compute this sweep")
    if found:
        raise typer.Exit(2)


def _unless(part: str, wrong: set[str]) -> str:
    """How a part stands that is not wrong itself: what was not looked at because of another one is not known."""
    unknown: dict[str, Any] = {"data": {"package"}, "weights": {"package", "data"}}
    return "-" if unknown.get(part, set()) & wrong else "ok"
