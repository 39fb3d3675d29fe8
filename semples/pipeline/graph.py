"""The stages of a run: the seven of the method as data (what each is made from, what it reads, by what trials are
compared), and those of other packages among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from semples.analytic import Analytic
from semples.errors import UserError
from semples.image_sets import ImageSet, judging
from semples.stage import Stage, find, fixed

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset

ALWAYS = ("seed", "selection", "runtime")  # what every stage may read
T = TypeVar("T")
# stored results that a run takes: of this very code, or of other code too, if configuration and data are the same
Reuse = Literal["exact", "declared"]


def _judge(config: Config) -> tuple[str, ...]:
    """The stage whose result judges masks where no true mask may."""
    return ("prompts",) if config.selection == "proxy" else ()


def _sets(config: Config) -> tuple[ImageSet, ...]:
    """The sets of images besides the one that judges."""
    return ("rest",) if config.selection == "oracle" else ("measured", "rest")


def _for(images: str, name: str) -> str:
    """The name of a stage for another set of images than the one that judges."""
    return f"{images}_{name}"


def training_masks(config: Config) -> tuple[str, ...]:
    """The stages that make the pseudo masks of the training images, of which some may be none: each of a part of
    them."""
    others = tuple(_for(images, "masks") for images in _sets(config))
    return ("masks", *others) if config.selection == "oracle" else others


def reporting(config: Config, name: str) -> str | None:
    """The stage that measures on the images on which figures are reported what this one measures on those that judge;
    None where there is none, for it measures both or the two are the same."""
    stages = graph(config)
    found = _for("measured", _last(stages).get(name, name))
    return found if found in stages else None


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
    "heatmaps": Stage(
        "semples.stages.heatmaps", fixed("refine"), fixed("generator", "heatmaps"), "cam_miou", by_image=True
    ),
    "masks": Stage(
        "semples.stages.masks",
        lambda config: ("heatmaps", *_judge(config)),
        _judged("masks"),
        "pseudo_miou",
        headline=True,
        gpu=lambda config: bool(_judge(config)),  # for CLIP
        by_image=True,
        analytic=(
            Analytic(
                "masks.background",
                "heatmaps",  # 8 bits, so 254 scores tell them apart
                {"masks.crf.iterations": (0,), "masks.band": (0.0,), "selection": ("holdout", "oracle")},
                low=1 / 255,
                high=254 / 255,
            ),
        ),
    ),
    "segment": Stage(
        "semples.stages.segment",
        lambda config: (*training_masks(config), *_judge(config)) if config.segment.train_on == "pseudo" else (),
        _judged("segment"),
        "seg_miou",
        course="seg_miou_judged",
        headline=True,
    ),
}


def covers(reads: Iterable[str], key: str) -> bool:
    """Whether a dotted key is one of these, or below one of them."""
    return any(f"{key}.".startswith(f"{read}.") for read in reads)


def graph(config: Config, data: Dataset | None = None) -> dict[str, Stage]:
    """The stages of a run by name, each behind all that it is made from. Raises UserError where a stage of another
    package does not fit in.

    A stage that treats images by itself is there for every set of them: first for those that judge, under its own name,
    then as measured_NAME for the training images on which figures are reported, where these are others, and as
    rest_NAME for those that have no true mask. measured_NAME is also given what NAME made, as `judged`. Where the data
    are given, stages for which there is no image are left out.
    """
    stages = {**{name: _of_another_package(name, config) for name in config.stages}, **STAGES}
    for name, stage in stages.items():
        if stage.by_image:
            stages[name] = replace(stage, images=judging(config.selection))
    others = {
        _for(images, name): _for_set(images, name, stage, config)
        for images in _sets(config)
        for name, stage in stages.items()
        if stage.by_image
    }
    stages |= others
    if data:
        stages = {n: s for n, s in stages.items() if not s.images or len(data.treating(s.images).images)}
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


def _for_set(images: ImageSet, name: str, stage: Stage, config: Config) -> Stage:
    """The same stage for another set of images than the one that judges."""
    judged = ("judged",) if images == "measured" else ()
    return replace(
        stage,
        inputs=fixed(*stage.inputs(config), *judged),
        milestone=None,
        stream=stage.stream or name,
        refines=_for(images, stage.refines) if stage.refines else "",
        images=images,
        of=name,
    )


def refiners(config: Config) -> dict[str, str]:
    """By stage of a run the last one that refines its result, or itself."""
    stages = graph(config)
    return dict(zip(stages, stages, strict=True)) | _last(stages)


def latest(config: Config, of_stages: Mapping[str, T]) -> dict[str, T]:
    """What there is of each stage (its result folder, for one), with that of the last one that refines it in the place
    of a stage's own."""
    last = refiners(config)
    return {name: of_stages[last.get(name, name)] for name in of_stages if last.get(name, name) in of_stages}


def _last(stages: Mapping[str, Stage]) -> dict[str, str]:
    """By refined stage the last one that refines it."""
    return {stage.refines: name for name, stage in stages.items() if stage.refines}


def _of_another_package(name: str, config: Config) -> Stage:
    stage = find(name)
    if stage.refines and stage.refines not in STAGES:
        raise UserError(f"stages.{name}: refines '{stage.refines}', which is no stage of {', '.join(STAGES)}")
    given = (*([stage.refines] if stage.refines else []), *stage.inputs(config))
    if unknown := {*given} - {*STAGES, *config.stages, *training_masks(config)}:
        raise UserError(f"stages.{name}: is made from '{min(unknown)}', which is no stage of this run")
    by_image = bool(stage.refines) and STAGES[stage.refines].by_image
    reads = fixed(*stage.reads(config), f"stages.{name}")
    return replace(stage, inputs=fixed(*given), reads=reads, by_image=by_image)


def _sources(name: str, stages: Mapping[str, Stage], last: Mapping[str, str], config: Config) -> dict[str, str]:
    """By input of a stage the one that makes it, for the same images where it is made for several sets. Of several that
    refine the same result, each is given that of the one before."""
    own = stages[name]
    refined = own.refines
    same = [other for other, stage in stages.items() if refined and stage.refines == refined]
    before = same[same.index(name) - 1] if same and same[0] != name else refined

    def source(key: str) -> str:
        if key == "judged":
            return own.of
        there = _for(own.images, key) if own.of and _for(own.images, key) in stages else key
        return before if there == refined else last.get(there, there)

    return {key: source(key) for key in own.inputs(config) if source(key) in stages}
