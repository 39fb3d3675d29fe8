"""Computes one stage into a folder: in this process, or in whatever process is given what it takes."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from semples import spread
from semples.data.dataset import Dataset
from semples.pipeline.graph import graph
from semples.pipeline.keys import view
from semples.pipeline.work import Epoch, Work
from semples.stopwatch import running
from semples.training import CHECKPOINT, prepare, resolve_device, seed_stream

SECONDS = "seconds"  # file: compute seconds of a stage that is under way


def compute(work: Work, data: Dataset, report: Callable[[Epoch], None]) -> dict[str, Any]:
    """Compute a stage of a run with these data, or go on with it where an earlier attempt left its checkpoint in the
    folder; what is recorded with its result. Raises UserError where it needs a GPU and there is none."""
    name, config, out = work.stage, work.config, work.out
    stage = graph(config)[name]
    if stage.gpu(config):
        resolve_device(config.runtime)
    prepare(config.runtime)
    spent = out / SECONDS
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in (spent, out / CHECKPOINT):
            path.unlink()
    before, cpu_before = _read_seconds(spent)
    cpu_start = _cpu_seconds() - cpu_before
    curves: list[dict[str, float]] = []

    def log(epoch: int, epochs: int, **values: float) -> None:
        if values:
            curves.append(values)
        with contextlib.suppress(OSError):  # a full disk: only what an earlier attempt took is forgotten
            (out / f".{SECONDS}").write_text(f"{before + watch.seconds} {_cpu_seconds() - cpu_start}")
            os.replace(out / f".{SECONDS}", spent)
        report(Epoch(name, epoch, epochs, values))

    report(Epoch(name, 0, 1))
    on_gpu = config.runtime.device == "cuda" and stage.gpu(config)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seed_stream(config.seed, stage.stream or name)
    own = data.treating(stage.images) if stage.images else data
    with running() as watch:
        metrics = stage.load()(view(config, name), own, dict(work.inputs), out, log)
    metrics = {metric: value for metric, value in metrics.items() if math.isfinite(value)}  # no IoU of absent classes
    for path in (spent, out / CHECKPOINT):
        path.unlink(missing_ok=True)
    gpu_gb = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    stalled = {"stalled": watch.stalled} if watch.stalled else {}  # seconds in which the process was stopped
    seconds = before + watch.seconds
    return {
        "metrics": metrics, "curves": curves, "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu_start, "gpu_seconds": seconds if on_gpu else 0.0,
        "gpu_gb": gpu_gb, "node": platform.node(), **stalled,
    }  # fmt: skip


def _cpu_seconds() -> float:
    """Of this process on all processors, of its processes that have ended, and of others that worked for it."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(of.ru_utime + of.ru_stime for of in used) + spread.elsewhere()


def _read_seconds(file: Path) -> tuple[float, float]:
    """Compute and CPU seconds of earlier attempts; 0 where they are not told."""
    with contextlib.suppress(OSError, ValueError):
        seconds, cpu = map(float, file.read_text().split()) if file.is_file() else (0.0, 0.0)
        if 0 <= seconds < math.inf and 0 <= cpu < math.inf:
            return seconds, cpu
    return 0.0, 0.0
