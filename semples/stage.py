"""What a stage is: data about it, and where its code is. Those of the method stand in semples.pipeline.graph.

Another package adds one by an entry point of the group `semples.stages`, an object `Stage`; a run has it where the
section `stages` of the configuration names it, with its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from semples import registry
from semples.analytic import Analytic
from semples.errors import UserError, cut, quoted

if TYPE_CHECKING:
    from semples.config import Config, Section
    from semples.data.dataset import Dataset
    from semples.image_sets import ImageSet
    from semples.log import Log

GROUP = "semples.stages"


class Run(Protocol):
    """The shape of every stage's `run`, see semples.stages."""

    def __call__(
        self, config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log
    ) -> dict[str, float]: ...


def fixed(*names: str) -> Callable[[Config], tuple[str, ...]]:
    """The same names under every configuration."""
    return lambda config: names


def always(config: Config) -> bool:
    """Under every configuration."""
    return True


def nothing(config: Config) -> tuple[str, ...]:
    """No name."""
    return ()


@dataclass(frozen=True)
class Stage:
    """module: where its `run` is. inputs: the stages whose results it is made from. reads: sections or single keys of
    the configuration; besides these it is given seed, selection and runtime, and nothing else. milestone: the metric by
    which trials are compared once this stage is done. course: what it logs after an epoch by which they are compared
    there, "" = nothing. headline: its metrics are those of the run, under their own names. gpu: whether it computes on
    the GPU where the run has one. stream: the stage whose random stream it repeats, instead of one of its own.
    by_image: what it makes of an image depends on no other image; a run has it once for each set of images, see
    semples.pipeline.graph, and it is given the set as `data.images`. analytic: keys that it reads whose values an
    earlier stage scores all at once.

    Of other packages: refines, the stage of the method whose result it is given, too, and gives again in the same form:
    whoever reads that result reads this one instead. settings: the model of its section, `stages.NAME`, which it is
    given besides what it reads, as `config.stages[NAME]`; None = it has no settings.

    Known where the stage is one of a run's graph: sources, by input the stage that makes it. images: the set that it
    treats, "" where it is none `by_image`. of: the stage of which it is the same for other images than those that
    judge; its metrics stand under the name of that one.
    """

    module: str
    inputs: Callable[[Config], tuple[str, ...]] = nothing
    reads: Callable[[Config], tuple[str, ...]] = nothing
    milestone: str | None = None
    course: str = ""
    headline: bool = False
    gpu: Callable[[Config], bool] = always
    stream: str = ""
    by_image: bool = False
    analytic: tuple[Analytic, ...] = ()
    refines: str = ""
    settings: type[Section] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    images: ImageSet | Literal[""] = ""
    of: str = ""

    def load(self) -> Run:
        """What computes it. Raises UserError where the module of another package has none."""
        try:
            run: Run = import_module(self.module).run
        except (ImportError, AttributeError) as error:
            if self.module.partition(".")[0] == __name__.partition(".")[0]:
                raise  # is no fault of who installed something
            raise UserError(
                f"stages: {cut(self.module)} is no module with a `run`, as a stage of another package must have "
                f"({cut(str(error), 200)}); mend that package, or take its stage out of `stages`"
            ) from None
        return run


def find(name: str) -> Stage:
    """The stage of another package that has this name. Raises UserError where there is none."""
    found = registry.load(registry.find(GROUP, {}, name, "stages:"), "stages:")
    if not isinstance(found, Stage):
        raise UserError(f"stages.{cut(name)}: its package gives {quoted(found)} and no Stage of semples.stage; mend it")
    return found
