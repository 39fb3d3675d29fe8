"""`semples run`: all stages of one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from semples.commands.options import STORE, Changes, ConfigFile, StorePlace, StoreQuota, apart, home, read
from semples.commands.progress import bars


def run(
    config: ConfigFile = None,
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=home)] = Path("runs/run"),
    place: StorePlace = None,
    quota: StoreQuota = None,
    reuse: Annotated[
        Literal["exact", "declared"],
        typer.Option(
            help="exact: take a stored result only where code, libraries and configuration are those that made it; "
            "declared: where the configuration is, whatever the code was, and say so in result.json."
        ),
    ] = "exact",
) -> None:
    """Run all seven stages, skipping those whose results are stored already.

    Writes into OUT: result.json, config.yaml (every value resolved), masks/ (pseudo masks of the training images),
    gallery.png, and the weights of mask generator, prompts and segmentation network.

    An interrupted run goes on where it was when the same command is given again.
    """
    from semples.folders import claim
    from semples.output import CONFIG, GALLERY, MASKS, RESULT, WEIGHTS, headline, write_masks, write_run, write_weights
    from semples.pipeline.run import run as run_pipeline
    from semples.preflight import check
    from semples.store import open_store

    resolved = read(config, changes)
    check(resolved)
    written = (RESULT, CONFIG, GALLERY, f"{MASKS}/", *WEIGHTS.values())
    folder = claim(out, "run", written, apart(resolved, place, out))
    console = Console(markup=False)
    with open_store(place or str(out / STORE), out / STORE, quota) as store:
        with bars(console) as report:
            result = run_pipeline(resolved, store, report, reuse=reuse)
        with folder.publishing(replaced=(MASKS,), last=RESULT) as new:
            write_masks(result.folders, new)
            write_weights(result.folders, new)
            write_run(result, new)
    console.print(headline(result.metrics, result.config))
    console.print(f"{out / RESULT}  {out / CONFIG}  {out / GALLERY}", soft_wrap=True)
