"""What a trial would need that no other one computes already: results are shared by trials that agree in what affects
them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

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


def on_gpu(sweep: Sweep) -> frozenset[str]:
    """The stages of its trials that use a GPU; all, where trials use none: then the CPUs are what a stage needs."""
    base = sweep.base_config()
    return frozenset(name for name, stage in graph(base).items() if not sweep.resources.gpu or stage.gpu(base))


class Results:
    """Which results of stages there are, or will be because a trial computes them."""

    def __init__(self, sweep: Sweep):
        self._keys, self._on_gpu = affecting(sweep), on_gpu(sweep)
        self._known: dict[str, set[tuple[Any, ...]]] = defaultdict(set)

    @property
    def some_need_no_gpu(self) -> bool:
        """Whether trials may differ in what stages read that use none."""
        for_gpu = {key for stage, keys in self._keys.items() if stage in self._on_gpu for key in keys}
        return any(key not in for_gpu for keys in self._keys.values() for key in keys)

    def add(self, parameters: Mapping[str, Any], stage: str) -> None:
        """A trial has computed or found this stage."""
        if stage in self._keys:
            self._known[stage].add(self._identity(parameters, stage))

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """A trial begins that will have all of its stages."""
        for stage in self._keys:
            self.add(parameters, stage)

    def need_gpu(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a trial with these parameters would compute a stage that uses a GPU."""
        return any(
            stage in self._on_gpu and self._identity(parameters, stage) not in self._known[stage]
            for stage in self._keys
        )

    def _identity(self, parameters: Mapping[str, Any], stage: str) -> tuple[Any, ...]:
        return tuple(parameters.get(key) for key in self._keys[stage])
