"""`semples predict`: images segmented by the network of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semples.commands.options import home


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run or of an export.")] = Path("runs/run"),
    out: Annotated[Path, typer.Option(help="Folder for the masks.", callback=home)] = Path("predictions"),
) -> None:
    """Segment images with the network of a finished run.

    Writes OUT/NAME.png for every image: class indices as a palette PNG in VOC's colours.
    """
    import semples

    def tell(made: semples.Prediction) -> None:
        print(f"{made.mask}  {', '.join(made.classes) or 'background only'}")

    semples.predict(run, images, out, tell)
