"""`semples evaluate`: a folder of masks against true ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from semples.errors import UserError


def evaluate(
    masks: Annotated[Path, typer.Argument(help="Folder of predicted masks, NAME.png with class indices.")],
    ground_truth: Annotated[Path, typer.Argument(help="Folder of true masks with the same names; 255 is ignored.")],
    run: Annotated[Path | None, typer.Option(help="Folder of a run, for the names of the classes.")] = None,
) -> None:
    """mIoU, precision, recall and IoU per class of a folder of masks against true ones.

    255 in a predicted mask counts as background.
    """
    import numpy as np

    from semples.data.files import read_mask
    from semples.metrics import confusion, iou, precision, recall
    from semples.run_folder import read_run

    def names_in(folder: Path) -> set[str]:
        found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        return {name for name in found if name.lower().endswith(".png") and not name.startswith(".")}

    files = [masks / name for name in sorted(names_in(masks))]
    if not files:
        raise UserError(f"{masks}: no NAME.png here; give a folder of predicted masks")
    names = ["background", *(read_run(run)[1]["classes"] if run else [])]
    counts = np.zeros((256, 256), np.int64)
    for path in files:
        true, predicted = read_mask(ground_truth / path.name), read_mask(path)
        if true.shape != predicted.shape:
            raise UserError(f"{path}: size {predicted.shape} differs from the true mask's {true.shape}")
        counts += confusion(true, predicted, 255)
    classes = 1 + max(int(np.flatnonzero(counts.sum(axis)).max(initial=0)) for axis in (0, 1))
    counts = counts[:classes, :classes]
    figures = [iou(counts), precision(counts), recall(counts)]
    table = Table("class", "IoU", "precision", "recall")
    for k, row in enumerate(zip(*figures, strict=True)):
        table.add_row(names[k] if k < len(names) else f"class {k}", *(f"{value:.2f}" for value in row))
    table.add_section()
    table.add_row(f"mean over {len(files)} masks", *(f"{np.nanmean(values):.2f}" for values in figures))
    if left := len(names_in(ground_truth) - names_in(masks)):
        print(f"{left} true masks have no prediction and are not counted")
    Console(markup=False).print(table)
