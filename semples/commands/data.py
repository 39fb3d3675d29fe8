"""`semples data`: somebody's own images, and what a run would do with them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from semples.commands.progress import COLUMNS
from semples.errors import UserError

app = typer.Typer(help="Your own images: what a run would do with them.", no_args_is_help=True)
MOST_PROBLEMS = 20


@app.command()
def check(
    root: Annotated[Path, typer.Argument(help="Folder in a layout of VOC 2012, COCO 2014, or images/ and labels.csv.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the section `data`, for example holdout=20."),
    ] = None,
) -> None:
    """Read every label, image and mask of a data set and say what a run would do with it.

    Ends with the section to put into a configuration; with exit code 2 when something must be put right first.
    """
    import yaml

    from semples.config import assignments
    from semples.data.check import check as check_data
    from semples.data.check import recognise

    words = {key.removeprefix("data."): value for key, value in assignments(changes or []).items()}
    section = recognise(root, words)
    with Progress(*COLUMNS) as progress:
        bar = progress.add_task("reading")
        report = check_data(section, lambda done, total: progress.update(bar, completed=done, total=total))
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"layout: {report.listing.layout}; image labels from {report.listing.labels_from}", soft_wrap=True)
    table = Table("class", *(f"{part} images" for part in report.counts))
    for k, name in enumerate(report.listing.classes):
        table.add_row(f"{k + 1} {name}", *(str(counts[k]) for counts in report.counts.values()))
    table.add_section()
    table.add_row("all", *(str(images) for images, _ in report.images.values()))
    table.add_row("with a true mask", *(str(masks) for _, masks in report.images.values()))
    console.print(table)
    train, holdout, test = (report.images[part] for part in ("train", "holdout", "test"))
    masks = train[1] or holdout[1] or test[1]
    if masks:
        rest = (
            f"choose on the masks of {holdout[0]}, and report pseudo masks on {train[1]} of the training images and "
            f"the network on {test[1]} test images"
        )
    else:
        rest = f"choose by CLIP's judgement of {holdout[0]}: no image has a mask, so it needs selection=proxy"
    console.print(
        f"A run would train on {train[0]} images by their labels alone, {rest}.\nIn the configuration:\n",
        soft_wrap=True,
    )
    plain = {
        key: value for key, value in section.model_dump(mode="json", exclude_defaults=True).items() if key != "kind"
    }
    print(
        yaml.safe_dump({"data": {"kind": section.kind, **plain}}, sort_keys=False, default_flow_style=None, width=120)
    )
    preset = "coco" if section.kind == "coco" else "voc"
    given = f"data.kind={section.kind} data.root={shlex.quote(str(root))}{'' if masks else ' selection=proxy'}"
    print(f"For photographs begin with the networks of a preset: semples run {preset} {given}\n")
    for remark in report.remarks:
        console.print(f"remark: {remark}", soft_wrap=True)
    if report.problems:
        few = report.problems[:MOST_PROBLEMS]
        more = len(report.problems) - len(few)
        raise UserError(*few, *([f"and {more} more"] if more else []))
    console.print("nothing is missing")
