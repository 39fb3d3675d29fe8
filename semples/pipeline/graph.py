"""The stages of a run: the seven of the method as data (what each is made from, what it reads, by what trials are
compared), and those of other packages among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from semples.errors import UserError
from semples.stage import Stage, find, fixed

if TYPE_CHECKING:
    from semples.config import Config

ALWAYS = ("seed", "selection", "runtime")  # what every stage may read
T = TypeVar("T")
# stored results that a run takes: of this very code, or of other code too, if configuration and data are the same
Reuse = Literal["exact", "declared"]


def _judge(config: Config) -> tuple[str, ...]:
    """The stage whose result judges masks where no true mask may."""
    return ("prompts",) if config.selection == "proxy" else ()


def _judged(section: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: (section, "clip") if config.selection == "proxy" else (section,)


STAGES: dict[str, Stage] = {
    "classify": Stage("semples.stages.classify", fixed(), fixed("generator", "augment", "classify"), "cam_miou"),
    "match": Stage(
        "semples.stages.match", fixed("classify"), fixed("generator", "augment", "clip", "match"), "cam_miou"
    ),
    "prompts": Stage("semples.stages.prompts", fixed("match"), fixed("generator", "augment", "clip", "prompts")),
    "refine": Stage(
        "semples.stages.refine",
        lambda config: (config.refine.start, "prompts"),
        fixed("generator", "augment", "clip", "refine", "match.lambda_b", "match.mask_eps"),
        "cam_miou",
        # the same batches as match: with lambda_r 0 it repeats match, and what differs is due to the prompts
        stream="match",
    ),
    "heatmaps": Stage("semples.stages.heatmaps", fixed("refine"), fixed("generator", "heatmaps"), "cam_miou"),
    "masks": Stage(
        "semples.stages.masks",
        lambda config: ("heatmaps", *_judge(config)),
        _judged("masks"),
        "pseudo_miou",
        headline=True,
    ),
    "segment": Stage(
        "semples.stages.segment",
        lambda config: ("masks", *_judge(config)) if config.segment.train_on == "pseudo" else (),
        _judged("segment"),
        "seg_miou",
        headline=True,
    ),
}


def covers(reads: Iterable[str], key: str) -> bool:
    """Whether a dotted key is one of these, or below one of them."""
    return any(f"{key}.".startswith(f"{read}.") for read in reads)


def graph(config: Config) -> dict[str, Stage]:
    """The stages of a run by name, each behind all that it is made from. Raises UserError where a stage of another
    package does not fit in."""
    stages = {**{name: _of_another_package(name, config) for name in config.stages}, **STAGES}
    last = _last(stages)
    left = {name: replace(stage, sources=_sources(name, stages, last, config)) for name, stage in stages.items()}
    ordered: dict[str, Stage] = {}
    while left:
        ready = next((name for name, stage in left.items() if {*stage.sources.values()} <= {*ordered}), None)
        if ready is None:
            circle = ", ".join(name for name in left if name in config.stages)
            raise UserError(f"stages: {circle} cannot be run, for what is made from it is also what it is made from")
        ordered[ready] = left.pop(ready)
    return ordered


def latest(config: Config, of_stages: Mapping[str, T]) -> dict[str, T]:
    """What there is of each stage (its result folder, for one), with that of the last one that refines it in the place
    of a stage's own."""
    last = _last(graph(config))
    return {name: of_stages[last.get(name, name)] for name in of_stages if last.get(name, name) in of_stages}


def _last(stages: Mapping[str, Stage]) -> dict[str, str]:
    """By refined stage the last one that refines it."""
    return {stage.refines: name for name, stage in stages.items() if stage.refines}


def _of_another_package(name: str, config: Config) -> Stage:
    stage = find(name)
    if stage.refines and stage.refines not in STAGES:
        raise UserError(f"stages.{name}: refines '{stage.refines}', which is no stage of {', '.join(STAGES)}")
    given = (*([stage.refines] if stage.refines else []), *stage.inputs(config))
    if unknown := {*given} - {*STAGES, *config.stages}:
        raise UserError(f"stages.{name}: is made from '{min(unknown)}', which is no stage of this run")
    return replace(stage, inputs=fixed(*given), reads=fixed(*stage.reads(config), f"stages.{name}"))


def _sources(name: str, stages: Mapping[str, Stage], last: Mapping[str, str], config: Config) -> dict[str, str]:
    """By input of a stage the one that makes it. Of several that refine the same result, each is given that of the one
    before."""
    refined = stages[name].refines
    same = [other for other, stage in stages.items() if refined and stage.refines == refined]
    before = same[same.index(name) - 1] if same and same[0] != name else refined
    return {key: before if key == refined else last.get(key, key) for key in stages[name].inputs(config)}
