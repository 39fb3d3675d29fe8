"""`semples data`: somebody's own images, and what a run would do with them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from semples.commands.options import AsJson, print_json
from semples.errors import UserError

if TYPE_CHECKING:
    from semples.config import DataConfig
    from semples.data.check import Report

app = typer.Typer(help="Your own images: what a run would do with them.", no_args_is_help=True)
MOST_PROBLEMS = 20


@app.command()
def check(
    root: Annotated[Path, typer.Argument(help="Folder in a layout of VOC 2012, COCO 2014, or images/ and labels.csv.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the section `data`, for example holdout=20."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Read every label, image and mask of a data set and say what a run would do with it.

    Ends with the section to put into a configuration; with exit code 2 when something must be put right first.

    With --json: layout, labels_from, classes (names); images (of each part: all, with_mask, by_class),
    selection, data (the section), command (a run of it), remarks and problems (all of them, one sentence each).
    """
    from rich.progress import Progress

    from semples.commands.progress import COLUMNS
    from semples.config import assignments
    from semples.data.check import check as check_data
    from semples.data.check import recognise

    words = {key.removeprefix("data."): value for key, value in assignments(changes or []).items()}
    section = recognise(root, words)
    with Progress(*COLUMNS, disable=json) as progress:
        bar = progress.add_task("reading")
        report = check_data(section, lambda done, total: progress.update(bar, completed=done, total=total))
    facts = _facts(root, section, report)
    (print_json if json else _show)(facts)
    if report.problems:
        few = report.problems[:MOST_PROBLEMS]
        more = len(report.problems) - len(few)
        raise UserError(*few, *([f"and {more} more"] if more else []))
    if not json:
        print("nothing is missing")


def _facts(root: Path, section: DataConfig, report: Report) -> dict[str, Any]:
    """What is said of a data set, as --json has it."""
    masks = any(with_mask for _, with_mask in report.images.values())
    changed = section.model_dump(mode="json", exclude_defaults=True)
    preset = "coco" if section.kind == "coco" else "voc"
    given = f"data.kind={section.kind} data.root={shlex.quote(str(root))}{'' if masks else ' selection=proxy'}"
    classes = report.listing.classes
    return {
        "layout": report.listing.layout,
        "labels_from": report.listing.labels_from,
        "classes": list(classes),
        "images": {
            part: {
                "all": images,
                "with_mask": with_mask,
                "by_class": dict(zip(classes, report.counts[part].tolist(), strict=True)),
            }
            for part, (images, with_mask) in report.images.items()
        },
        "selection": "holdout" if masks else "proxy",
        "data": {"kind": section.kind} | changed,
        "command": f"semples run {preset} {given}",
        "remarks": list(report.remarks),
        "problems": list(report.problems),
    }


def _show(facts: Mapping[str, Any]) -> None:
    """The same in words; problems are left to the end of the command."""
    import yaml

    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"layout: {facts['layout']}; image labels from {facts['labels_from']}", soft_wrap=True)
    images = facts["images"]
    table = Table("class", *(f"{part} images" for part in images))
    for number, name in enumerate(facts["classes"], 1):
        table.add_row(f"{number} {name}", *(str(of_part["by_class"][name]) for of_part in images.values()))
    table.add_section()
    for label, key in (("all", "all"), ("with a true mask", "with_mask")):
        table.add_row(label, *(str(of_part[key]) for of_part in images.values()))
    console.print(table)
    train, holdout, test = (images[part] for part in ("train", "holdout", "test"))
    if facts["selection"] == "holdout":
        rest = (
            f"choose on the masks of {holdout['all']}, and report pseudo masks on {train['with_mask']} of the training "
            f"images and the network on {test['with_mask']} test images"
        )
    else:
        rest = f"choose by CLIP's judgement of {holdout['all']}: no image has a mask, so it needs selection=proxy"
    console.print(
        f"A run would train on {train['all']} images by their labels alone, {rest}.\nIn the configuration:\n",
        soft_wrap=True,
    )
    print(yaml.safe_dump({"data": facts["data"]}, sort_keys=False, default_flow_style=None, width=120))
    print(f"For photographs begin with the networks of a preset: {facts['command']}\n")
    for remark in facts["remarks"]:
        console.print(f"remark: {remark}", soft_wrap=True)
