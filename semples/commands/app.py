"""The entry point of `semples`: one run of the method, no search."""

from __future__ import annotations

import typer

from semples.commands import ablate, data, evaluate, keys, predict, prompts, run, scenes, stages, store
from semples.guard import guard

app = typer.Typer(
    help="SemPLeS, weakly supervised semantic segmentation from image labels: run the whole method once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    run.run, ablate.ablate, stages.stages, keys.keys, prompts.prompts, predict.predict, evaluate.evaluate
):  # fmt: skip
    app.command()(command)
for name, group in {"scenes": scenes, "data": data, "store": store}.items():
    app.add_typer(group.app, name=name)


def main() -> None:
    """Entry point of `semples`."""
    guard(app)
