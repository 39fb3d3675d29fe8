"""Configurations computed outside of trials, on whatever node: the finalists over seeds, and what leaders report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray

from semples.config import Config, parse, to_dict
from semples.errors import UserError
from semples.folders import claim
from semples.pipeline.graph import Reuse
from semples.pipeline.run import run
from semples.pipeline.work import LostError
from semples.run_folder import RESULT, read_run
from semples.secrets import redact, reveal
from semples.store import open_store
from tune import examine
from tune.nodes import others
from tune.places import STORE
from tune.stage_tasks import WAITING, slots, stage_tasks, write_elsewhere
from tune.sweep_file import Sweep
from tune.sweep_folder import store_place
from tune.values import Resources

MAX_FAILURES = 3  # of the process of a trial or another run, after which it is not tried again
Name = TypeVar("Name")


def compute(
    tree: dict[str, Any],
    out: str,
    kind: str,
    until: str,
    store: str,
    sweep: str,
    quota: float | None,
    reuse: Reuse,
    resources: Resources,
    code: str,
) -> str:
    """One run into the folder `out`; "" or what went wrong."""
    config, folder, of_sweep = parse(tree, "configuration"), Path(out), Path(sweep)
    computing = stage_tasks(resources, of_sweep, code, _on_loss)
    try:
        with open_store(reveal(store, "store"), of_sweep / STORE, quota) as results:
            made = run(config, results, lambda event: None, until, reuse, computing=computing)
            with claim(folder, kind, adopt=True).publishing(last=RESULT) as new:
                write_elsewhere(resources, of_sweep, made, new, _on_loss)
    except (UserError, LostError) as error:
        return redact(str(error))
    return ""


def _on_loss(what: str, reason: str) -> None:
    """Nobody looks at these runs one by one; a node that is left out stands in the folder of the sweep."""


def is_there(config: Config, folder: Path) -> bool:
    """Whether a run with this configuration has ended in the folder."""
    with contextlib.suppress(UserError):  # what is damaged is none
        return (folder / RESULT).exists() and read_run(folder)[0] == config
    return False


def compute_all(
    sweep: Sweep,
    folder: Path,
    runs: Mapping[Name, tuple[Config, Path]],
    kind: str,
    until: str,
    on_end: Callable[[Name, str], None],
) -> None:
    """Run configurations up to the stage `until`, each into its folder, side by side as far as the sweep's resources
    allow; Ray is joined already. kind: of the folders. on_end: called with the name of a run that ended and "" or what
    went wrong."""
    task = ray.remote(compute).options(
        num_cpus=0, memory=WAITING, max_retries=MAX_FAILURES, label_selector=others(folder)
    )
    place, code = (store_place(sweep, folder), str(folder), sweep.store_gb), examine.code()
    left, running = list(runs.items()), dict[Any, Name]()
    while left or running:
        while left and len(running) <= slots(sweep.resources):  # one more lets the cluster grow
            name, (config, out) = left.pop(0)
            words = (to_dict(config), str(out), kind, until, *place, sweep.reuse, sweep.resources, code)
            running[task.remote(*words)] = name
        (done,), _ = ray.wait(list(running))
        name = running.pop(done)
        try:
            problem = ray.get(done)
        except ray.exceptions.RayError as error:
            problem = " ".join(str(error).split())[-300:]
        on_end(name, problem)
