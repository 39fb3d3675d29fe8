"""One trial: a run of the whole pipeline on whatever node Ray gave it, reporting as it goes.

A trial keeps nothing of its own: finished stages are in the store, so a trial that is retried, resumed or repeated goes
on from the first stage that is missing.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from semples.config import parse, with_changes
from semples.errors import UserError, cut
from semples.folders import claim
from semples.output import RESULT, write_run
from semples.pipeline.graph import STAGES
from semples.pipeline.run import Event, run
from semples.secrets import redact, reveal
from semples.store import open_store

REPORT_EVERY = 2.0  # seconds between two reports from inside a stage
MILESTONES = tuple(name for name, stage in STAGES.items() if stage.milestone)
SWEEP_FILE = "sweep.yaml"
STORE = "store"
LONGEST = 900  # characters of the reason why a trial failed


def score(metrics: dict[str, float], metric: str, selection: str) -> float:
    """The value of a metric that may choose: on the holdout's masks, by CLIP on the holdout's images under "proxy", on
    the evaluation masks under "oracle"."""
    return metrics[metric if selection == "oracle" else f"{selection}/{metric}"]


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial writes its configuration, result and gallery."""
    return sweep / "trials" / f"{number:04d}"


def send(message: dict[str, Any]) -> None:
    """Report to the driver. As one JSON text, because Ray flattens dictionaries; `receive` is the other end."""
    ray_tune.report({"report": json.dumps(message)})


def receive(result: dict[str, Any]) -> dict[str, Any]:
    """The message in a Ray result; empty if there is none."""
    message: dict[str, Any] = json.loads(result.get("report", "{}"))
    return message


def run_trial(
    suggestion: dict[str, Any],
    base: dict[str, Any],
    folder: str,
    objective: tuple[str, ...],
    until: str,
    store: str,
    quota: float | None,
) -> None:
    """Run the configuration `base` with the suggested parameters, up to the stage `until`. The last report says how it
    ended:

    {"ended": "COMPLETE", "values" of the objectives, "metrics", "taken": {"seconds", "gpu_gb"}} or {"ended": "FAILED",
    "reason"}. A trial without such a report was stopped (pruned) or lost. Reports before it: {"node"} at the start;
    {"stage", "epoch", "epochs"} while a stage computes, with "waiting" while another trial computes it; the same with
    "curves", "metrics", "seconds", "reused" when it is done, and with "milestone" and "score" if it has one.
    """
    sweep, last = Path(folder), 0.0

    def report(event: Event) -> None:
        nonlocal last
        message: dict[str, Any] = {"stage": event.stage, "epoch": event.epoch, "epochs": event.epochs}
        if event.metrics is None:
            if time.monotonic() - last < REPORT_EVERY:
                return
            message |= {"waiting": event.waiting} if event.waiting else {}
        else:
            message |= {"metrics": event.metrics, "curves": list(event.curves)}
            message |= {"seconds": event.seconds, "reused": event.reused}
            metric = STAGES[event.stage].milestone
            if metric and (config.selection != "proxy" or STAGES[event.stage].headline):  # CAMs have no proxy
                message |= {"milestone": event.stage, "score": score(event.metrics, metric, config.selection)}
        last = time.monotonic()
        send(message)

    out = trial_folder(sweep, suggestion["number"])
    send({"node": f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"})
    try:
        if not (sweep / SWEEP_FILE).exists():
            raise UserError(f"{sweep} is not visible on this node; launch with --out on a folder that all nodes share")
        config = with_changes(parse(base, "base"), suggestion["parameters"], "suggestion")
        with open_store(reveal(store, "store"), sweep / STORE, quota) as results:
            result = run(config, results, report, until=until)
            with claim(out, "trial", adopt=True).publishing(last=RESULT) as new:
                write_run(result, new)
        taken = {"seconds": sum(result.seconds.values()), "gpu_gb": result.gpu_gb}
        values = [taken[name] if name in taken else score(result.metrics, name, config.selection) for name in objective]
        end = {"ended": "COMPLETE", "values": values, "metrics": result.metrics, "taken": taken}
    except Exception as error:  # whatever it was, it would happen again: only lost processes and nodes are retried
        with contextlib.suppress(OSError):  # on a full disk the reason below must do
            out.mkdir(parents=True, exist_ok=True)
            (out / "error.txt").write_text(redact(traceback.format_exc()))
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        end = {"ended": "FAILED", "reason": cut(redact(reason), LONGEST)}
    send(end)
