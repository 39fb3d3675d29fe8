"""One run of the whole method: the stage graph, and the stages whose results are missing, in order."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from semples import generators
from semples.clip import weights_file
from semples.config import Config, flatten, to_dict
from semples.data import load_data
from semples.data.dataset import Dataset
from semples.digests import file_digest
from semples.log import Log
from semples.manifest import read_mark
from semples.stages import classify, heatmaps, masks, match, prompts, refine, segment
from semples.stopwatch import running
from semples.store import Store, make_key
from semples.training import CHECKPOINT, prepare, resolve_device, seed_stream

AGAIN = 3  # times that lost results are computed again
SECONDS = "seconds"  # file: compute seconds of a stage that is under way


class Run(Protocol):
    """The shape of every stage's `run`, see semples.stages."""

    def __call__(
        self, config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log
    ) -> dict[str, float]: ...


@dataclass(frozen=True)
class Stage:
    """reads: sections or single keys of the configuration that determine the result, besides the inputs, the data, the
    seed, the selection rule and the runtime, on which every stage depends. version: raise it when the code changes
    results. milestone: the metric by which trials are compared once this stage is done. headline: its metrics are those
    of the run, under their own names. stream: the stage whose random stream it repeats, instead of one of its own."""

    run: Run
    inputs: Callable[[Config], tuple[str, ...]]
    reads: tuple[str, ...]
    milestone: str | None = None
    headline: bool = False
    stream: str = ""
    version: int = 1


def _after(*names: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: names


def _judges(config: Config) -> tuple[str, ...]:
    """The stage whose result judges masks where no true mask may."""
    return ("prompts",) if config.selection == "proxy" else ()


STAGES: dict[str, Stage] = {
    "classify": Stage(classify.run, _after(), ("generator", "augment", "classify"), "cam_miou", version=2),
    "match": Stage(match.run, _after("classify"), ("generator", "augment", "clip", "match"), "cam_miou", version=2),
    "prompts": Stage(prompts.run, _after("match"), ("generator", "augment", "clip", "prompts"), version=2),
    "refine": Stage(
        refine.run,
        lambda config: (config.refine.start, "prompts"),
        ("generator", "augment", "clip", "refine", "match.lambda_b", "match.mask_eps"),
        "cam_miou",
        # the same batches as match: with lambda_r 0 it repeats match, and what differs is due to the prompts
        stream="match",
        version=2,
    ),
    "heatmaps": Stage(heatmaps.run, _after("refine"), ("generator", "heatmaps"), "cam_miou", version=4),
    "masks": Stage(masks.run, lambda config: ("heatmaps", *_judges(config)), ("masks",), "pseudo_miou", headline=True),
    "segment": Stage(
        segment.run,
        lambda config: ("masks", *_judges(config)) if config.segment.train_on == "pseudo" else (),
        ("segment",),
        "seg_miou",
        headline=True,
        version=2,
    ),
}


def key_parts(config: Config, fingerprint: str) -> dict[str, dict[str, Any]]:
    """What the key of every stage's result is made of under this (resolved) configuration; see make_key."""
    flat = dict(flatten(to_dict(config)))
    # of files that the configuration names, the content counts
    weights = weights_file(config.clip)
    content = {"clip": file_digest(weights) if weights else "", "generator": generators.content(config.generator)}
    result: dict[str, dict[str, Any]] = {}
    for name, stage in STAGES.items():
        result[name] = {
            "stage": name,
            "version": stage.version,
            "parameters": {k: v for k, v in flat.items() if any(f"{k}.".startswith(f"{r}.") for r in stage.reads)},
            "inputs": {i: make_key(**result[i]) for i in stage.inputs(config)},
            "files": {section: sha for section, sha in content.items() if section in stage.reads},
            "data": fingerprint,
            "seed": config.seed,
            "selection": config.selection,
            "runtime": {k: v for k, v in flat.items() if k.startswith("runtime.")},
        }
    return result


def stage_keys(config: Config, fingerprint: str) -> dict[str, str]:
    """The store key of every stage's result under this (resolved) configuration."""
    return {name: make_key(**parts) for name, parts in key_parts(config, fingerprint).items()}


def differences(a: dict[str, Any], b: dict[str, Any], known: dict[str, dict[str, Any]]) -> list[str]:
    """Why two results have different keys: "what: this, that" for everything in their parts that differs.

    known: parts by key, as far as they are known: what differs in an input is looked for in the input's own parts.
    """
    found = []
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if left == right:
            continue
        if name != "inputs":
            pairs = [(name, left, right)]
            if isinstance(left, dict) and isinstance(right, dict):
                keys = sorted({*left, *right})
                pairs = [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]
            found += [f"{what}: {one}, {other}" for what, one, other in pairs]
            continue
        for stage in sorted({*left, *right}):  # type: ignore[misc]
            one, other = left.get(stage), right.get(stage)  # type: ignore[union-attr]
            if one != other:
                inner = differences(known[one], known[other], known) if {one, other} <= {*known} else []
                found += inner or [f"result of {stage}: {one}, {other}"]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Event:
    """Progress of a run. While a stage computes: epoch of epochs (0 when it begins) and the values of that epoch. While
    another process computes it: who, in `waiting`. When it is done: also its final `metrics`, its whole `curves` (one
    mapping an epoch), the `seconds` that it took to compute, and whether it was `reused`."""

    stage: str
    epoch: int
    epochs: int
    values: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] | None = None
    curves: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    reused: bool = False
    waiting: str = ""


@dataclass(frozen=True)
class Result:
    """A finished run: resolved configuration, all metrics (mIoU in points; `STAGE/name` for what several stages
    report), result folders and seconds by stage, names of reused stages, the data's fingerprint. gpu_gb: the most GPU
    memory that a stage took when it was computed, 0 without a GPU."""

    config: Config
    metrics: dict[str, float]
    folders: dict[str, Path]
    seconds: dict[str, float]
    reused: tuple[str, ...]
    fingerprint: str
    classes: tuple[str, ...]
    gpu_gb: float

    def to_dict(self) -> dict[str, Any]:
        """What goes into result.json."""
        return {
            "selection": self.config.selection,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "reused": list(self.reused),
            "keys": {name: folder.name for name, folder in self.folders.items()},
            "data": self.fingerprint,
            "classes": list(self.classes),
            "versions": {
                p: importlib.metadata.version(p) for p in ("semples-tune", "torch", "timm", "open_clip_torch", "numpy")
            },
        }


def run(config: Config, store: Store, report: Callable[[Event], None], until: str = "segment") -> Result:
    """Compute the stages up to `until` whose results the store lacks, in order.

    report: called after every epoch and every stage. A result that is deleted or damaged while it is used is computed
    again. Raises UserError for what the user can put right.
    """
    config = config.model_copy(update={"runtime": resolve_device(config.runtime)})
    prepare(config.runtime)
    data = load_data(config.data, config.selection)
    again = AGAIN
    while True:
        folders: dict[str, Path] = {}
        try:
            return _run_stages(config, data, store, report, until, folders)
        except Exception:
            if not again or not store.lost(folder.name for folder in folders.values()):
                raise
            again -= 1


def _run_stages(
    config: Config, data: Dataset, store: Store, report: Callable[[Event], None], until: str, folders: dict[str, Path]
) -> Result:
    """Stage after stage; the folder of each, once it is done, in `folders`."""
    parts = key_parts(config, data.fingerprint)
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = {}
    reused: list[str] = []
    gpu_gb = 0.0
    for name, stage in STAGES.items():
        inputs = {i: folders[i] for i in stage.inputs(config)}

        def compute(out: Path, name: str = name, inputs: dict[str, Path] = inputs) -> dict[str, Any]:
            return _compute(name, config, data, inputs, out, report) | {"stage": name, "key": parts[name]}

        def wait(owner: str, name: str = name) -> None:
            report(Event(name, 0, 1, waiting=owner))

        folder, found = store.obtain(make_key(**parts[name]), compute, wait)
        if found:
            reused.append(name)
        folders[name] = folder
        mark = read_mark(folder)
        seconds[name] = mark["seconds"]
        gpu_gb = max(gpu_gb, mark.get("gpu_gb", 0.0))
        for metric, value in mark["metrics"].items():
            metrics[metric if stage.headline else f"{name}/{metric}"] = value
        curves = tuple(mark["curves"])
        report(Event(name, len(curves), len(curves), {}, mark["metrics"], curves, mark["seconds"], found))
        if name == until:
            break
    return Result(config, metrics, folders, seconds, tuple(reused), data.fingerprint, data.classes, gpu_gb)


def _compute(
    name: str, config: Config, data: Dataset, inputs: dict[str, Path], out: Path, report: Callable[[Event], None]
) -> dict[str, Any]:
    """Run one stage into the folder `out`, or go on with it where an earlier attempt left its checkpoint there; what is
    recorded with its result."""
    spent = out / SECONDS
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in (spent, out / CHECKPOINT):
            path.unlink()
    before = _read_seconds(spent)
    curves: list[dict[str, float]] = []

    def log(epoch: int, epochs: int, **values: float) -> None:
        if values:
            curves.append(values)
        with contextlib.suppress(OSError):  # a full disk: only what an earlier attempt took is forgotten
            (out / f".{SECONDS}").write_text(str(before + watch.seconds))
            os.replace(out / f".{SECONDS}", spent)
        report(Event(name, epoch, epochs, values))

    report(Event(name, 0, 1))
    on_gpu = config.runtime.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seed_stream(config.seed, STAGES[name].stream or name)
    with running() as watch:
        metrics = STAGES[name].run(config, data, inputs, out, log)
    metrics = {metric: value for metric, value in metrics.items() if math.isfinite(value)}  # no IoU of absent classes
    for path in (spent, out / CHECKPOINT):
        path.unlink(missing_ok=True)
    gpu_gb = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    stalled = {"stalled": watch.stalled} if watch.stalled else {}  # seconds in which the process was stopped
    return {"metrics": metrics, "curves": curves, "seconds": before + watch.seconds, "gpu_gb": gpu_gb, **stalled}


def _read_seconds(file: Path) -> float:
    """Compute seconds of earlier attempts; 0 where they are not told."""
    with contextlib.suppress(OSError, ValueError):
        seconds = float(file.read_text()) if file.is_file() else 0.0
        return seconds if 0 <= seconds < math.inf else 0.0
    return 0.0
