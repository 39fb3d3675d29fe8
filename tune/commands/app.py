"""The entry point of `semples-tune`: launch sweeps, look at them, take the best configuration away."""

from __future__ import annotations

import logging

import typer

from semples.guard import guard
from tune.commands import best, check, confirm, export, keys, launch, logs, replay, status, stop, ui

app = typer.Typer(
    help="Hyperparameter search over the whole SemPLeS pipeline: Ray Tune schedules, Optuna suggests, MLflow records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    launch.launch, check.check, status.status, logs.logs, stop.stop, best.best, confirm.confirm, export.export,
    keys.keys, replay.replay, ui.ui,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Entry point of `semples-tune`."""
    said = logging.StreamHandler()
    said.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("tune").addHandler(said)
    logging.getLogger("tune").propagate = False
    guard(app)
