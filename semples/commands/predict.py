"""`semples predict`: images segmented by the network of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semples.commands.options import home
from semples.errors import UserError


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run or of an export.")] = Path("runs/run"),
    out: Annotated[Path, typer.Option(help="Folder for the masks.", callback=home)] = Path("predictions"),
) -> None:
    """Segment images with the network of a finished run.

    Writes OUT/NAME.png for every image: class indices as a palette PNG in VOC's colours.
    """
    from semples.data.archive import encode_mask
    from semples.data.files import read_image
    from semples.folders import claim
    from semples.output import read_run
    from semples.stages import segment
    from semples.training import prepare, resolve_device

    config, result = read_run(run)
    if not (run / segment.WEIGHTS).exists():
        raise UserError(f"{run}: no {segment.WEIGHTS} here; take the weights out of the sweep with semples-tune export")
    if len({path.stem for path in images}) < len(images):
        raise UserError("two of the images have the same name and would overwrite each other's mask; call twice")
    if gone := next((path for path in images if not path.is_file()), None):
        raise UserError(f"{gone}: no such image file")
    folder = claim(out, "prediction", [f"{path.stem}.png" for path in images])
    classes = result["classes"]
    runtime = resolve_device(config.runtime.model_copy(update={"device": "auto"}))
    prepare(runtime)
    network = segment.load_network(config.segment, len(classes), run).to(runtime.device)
    for path in images:
        mask = segment.predict(network, read_image(path), runtime, config.segment.test)
        with folder.publishing() as new:
            encode_mask(mask).save(new / f"{path.stem}.png")
        found = ", ".join(classes[k - 1] for k in sorted(set(mask.ravel().tolist()) - {0})) or "background only"
        print(f"{out / path.stem}.png  {found}")
