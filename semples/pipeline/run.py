"""Computes the stages whose results the store lacks, in order."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from semples.config import Config
from semples.data import load_data
from semples.data.dataset import Dataset
from semples.manifest import read_manifest
from semples.pipeline.graph import Reuse, graph, refiners
from semples.pipeline.keys import declared, key_parts, recorded, view
from semples.results import make_key
from semples.stage import Stage
from semples.stopwatch import running
from semples.store import Store
from semples.training import CHECKPOINT, prepare, resolve_device, seed_stream

AGAIN = 3  # times that lost results are computed again
SECONDS = "seconds"  # file: compute seconds of a stage that is under way


@dataclass(frozen=True)
class Event:
    """Progress of a run. While a stage computes: epoch of epochs (0 when it begins) and the values of that epoch. While
    another process computes it: who, in `waiting`. When it is done: also its final `metrics`, its whole `curves` (one
    mapping an epoch), the `seconds` that it took to compute, with `cpu_seconds` of all processors and, where it
    computes on a GPU, `gpu_seconds`, how long this run `waited` for another process that computed it, whether it was
    `reused`, and the stage's `milestone`, the metric by which runs are compared there, if it has one, or that it
    reports for other images."""

    stage: str
    epoch: int
    epochs: int
    values: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] | None = None
    curves: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    waited: float = 0.0
    reused: bool = False
    waiting: str = ""
    milestone: str | None = None


@dataclass(frozen=True)
class Result:
    """A finished run: resolved configuration, the data as they were when it began, all metrics (mIoU in percent;
    `STAGE/name` for what several stages report), result folders and seconds by stage, names of reused stages. gpu_gb:
    the most GPU memory that a stage took when it was computed, 0 without a GPU. libraries: by stage, the versions with
    which its result was computed."""

    config: Config
    data: Dataset
    metrics: dict[str, float]
    folders: dict[str, Path]
    seconds: dict[str, float]
    reused: tuple[str, ...]
    gpu_gb: float
    libraries: dict[str, dict[str, str]]
    reuse: Reuse

    def to_dict(self) -> dict[str, Any]:
        """What goes into result.json."""
        return {
            "selection": self.config.selection,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "reused": list(self.reused),
            "keys": {name: folder.name for name, folder in self.folders.items()},
            "data": self.data.fingerprint,
            "classes": list(self.data.classes),
            "versions": {"semples-tune": version("semples-tune"), **self._versions()},
            **({"reuse": self.reuse} if self.reuse != "exact" else {}),
        }

    def _versions(self) -> dict[str, str]:
        """Versions by library; several where stages were computed with different ones."""
        found: dict[str, set[str]] = {}
        for of_stage in self.libraries.values():
            for name, number in of_stage.items():
                found.setdefault(name, set()).add(number)
        return {name: ", ".join(sorted(numbers)) for name, numbers in sorted(found.items())}


def run(
    config: Config,
    store: Store,
    report: Callable[[Event], None],
    until: str | None = None,
    reuse: Reuse = "exact",
    further: Callable[[Result], str | None] = lambda result: None,
) -> Result:
    """Compute the stages up to `until` (and what refines its result; None = all) whose results the store lacks, in
    order.

    report: called after every epoch and every stage. reuse: "declared" also takes stored results of other code and
    other versions of libraries, if configuration and data are the same. further: called after `until` with the result
    so far; the stage up to which to go on, None for no further. Stages of an empty set of images are left out. A result
    that is deleted or damaged while it is used is computed again. Raises UserError for what the user can put right.
    """
    config = config.model_copy(update={"runtime": resolve_device(config.runtime)})
    prepare(config.runtime)
    data = load_data(config.data, config.selection)
    again = AGAIN
    while True:
        folders: dict[str, Path] = {}
        try:
            return _run_stages(config, data, store, report, until, reuse, further, folders)
        except Exception:
            if not again or not store.lost(folder.name for folder in folders.values()):
                raise
            again -= 1


def _run_stages(
    config: Config,
    data: Dataset,
    store: Store,
    report: Callable[[Event], None],
    until: str | None,
    reuse: Reuse,
    further: Callable[[Result], str | None],
    folders: dict[str, Path],
) -> Result:
    """Stage after stage; the folder of each, once it is done, in `folders`."""
    stages = graph(config, data)
    all_parts = key_parts(config, data.fingerprint, stages)
    known = recorded(store.entries()) if reuse == "declared" else {}
    alike = {declared(parts, known): key for key, parts in known.items()}
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = {}
    libraries: dict[str, dict[str, str]] = {}
    reused: list[str] = []
    gpu_gb = 0.0

    def complete(name: str, stage: Stage) -> None:
        nonlocal gpu_gb
        own = data.treating(stage.images) if stage.images else data
        inputs = {key: folders[source] for key, source in stage.sources.items()}
        parts = {**all_parts[name], "inputs": {key: folder.name for key, folder in inputs.items()}}
        key = make_key(**parts)
        if alike and key not in known:
            key = alike.get(declared(parts, known), key)

        since, waited = 0.0, 0.0

        def wait(owner: str) -> None:
            nonlocal since
            since = since or time.perf_counter()
            report(Event(name, 0, 1, waiting=owner))

        def compute(out: Path) -> dict[str, Any]:
            nonlocal since, waited
            waited, since = time.perf_counter() - since if since else 0.0, 0.0
            return _compute(name, stage, config, own, inputs, out, report) | {"stage": name, "key": parts}

        folder, found = store.get_or_compute(key, compute, wait)
        waited = time.perf_counter() - since if since else waited
        if found:
            reused.append(name)
        folders[name] = folder
        manifest = read_manifest(folder)
        seconds[name] = manifest["seconds"]
        libraries[name] = manifest.get("key", {}).get("libraries", {})
        gpu_gb = max(gpu_gb, manifest.get("gpu_gb", 0.0))
        for metric, value in manifest["metrics"].items():
            metrics[metric if stage.headline else f"{stage.of or name}/{metric}"] = value
        curves, milestone = tuple(manifest["curves"]), stages[stage.of or name].milestone
        cpu_seconds, gpu_seconds = (manifest.get(f"{kind}_seconds", 0.0) for kind in ("cpu", "gpu"))
        ended = Event(
            name, len(curves), len(curves), {}, manifest["metrics"], curves, manifest["seconds"], cpu_seconds,
            gpu_seconds, waited, found, milestone=milestone,
        )  # fmt: skip
        report(ended)

    def result() -> Result:
        return Result(config, data, metrics, folders, seconds, tuple(reused), gpu_gb, libraries, reuse)

    last = refiners(config)
    end = last.get(until or "")
    for name in last:
        if name in stages:
            complete(name, stages[name])
        if name == end:
            if (goal := last.get(further(result()) or "")) in (None, name):
                break
            end = goal
    return result()


def _compute(
    name: str,
    stage: Stage,
    config: Config,
    data: Dataset,
    inputs: dict[str, Path],
    out: Path,
    report: Callable[[Event], None],
) -> dict[str, Any]:
    """Run one stage into the folder `out`, or go on with it where an earlier attempt left its checkpoint there; what is
    recorded with its result."""
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
        report(Event(name, epoch, epochs, values))

    report(Event(name, 0, 1))
    on_gpu = config.runtime.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seed_stream(config.seed, stage.stream or name)
    with running() as watch:
        metrics = stage.load()(view(config, name), data, inputs, out, log)
    metrics = {metric: value for metric, value in metrics.items() if math.isfinite(value)}  # no IoU of absent classes
    for path in (spent, out / CHECKPOINT):
        path.unlink(missing_ok=True)
    gpu_gb = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    stalled = {"stalled": watch.stalled} if watch.stalled else {}  # seconds in which the process was stopped
    seconds = before + watch.seconds
    return {
        "metrics": metrics, "curves": curves, "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu_start, "gpu_seconds": seconds if on_gpu and stage.gpu else 0.0,
        "gpu_gb": gpu_gb, "node": platform.node(), **stalled,
    }  # fmt: skip


def _cpu_seconds() -> float:
    """Of this process on all processors, and of its processes that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(of.ru_utime + of.ru_stime for of in used)


def _read_seconds(file: Path) -> tuple[float, float]:
    """Compute and CPU seconds of earlier attempts; 0 where they are not told."""
    with contextlib.suppress(OSError, ValueError):
        seconds, cpu = map(float, file.read_text().split()) if file.is_file() else (0.0, 0.0)
        if 0 <= seconds < math.inf and 0 <= cpu < math.inf:
            return seconds, cpu
    return 0.0, 0.0
