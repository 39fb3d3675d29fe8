"""Computes the stages whose results the store lacks, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from semples.config import Config
from semples.data import load_data
from semples.data.dataset import Dataset
from semples.manifest import read_manifest
from semples.pipeline.graph import Reuse, graph, refiners
from semples.pipeline.keys import declared, key_parts, recorded
from semples.pipeline.work import Compute, Epoch, LostError, Work
from semples.results import make_key
from semples.stage import Stage
from semples.store import Store

AGAIN = 3  # times that lost results are computed again, and stages whose process is gone


@dataclass(frozen=True)
class Event:
    """Progress of a run. While a stage computes: epoch of epochs (0 when it begins) and the values of that epoch. While
    another process computes it: who, in `waiting`. When it is done: also its final `metrics`, its whole `curves` (one
    mapping an epoch), the `seconds` that it took to compute, with `cpu_seconds` of all processors and, where it
    computes on a GPU, `gpu_seconds`, the `node` that did so, how long this run `waited` for another process that
    computed it, whether it was `reused`, and the stage's `milestone`, the metric by which runs are compared there, if
    it has one, or that it reports for other images."""

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
    node: str = ""
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
    computing: Compute | None = None,
) -> Result:
    """Compute the stages up to `until` (and what refines its result; None = all) whose results the store lacks, in
    order.

    report: called after every epoch and every stage. reuse: "declared" also takes stored results of other code and
    other versions of libraries, if configuration and data are the same. further: called after `until` with the result
    so far; the stage up to which to go on, None for no further. computing: what computes a stage; None = this process,
    and only then `runtime.device` is asked whether it is there. Stages of an empty set of images are left out. A result
    that is deleted or damaged while it is used is computed again. Raises UserError for what the user can put right.
    """
    if computing is None:
        from semples.pipeline.compute import compute
        from semples.training import prepare, resolve_device

        computing = compute
        config = config.model_copy(update={"runtime": resolve_device(config.runtime)})
        prepare(config.runtime)  # also where all is stored: somebody may predict with what comes out
    data = load_data(config.data, config.selection)
    again = AGAIN
    while True:
        folders: dict[str, Path] = {}
        try:
            return _run_stages(config, data, store, report, until, reuse, further, computing, folders)
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
    computing: Compute,
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

        def say(done: Epoch) -> None:
            report(Event(name, done.epoch, done.epochs, done.values))

        def write(out: Path) -> dict[str, Any]:
            nonlocal since, waited
            waited, since = time.perf_counter() - since if since else 0.0, 0.0
            return computing(Work(name, config, inputs, out), data, say) | {"stage": name, "key": parts}

        for left in reversed(range(AGAIN + 1)):
            try:
                folder, found = store.get_or_compute(key, write, wait)
                break
            except LostError:
                if not left:
                    raise
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
            gpu_seconds, waited, manifest.get("node", ""), found, milestone=milestone,
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
