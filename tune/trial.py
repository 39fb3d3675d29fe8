"""One trial: a run of the whole pipeline on whatever node Ray gave it, reporting as it goes.

A trial keeps nothing of its own: finished stages are in the store, so a trial that is retried, resumed or repeated goes
on from the first stage that is missing.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from semples.config import parse, with_changes
from semples.errors import UserError, cut
from semples.folders import claim
from semples.output import write_run
from semples.pipeline.graph import Reuse, graph
from semples.pipeline.run import Event, run
from semples.run_folder import RESULT
from semples.secrets import redact, reveal
from semples.store import open_store
from tune.messages import Completed, EpochDone, Failed, Message, Placed, Progress, StageDone, Usage, encode
from tune.objectives import Objective, choosing, milestone_score
from tune.places import STORE, SWEEP_FILE, trial_folder
from tune.reporting import goes_on
from tune.values import Report

REPORT_EVERY = 2.0  # seconds between two reports from inside a stage
LONGEST = 900  # characters of the reason why a trial failed


def send(message: Message) -> None:
    """Report to the driver."""
    ray_tune.report(encode(message))


def run_trial(
    suggestion: dict[str, Any],
    base: dict[str, Any],
    folder: str,
    objectives: tuple[Objective, ...],
    until: str,
    report: Report,
    store: str,
    quota: float | None,
    reuse: Reuse,
) -> None:
    """Run the configuration `base` with the suggested parameters, up to the stage `until`, and measure it on the
    reported images where `report` wants that (tune.reporting). What it tells: see tune.messages. A trial whose last
    message is neither Completed nor Failed was stopped or lost."""
    sweep, last = Path(folder), 0.0
    # the next trial goes on in this process, and Ray gives it up where one that was stopped still tidies up after 2 s
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")

    def tell(event: Event) -> None:
        nonlocal last
        if event.metrics is not None:
            score = milestone_score(stages[event.stage], event.metrics, config.selection)
            spent = (event.cpu_seconds, event.gpu_seconds, event.waited)
            send(StageDone(event.stage, event.metrics, event.curves, event.seconds, event.reused, score, *spent))
        elif (course := stages[event.stage].course) in event.values:
            send(EpochDone(event.stage, event.epoch, event.epochs, event.values[course]))
        elif time.monotonic() - last >= REPORT_EVERY:
            send(Progress(event.stage, event.epoch, event.epochs, event.waiting))
        else:
            return
        last = time.monotonic()

    out = trial_folder(sweep, suggestion["number"])
    send(Placed(f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"))
    end: Completed | Failed
    try:
        if not (sweep / SWEEP_FILE).exists():
            raise UserError(f"{sweep} is not visible on this node; launch with --out on a folder that all nodes share")
        config = with_changes(parse(base, "base"), suggestion["parameters"], "suggestion")
        stages = graph(config)
        with open_store(reveal(store, "store"), sweep / STORE, quota) as results:
            result = run(config, results, tell, until, reuse, goes_on(report, until))
            with claim(out, "trial", adopt=True).publishing(last=RESULT) as new:
                write_run(result, new)
        usage, chosen = Usage(sum(result.seconds.values()), result.gpu_gb), choosing(result.metrics, config.selection)
        end = Completed(tuple(objective.value(chosen, usage) for objective in objectives), result.metrics, usage)
    except Exception as error:  # whatever it was, it would happen again: only lost processes and nodes are retried
        with contextlib.suppress(OSError):  # on a full disk the reason below must do
            out.mkdir(parents=True, exist_ok=True)
            (out / "error.txt").write_text(redact(traceback.format_exc()))
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        end = Failed(cut(redact(reason), LONGEST))
    send(end)
