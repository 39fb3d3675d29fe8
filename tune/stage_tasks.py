"""Stages as tasks of Ray: a trial itself only waits, and each of its stages runs where what it needs is free."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from semples.config import Config
from semples.data import load_data
from semples.data.dataset import Dataset
from semples.errors import UserError
from semples.pipeline.graph import graph
from semples.pipeline.run import Result
from semples.pipeline.work import Compute, Epoch, LostError, Work
from semples.spread import Later, using
from tune.nodes import blamed, cause_of, needed, on_sound_nodes, same_code, stages_in
from tune.values import Resources

LOOK_EVERY = 0.3  # seconds between two looks at what a stage tells
TOLD = ".told"  # file in the folder of a stage that is computed: what it tells, one line each
WAITING = 500e6  # bytes of memory that are reserved for a trial, which waits
RETRIES = 3  # of a part of a stage's images, by Ray
CHANGED = "data: changed while a trial ran; the same command goes on with what is there now"
UNKNOWN = "failed to import"  # what Ray says of a function where it cannot be loaded
ITS_FOLDER = "its folder"  # what of a run is written when its stages are done
PATIENCE = 5.0  # seconds for a task that is stopped to end


def slots(resources: Resources) -> int:
    """How many stages the cluster has room for now, at least 1: of those that use a GPU, if trials use one."""
    return max(1, stages_in(ray.cluster_resources(), resources))


def stage_tasks(resources: Resources, sweep: Path, code: str, on_loss: Callable[[str, str], None]) -> Compute:
    """What computes the stages of a run as tasks. sweep: its folder, where the nodes that are left out are known. code:
    of the package, as tune.examine has it, which nodes must have. on_loss: called with a stage whose process or node
    died, or whose node was left out, and how.

    A node that cannot compute for a reason of its own is left out, and the stage computed on another one. The errors
    are else those of the stage; LostError where the process or node died.
    """

    def computing(work: Work, data: Dataset, report: Callable[[Epoch], None]) -> dict[str, Any]:
        def on_out(sentence: str) -> None:
            _same_data(work.config, data)
            on_loss(work.stage, sentence)

        needs = needed(resources, graph(work.config)[work.stage].gpu(work.config))
        return on_sound_nodes(sweep, needs, lambda nodes: once(work, data, report, nodes), on_out)

    def once(work: Work, data: Dataset, report: Callable[[Epoch], None], nodes: dict[str, str]) -> dict[str, Any]:
        on_gpu = graph(work.config)[work.stage].gpu(work.config)
        words = (work, data.fingerprint, resources, code)
        task = _task(compute_stage, resources, on_gpu, 0, nodes).remote(*words)
        said, last = Lines(work.out / TOLD), Epoch(work.stage, 0, 1)
        ended = False
        try:
            while not ended:
                ended = bool(ray.wait([task], timeout=LOOK_EVERY)[0])
                for epoch in (Epoch(**line) for line in said.new()):
                    report(epoch)
                    last = replace(epoch, values={})
                report(last)  # whoever stops a trial does so when it reports
            manifest: dict[str, Any] = _outcome(task, work.stage)
        except LostError as error:
            on_loss(work.stage, str(error).partition(": ")[2])
            raise
        finally:
            if not ended:
                _stop(task)
        said.path.unlink(missing_ok=True)
        return manifest

    return computing


def _outcome(task: Any, what: str) -> Any:
    """What a task gave. Raises what it raised; LostError where its process, or that of a part of it, is gone."""
    try:
        return ray.get(task)
    except RayError as error:
        cause = cause_of(error)
        if not isinstance(cause, RayError) and not (isinstance(cause, RuntimeError) and UNKNOWN in str(cause)):
            raise cause from error
        reason = "its node ran out of memory" if isinstance(cause, OutOfMemoryError) else "its process or node died"
        raise LostError(f"{what}: {reason}") from error


def _same_data(config: Config, data: Dataset) -> None:
    """Raise UserError where the data are not any more what they were."""
    if load_data(config.data, config.selection).fingerprint != data.fingerprint:
        raise UserError(CHANGED)


def _stop(task: Any) -> None:
    """Interrupt a task, and wait until it has ended."""
    ray.cancel(task)
    ray.wait([task], timeout=PATIENCE)


def _task(
    function: Callable[..., Any], resources: Resources, on_gpu: bool, retries: int, nodes: dict[str, str] | None = None
) -> Any:
    """A remote function that has what a stage needs to itself, outside of what is reserved for its trial. nodes: on
    which, as Ray's `label_selector` says it."""
    return ray.remote(function).options(
        **resources.of_stage(on_gpu), max_retries=retries, scheduling_strategy="DEFAULT", label_selector=nodes or {}
    )


class Lines:
    """The lines of JSON that somebody else writes into a file, as they come."""

    def __init__(self, path: Path):
        self.path, self._read = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that were finished since the last time."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
            self._read += len(whole) + bool(whole)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):  # half of one, from a full disk
                    yield json.loads(line)


_loaded: dict[tuple[str, ...], Dataset] = {}  # in a process that computes stages: the data of the last one


def _data(config: Config, fingerprint: str) -> Dataset:
    """The data of a run, with this content."""
    known = (fingerprint, config.selection, config.data.model_dump_json())
    if known not in _loaded:
        _loaded.clear()
        found = load_data(config.data, config.selection)
        if found.fingerprint != fingerprint:
            raise UserError(CHANGED)
        _loaded[known] = found
    return _loaded[known]


def compute_stage(work: Work, fingerprint: str, resources: Resources, code: str) -> dict[str, Any]:
    """In a process of its own: compute a stage, and tell of every epoch in the file TOLD. Raises NodeError where this
    node lacks what it takes for any stage."""
    with blamed():
        same_code(code)
        from semples.pipeline.compute import compute

        data = _data(work.config, fingerprint)
        if not work.out.is_dir():
            raise OSError(f"{work.out.parent} is not the folder that all nodes share")

    def tell(epoch: Epoch) -> None:
        # on a full disk it is shown later
        with contextlib.suppress(OSError), (work.out / TOLD).open("a") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")

    on_gpu = bool(resources.gpu) and graph(work.config)[work.stage].gpu(work.config)
    with using(Cluster(resources)), blamed(always=False, gpu=on_gpu):
        manifest = compute(work, data, tell)
    # of several nodes on one machine, which
    return manifest | {"node": f"{manifest['node']} {ray.get_runtime_context().get_node_id()[:8]}"}


class Cluster:
    """The CPUs of the cluster as a pool, see semples.spread."""

    def __init__(self, resources: Resources):
        self.cpu_seconds = 0.0
        self._resources = resources
        self.parts = max(2, int(ray.cluster_resources().get("CPU", 0) / resources.of_stage(False)["num_cpus"]))

    def handing_over(self, function: Callable[[Any], Any]) -> Callable[[list[Any]], Later]:
        """What hands over a part of the things that the function is done with."""
        task, held = _task(do_part, self._resources, False, RETRIES), ray.put(function)
        return lambda part: partial(self._results, task.remote(held, part))

    def _results(self, part: Any) -> list[Any]:
        results, seconds = ray.get(part)
        self.cpu_seconds += seconds
        return list(results)


def do_part(function: Callable[[Any], Any], part: list[Any]) -> tuple[list[Any], float]:
    """In a process of its own: the results of a part of the things, and the CPU seconds that they took."""
    start = time.process_time()
    return [function(thing) for thing in part], time.process_time() - start


def write_elsewhere(
    resources: Resources, sweep: Path, result: Result, out: Path, on_loss: Callable[[str, str], None]
) -> None:
    """Write the folder of a run (semples.output.write_run) where there is room for that: a picture takes a network.
    sweep, on_loss: as for `stage_tasks`."""
    on_gpu = graph(result.config)[list(result.folders)[-1]].gpu(result.config)
    told = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "data"}

    def once(nodes: dict[str, str]) -> None:
        task = _task(write_folder, resources, on_gpu, RETRIES, nodes)
        _outcome(task.remote(told, result.data.fingerprint, out), ITS_FOLDER)

    def on_out(sentence: str) -> None:
        _same_data(result.config, result.data)
        on_loss(ITS_FOLDER, sentence)

    on_sound_nodes(sweep, needed(resources, on_gpu), once, on_out)


def write_folder(told: dict[str, Any], fingerprint: str, out: Path) -> None:
    """In a process of its own: write the folder of a run. told: its result without the data."""
    config: Config = told["config"]
    with blamed():
        from semples.output import write_run
        from semples.training import prepare

        data = _data(config, fingerprint)
    prepare(config.runtime)
    write_run(Result(**told, data=data), out)
