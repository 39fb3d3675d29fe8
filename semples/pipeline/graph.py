"""The seven stages of the method as data: what each is made from, what it reads, and by what trials are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset
    from semples.log import Log

ALWAYS = ("seed", "selection", "runtime")  # what every stage may read


class Run(Protocol):
    """The shape of every stage's `run`, see semples.stages."""

    def __call__(
        self, config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log
    ) -> dict[str, float]: ...


@dataclass(frozen=True)
class Stage:
    """module: where its `run` is. inputs: the stages whose results it is made from. reads: sections or single keys of
    the configuration; besides these it is given seed, selection and runtime, and nothing else. milestone: the metric by
    which trials are compared once this stage is done. headline: its metrics are those of the run, under their own
    names. stream: the stage whose random stream it repeats, instead of one of its own."""

    module: str
    inputs: Callable[[Config], tuple[str, ...]]
    reads: Callable[[Config], tuple[str, ...]]
    milestone: str | None = None
    headline: bool = False
    stream: str = ""

    def load(self) -> Run:
        """What computes it."""
        run: Run = import_module(self.module).run
        return run


def covers(reads: Iterable[str], key: str) -> bool:
    """Whether a dotted key is one of these, or below one of them."""
    return any(f"{key}.".startswith(f"{read}.") for read in reads)


def _fixed(*names: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: names


def _judge(config: Config) -> tuple[str, ...]:
    """The stage whose result judges masks where no true mask may."""
    return ("prompts",) if config.selection == "proxy" else ()


def _judged(section: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: (section, "clip") if config.selection == "proxy" else (section,)


STAGES: dict[str, Stage] = {
    "classify": Stage("semples.stages.classify", _fixed(), _fixed("generator", "augment", "classify"), "cam_miou"),
    "match": Stage(
        "semples.stages.match", _fixed("classify"), _fixed("generator", "augment", "clip", "match"), "cam_miou"
    ),
    "prompts": Stage("semples.stages.prompts", _fixed("match"), _fixed("generator", "augment", "clip", "prompts")),
    "refine": Stage(
        "semples.stages.refine",
        lambda config: (config.refine.start, "prompts"),
        _fixed("generator", "augment", "clip", "refine", "match.lambda_b", "match.mask_eps"),
        "cam_miou",
        # the same batches as match: with lambda_r 0 it repeats match, and what differs is due to the prompts
        stream="match",
    ),
    "heatmaps": Stage("semples.stages.heatmaps", _fixed("refine"), _fixed("generator", "heatmaps"), "cam_miou"),
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
