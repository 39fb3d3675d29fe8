"""`semples run`: all stages of one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from semples.commands.options import Changes, ConfigFile, StorePlace, StoreQuota, home, read


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
    gallery.png, by_image.npz (what single images say of the mIoUs), and the weights of mask generator, prompts and
    segmentation network.

    An interrupted run goes on where it was when the same command is given again.
    """
    import semples
    from semples.commands.progress import bars
    from semples.run_folder import CONFIG, GALLERY, RESULT, headline

    resolved = read(config, changes)
    console = Console(markup=False)
    with bars(console) as report:
        result = semples.run(resolved, out=out, store=place, quota=quota, reuse=reuse, report=report)
    console.print(headline(result.metrics, result.config))
    console.print(f"{out / RESULT}  {out / CONFIG}  {out / GALLERY}", soft_wrap=True)
