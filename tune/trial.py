"""One trial: a run of the whole pipeline, whose stages are tasks of Ray, reporting as it goes.

A trial keeps nothing of its own: finished stages are in the store, so a trial that is retried, resumed or repeated goes
on from the first stage that is missing. It computes nothing itself, and needs nothing while it waits.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from semples.analytic import read_scores
from semples.config import parse, with_changes
from semples.errors import UserError, cut
from semples.folders import claim
from semples.pipeline.graph import Reuse, graph
from semples.pipeline.run import Event, run
from semples.pipeline.work import LostError
from semples.run_folder import RESULT
from semples.secrets import redact, reveal
from semples.store import open_store
from tune.messages import (
    Completed,
    Decided,
    EpochDone,
    Failed,
    Lost,
    Message,
    Progress,
    Restarted,
    StageDone,
    Usage,
    encode,
)
from tune.nodes import blamed, same_code
from tune.objectives import Objective, choosing, milestone_score
from tune.places import STORE, SWEEP_FILE, trial_folder
from tune.reporting import goes_on
from tune.space import Dimension
from tune.stage_tasks import stage_tasks, write_elsewhere
from tune.values import Report, Resources

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
    resources: Resources,
    own: Mapping[str, tuple[str, Dimension]],
    code: str,
) -> None:
    """Run the configuration `base` with the suggested parameters, up to the stage `until`, and measure it on the
    reported images where `report` wants that (tune.reporting). resources: of a stage. own: by key that trials may
    decide the stage that scores its values, and those that are allowed. code: of the package, which nodes must have
    (see tune.examine). What it tells: see tune.messages. A trial whose last message is none of an end was stopped, or
    its own process died."""
    sweep, last, at = Path(folder), 0.0, ("", "")
    done: set[str] = set()
    # the next trial goes on in this process, and Ray gives it up where one that was stopped still tidies up after 2 s
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")

    def tell(event: Event) -> None:
        nonlocal last, at
        if event.reused and event.stage in done:  # a run that goes on with what it decided passes it again
            return
        if event.metrics is not None:
            done.add(event.stage)
            score = milestone_score(stages[event.stage], event.metrics, config.selection)
            spent = (event.cpu_seconds, event.gpu_seconds, event.waited, event.node)
            send(StageDone(event.stage, event.metrics, event.curves, event.seconds, event.reused, score, *spent))
        elif (course := stages[event.stage].course) in event.values:
            send(EpochDone(event.stage, event.epoch, event.epochs, event.values[course]))
        elif (event.stage, event.waiting) != at or time.monotonic() - last >= REPORT_EVERY:
            at = event.stage, event.waiting
            send(Progress(event.stage, event.epoch, event.epochs, event.waiting))
        else:
            return
        last = time.monotonic()

    out = trial_folder(sweep, suggestion["number"])
    end: Completed | Failed | Lost

    def on_loss(what: str, reason: str) -> None:
        send(Restarted(reason, what))

    computing = stage_tasks(resources, sweep, code, on_loss)
    with blamed():  # Ray starts it again, on another node
        same_code(code)
        if not (sweep / SWEEP_FILE).exists():
            raise OSError(f"{sweep} is not visible there; launch with --out on a folder that all nodes share")
        if (root := base["data"].get("root")) and not Path(root).exists():
            raise OSError(f"data.root {root} is not there")
    try:
        config = with_changes(parse(base, "base"), suggestion["parameters"], "suggestion")
        stages = graph(config)
        with open_store(reveal(store, "store"), sweep / STORE, quota) as results:
            for key in suggestion.get("decided", ()):
                stage, dimension = own[key]
                scores = read_scores(run(config, results, tell, stage, reuse, computing=computing).folders[stage])
                value = scores.best(dimension.among(scores.values))
                config = with_changes(config, {key: value}, "suggestion")
                send(Decided(key, value))
            result = run(config, results, tell, until, reuse, goes_on(report, until), computing)
            with claim(out, "trial", adopt=True).publishing(last=RESULT) as new:
                write_elsewhere(resources, sweep, result, new, on_loss)
        usage, chosen = Usage(sum(result.seconds.values()), result.gpu_gb), choosing(result.metrics, config.selection)
        end = Completed(tuple(objective.value(chosen, usage) for objective in objectives), result.metrics, usage)
    except LostError as error:
        end = Lost(str(error))
    except Exception as error:  # whatever it was, it would happen again: only lost processes and nodes are retried
        with contextlib.suppress(OSError):  # on a full disk the reason below must do
            out.mkdir(parents=True, exist_ok=True)
            (out / "error.txt").write_text(redact(traceback.format_exc()))
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        end = Failed(cut(redact(reason), LONGEST))
    send(end)
