"""What the stages of a sweep's trials need, and on which searched keys their results depend."""

from __future__ import annotations

from typing import Literal

from semples.config import with_changes
from semples.pipeline.graph import covers, graph
from tune.sweep_file import Sweep

# what a suggestion should fit: what is free. "cpu": its stages that are missing use no GPU; "gpu": one of them does.
Fit = Literal["any", "cpu", "gpu"]


def affecting(sweep: Sweep) -> dict[str, tuple[str, ...]]:
    """By stage up to the last one needed: the searched keys on which its result depends, through its inputs too."""
    base = sweep.base_config()
    # what a stage is made from may depend on a choice
    choices = [{key: value} for key, dimension in sweep.space.items() for value in dimension.choice or ()]
    graphs = [graph(with_changes(base, changes, "space")) for changes in ({}, *choices)]
    found: dict[str, set[str]] = {}
    for name, stage in graphs[0].items():
        own = {key for key in sweep.space if covers(stage.reads(base), key)}
        found[name] = own.union(*(found[source] for of in graphs for source in of[name].sources.values()))
        if name == sweep.last_stage:
            break
    return {name: tuple(key for key in sweep.space if key in own) for name, own in found.items()}


def trained_by(sweep: Sweep) -> tuple[str, ...]:
    """The searched keys on which depends what a trial trains before the stage that it is judged by."""
    stages = graph(sweep.base_config())
    of = affecting(sweep)
    trained = {key for name in of if name != sweep.last_stage and not stages[name].by_image for key in of[name]}
    return tuple(key for key in sweep.space if key in trained)


def on_gpu(sweep: Sweep) -> frozenset[str]:
    """The stages of its trials that use a GPU; all, where trials use none: then the CPUs are what a stage needs."""
    base = sweep.base_config()
    return frozenset(name for name, stage in graph(base).items() if not sweep.resources.gpu or stage.gpu(base))


def some_need_no_gpu(sweep: Sweep) -> bool:
    """Whether trials may differ in what stages read that use none."""
    stages, on = affecting(sweep), on_gpu(sweep)
    for_gpu = {key for stage, keys in stages.items() if stage in on for key in keys}
    return any(key not in for_gpu for keys in stages.values() for key in keys)
