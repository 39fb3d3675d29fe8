"""`semples store`: how much is stored, whether it is sound, and room for more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from semples.errors import UserError

if TYPE_CHECKING:
    from semples.store import Store

app = typer.Typer(help="Stored stage results: how much there is, whether it is sound.", no_args_is_help=True)
Place = Annotated[str, typer.Argument(metavar="PLACE", help="A store: a folder or a URL of fsspec.")]


@contextmanager
def looking(place: str, reading: bool = True) -> Iterator[Store]:
    """The store at a place; copies of what is read of a URL go when the command ends."""
    from tempfile import TemporaryDirectory

    from semples.store import open_store

    with TemporaryDirectory() as copies, open_store(place, Path(copies), reading=reading) as store:
        yield store


def existing(place: str, reading: bool = True) -> AbstractContextManager[Store]:
    """The store at a place, which must be there."""
    from semples.lease import local_folder
    from semples.store import is_store

    folder = local_folder(place)
    if folder and not folder.is_dir():
        raise UserError(f"{place}: no such folder; name the store of a run or a sweep, for example runs/run/store")
    if folder and not is_store(folder):
        raise UserError(f"{place}: no store; name that of a run or a sweep, for example runs/run/store")
    return looking(place, reading)


@app.command("ls")
def list_store(place: Place) -> None:
    """Every result: stage, key, size, time since it was last used, seconds that it took to compute."""
    table = Table("stage", Column("key", no_wrap=True), "MB", "last used", "seconds")
    with existing(place) as store:
        entries, damaged = store.survey()
        for entry in entries:
            age = f"{max(0.0, time.time() - entry.used) / 3600:.1f} h ago"
            manifest = entry.manifest
            stage, size = manifest.get("stage", "-"), f"{manifest['bytes'] / 1e6:.2f}"
            table.add_row(stage, entry.key[:12], size, age, f"{manifest['seconds']:.1f}")
    Console(markup=False).print(table)
    _tell_damaged(place, damaged)


@app.command("du")
def usage(place: Place) -> None:
    """Results, MB and compute seconds of every stage."""
    from semples.pipeline.graph import STAGES

    table = Table("stage", "results", "MB", "seconds")
    with existing(place) as store:
        entries, damaged = store.survey()
    others = sorted({entry.manifest.get("stage", "-") for entry in entries} - {*STAGES})  # of other packages
    for name in (*STAGES, *others, "all"):
        manifests = [entry.manifest for entry in entries if name in (entry.manifest.get("stage"), "all")]
        size, seconds = (sum(manifest[what] for manifest in manifests) for what in ("bytes", "seconds"))
        table.add_row(name, str(len(manifests)), f"{size / 1e6:.2f}", f"{seconds:.1f}")
    Console(markup=False).print(table)
    _tell_damaged(place, damaged)


@app.command()
def verify(place: Place) -> None:
    """Read every result and compare it with the digests of when it was written; a damaged one is removed (it will be
    computed again when it is needed). Exit code 2 if there was one."""
    with existing(place, reading=False) as store:
        sound = store.verify()
    bad = [key for key, good in sound.items() if not good]
    print(f"{len(sound) - len(bad)} results are as they were written")
    if bad:
        raise UserError(f"{place}: {len(bad)} damaged results were removed: {', '.join(key[:12] for key in bad)}")


@app.command()
def prune(
    place: Place,
    keep: Annotated[float, typer.Option(help="GB to keep; what is least worth it goes first.", min=0)],
) -> None:
    """Drop results until at most --keep GB are left, and what interrupted runs left behind. What is in use stays."""
    from semples.store import GB

    with existing(place, reading=False) as store:
        dropped = store.prune(keep * GB)
    print(f"dropped {len(dropped)} results, {sum(entry.manifest['bytes'] for entry in dropped) / 1e6:.2f} MB")


def _tell_damaged(place: str, keys: list[str]) -> None:
    if keys:
        print(f"damaged and not counted: {', '.join(key[:12] for key in keys)}; semples store verify {quote(place)}")
