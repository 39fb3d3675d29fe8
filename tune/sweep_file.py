"""The sweep file: everything that is said of a sweep, read from YAML and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution
from pydantic import Field, ValidationError, WithJsonSchema, model_validator

from semples.analytic import Analytic
from semples.config import (
    NO_FLAG,
    RENAMED,
    Config,
    Section,
    Seed,
    find_config,
    flatten,
    in_format_2,
    override,
    parse,
    read_config,
    read_yaml,
    reason,
    to_dict,
    with_changes,
)
from semples.errors import UserError, nearest
from semples.formats import Format, renamed
from semples.pipeline.graph import Reuse, graph, refiners
from tune import space
from tune.objectives import Direction, Objective, find_objective
from tune.parts import EARLY_STOPPING, SAMPLER, TRACKERS, Choice, check, schema
from tune.space import Dimension
from tune.values import Confirmation, Limits, Objectives, Report, Resources, Seconds

SWEEPS = Path(__file__).parent / "sweeps"
FILES = ("data.root", "generator.weights", "clip.pretrained")  # keys that may name a file or folder
OWN_RENAMED = {"wall": "time_limit"}  # keys of version 0.1.0, and what they are called now


class Sweep(Section):
    """A sweep file: what is searched, from where, by what rule, for how long and on what machines. At least one of
    trials, budget and time_limit is needed, but for a grid."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Name of the sweep, its folder, its Optuna study and its MLflow run."
    )
    selection: Literal["holdout", "proxy", "oracle"] = Field(
        description="What chooses: holdout, the masks of images that no reported figure uses; proxy, CLIP without any "
        "mask; oracle, the evaluation masks themselves."
    )
    objective: Objectives = Field(
        description="What is best, measured on the masks that choose: seg_miou, pseudo_miou (then trials end at the "
        "pseudo masks and train no network), another metric, {name: metric, metric: pseudo_iou/dog, stage: masks} for "
        "one (direction: minimize where less is better), or a list of several, with seconds (compute of all of a "
        "trial's stages) or gpu_gb (its most GPU memory, in GB) among them if you like, which are minimised. Of "
        "several the best are the Pareto front: trials that no other beats in all. Other names are entry points of the "
        "group tune.objectives."
    )
    limits: Limits = Field(
        default={}, description="What a trial may take, seconds and gpu_gb; trials above are never the best."
    )
    trials: Annotated[int, Field(ge=1, le=1_000_000), NO_FLAG] | None = Field(
        default=None, description="Number of trials, in all; empty = no end by number."
    )
    budget: Seconds = Field(
        default=None,
        description="Compute time of all trials together, after which no trial is begun: 6h, 1h30m, 90s, or seconds.",
    )
    time_limit: Seconds = Field(
        default=None, description="Time since the launch, after which no trial is begun: 8h, 1h30m, 90s, or seconds."
    )
    stop_when: Annotated[float, Field(gt=0), NO_FLAG] | None = Field(
        default=None,
        description="Gain of the objective, in its own unit (points of mIoU), below which no trial is begun any more: "
        "what the sampler cost-aware expects of another hour of compute.",
    )
    parallel: Annotated[int, Field(ge=0, le=100_000), NO_FLAG] = Field(
        default=0, description="Trials at a time, 0 = as many as the cluster has room for."
    )
    sampler: Annotated[Choice, WithJsonSchema(schema(SAMPLER))] = Field(
        default=Choice(name="cost-aware"),
        description="Who suggests. cost-aware weighs what a candidate promises against what it costs with the stages "
        "that are stored; tpe, gp, nsga2, nsga3, cmaes, random and sobol are Optuna's and take its settings, "
        "{name: tpe, n_startup_trials: 10} for one; grid takes every point; other names are entry points of the group "
        "tune.samplers.",
    )
    early_stopping: Annotated[Choice, WithJsonSchema(schema(EARLY_STOPPING))] = Field(
        default=Choice(name="none"),
        description="median stops a trial whose score at a milestone is below the median of the others at the same "
        "milestone, asha (asynchronous successive halving) one that is not in the best third, "
        "{name: asha, reduction: 4} in the best quarter; none stops no trial, which on the scenes finds more with the "
        "same compute: CAMs say too little about masks. Other names are entry points of the group tune.stopping.",
    )
    gate: Annotated[float, Field(gt=0, le=1), NO_FLAG] = Field(
        default=0.5,
        description="Share of the trials, the best by the pseudo masks on what chooses, that go on to train a network; "
        "the others are stopped there, the default configuration never. 1 = all go on.",
    )
    confirm: Confirmation | None = Field(
        default=None,
        description="What is run again, over seeds, when the trials have ended: {top: 3, seeds: 5} the three best and "
        "the default, which are then judged as `semples-tune confirm` judges them. A budget keeps what that takes, at "
        "most its half. Empty = nothing.",
    )
    trackers: tuple[Annotated[Choice, WithJsonSchema(schema(TRACKERS))], ...] = Field(
        default=(),
        description="Where runs are recorded besides MLflow: entry points of the group tune.trackers.",
    )
    seed: Seed = Field(default=0, description="Seed of the sampler; the seed of the runs is base.seed.")
    warm_start: str = Field(
        default="",
        description="Folder of another sweep, whose best trials are tried first, as far as it searches the same keys.",
    )
    resources: Resources = Field(default=Resources(), description="What Ray reserves for one trial.")
    study: str = Field(
        default="",
        description="Where the Optuna study is kept: sqlite, a SQLite file in the sweep's folder; journal, a journal "
        "file there, for network file systems; or a URL (postgresql://...). Empty = sqlite, but journal where the "
        "folder is on a network file system.",
    )
    mlflow: str = Field(
        default="",
        description="MLflow's tracking URI; empty = $MLFLOW_TRACKING_URI, else a SQLite file beside the sweep.",
    )
    store: str = Field(
        default="",
        description="Stage results to share, a folder that all nodes see or a URL (s3://...); empty = in the sweep's "
        "own folder.",
    )
    store_gb: Annotated[float, Field(gt=0), NO_FLAG] | None = Field(
        default=None,
        description="GB that the store may take, the least worth keeping goes first; empty = no limit. Here and "
        "everywhere a GB is 10^9 bytes.",
    )
    reuse: Reuse = Field(
        default="exact",
        description="Which stored results are taken: exact, those of this very code with these versions of the "
        "libraries; declared, those of other code too, if configuration and data are the same. It is written into "
        "every trial.",
    )
    report: Report = Field(
        default="auto",
        description="Which trials are also measured on the images on which figures are reported, where they are judged "
        "before a network is trained: all; leaders, the best when the sweep ends; auto, all where that costs less than "
        "a tenth of a trial, else leaders.",
    )
    preset: str = Field(
        default="",
        description="Preset of semples (voc, coco, scenes-weaktr) or YAML file that base is relative to; empty = the "
        "defaults, for scenes.",
    )
    base: dict[str, Any] = Field(
        default={},
        description="Differences from the preset, nested or by dotted keys: the configuration that every trial starts "
        "from, and that the first trial is.",
    )
    space: dict[str, Dimension] = Field(
        min_length=1,
        description="What is searched, by dotted key: any with a single value but data, runtime, seed, selection, "
        "kinds (launch a sweep for each), segment.train_on and, where CLIP judges, clip. masks.background is not drawn "
        "in trials without CRF and band: each takes the value in its range that is best by its own heatmaps.",
    )

    @model_validator(mode="after")
    def _ends(self) -> Sweep:
        if self.trials is None and self.budget is None and self.time_limit is None and not self.is_grid:
            raise ValueError("say when it ends: give trials, budget or time_limit")
        if len({tracker.name for tracker in self.trackers}) != len(self.trackers):
            raise ValueError("name every tracker once")
        if self.sampler.name == "cmaes" and len(self.objective) > 1:
            raise ValueError("cmaes knows one objective only; take cost-aware, tpe, nsga2 or nsga3")
        if self.stop_when and (self.sampler.name != "cost-aware" or len(self.objective) > 1):
            raise ValueError("stop_when: only the sampler cost-aware says what it expects, and of one objective")
        if self.is_grid and (believed := [key for key, of in self.space.items() if of.prior]):
            raise ValueError(f"{believed[0]} has a prior, but a grid takes every point; take the prior out")
        return self

    def changed(self, **keys: Any) -> Sweep:
        """The same sweep with other values of some of its own keys. Raises ValidationError for what is not allowed."""
        return Sweep.model_validate({**self.model_dump(), **keys})

    @property
    def is_grid(self) -> bool:
        """Whether every point of the space is tried, and nothing is suggested."""
        return self.sampler.name == "grid"

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What a trial is judged by."""
        return tuple(find_objective(choice) for choice in self.objective)

    @cached_property
    def last_stage(self) -> str:
        """The stage after which all objectives are known; what comes after it is not computed."""
        return max((one.stage for one in self.objectives if one.stage), key=list(graph(self.base_config())).index)

    @property
    def directions(self) -> list[Direction]:
        """Optuna's word for every objective."""
        return [one.direction for one in self.objectives]

    def by_objective(self, values: Iterable[float]) -> dict[str, float]:
        """The values of the objectives, under `objective/METRIC`."""
        return {f"objective/{one.metric}": value for one, value in zip(self.objectives, values, strict=True)}

    def base_config(self) -> Config:
        """The configuration that every trial starts from, and that the first trial is."""
        return parse(self.base, "base")

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space for Optuna. Raises UserError where a key or a value is none that the configuration allows."""
        return space.distributions(self.space, self.base_config())

    def default_parameters(self) -> dict[str, Any]:
        """The base configuration's values of the searched keys: the first trial."""
        return self.searched(self.base_values)

    def prior_parameters(self) -> dict[str, Any]:
        """The same with the values that are believed to be good: the second trial, where there are any."""
        believed = {key: of.prior.value for key, of in self.space.items() if of.prior}
        return self.searched({**self.base_values, **believed})

    @cached_property
    def base_values(self) -> Mapping[str, Any]:
        """Every searched key's value in the base configuration."""
        flat = dict(flatten(self.base))
        return {key: flat[key] for key in self.space}

    @cached_property
    def analytic(self) -> dict[str, Analytic]:
        """By key of the space those that a trial may decide by itself, from the scores that one of its results has for
        all values; `when` has only keys that are searched. None of a grid, which tries what it says."""
        base = self.base_config()
        stages, last, flat = graph(base), refiners(base), dict(flatten(to_dict(base)))
        found = {}
        for name, stage in stages.items():
            for one in stage.analytic if not stage.of and last[name] == name else ():
                own = self.space.get(one.key)
                fits = own and own.float and one.low <= own.float[0] and own.float[1] <= one.high
                known = all(flat[key] in allowed for key, allowed in one.when.items() if key not in self.space)
                asked = any(one.key in dimension.when for dimension in self.space.values())
                if fits and known and not asked and last[one.scored_by] == one.scored_by and not self.is_grid:
                    found[one.key] = replace(one, when={k: v for k, v in one.when.items() if k in self.space})
            if name == self.last_stage:
                break
        return found

    def decided(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys that a trial which is given these parameters decides by itself."""
        values = {**self.base_values, **parameters}
        return tuple(
            key
            for key, own in self.analytic.items()
            if key not in parameters
            and self.space[key].is_active(parameters)
            and all(values[other] in allowed for other, allowed in own.when.items())
        )

    def searched(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of these values by key those that a trial with them searches."""
        return space.searched(self.space, values)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every point of a space of choices, whole numbers and steps, each once. Raises UserError for other spaces."""
        return space.grid(self.space)


def make_sweep(tree: Mapping[str, Any]) -> Sweep:
    """The only way to a sweep: `tree` is a sweep file's, and `base` of the result has every key of the configuration,
    its preset read and its paths absolute. Nothing that the file names is read again.

    Raises ValidationError for what is no sweep file, UserError for a base that no configuration allows.
    """
    sweep = Sweep.model_validate(tree)
    preset = read_config(find_config(sweep.preset)) if sweep.preset else {}
    # every trial on the same kind of device, with the threads that Ray reserves for its stages
    runtime = {"threads": max(1, int(sweep.resources.cpu)), "device": "cuda" if sweep.resources.gpu else "cpu"}
    own = {key: value for key, value in flatten(sweep.base) if (key, value) != ("runtime.device", "auto")}
    base = override(preset, {**{f"runtime.{k}": v for k, v in runtime.items()}, **own})
    if sweep.base.get("selection", sweep.selection) != sweep.selection:
        raise UserError("base.selection differs from selection; give it once, as selection")
    config = parse({**base, "selection": sweep.selection}, "base")
    if config.selection == "proxy" and config.segment.train_on != "pseudo":
        raise UserError("base.segment.train_on: where no mask may choose (selection: proxy) none may train either")
    stages = graph(config)
    for one in sweep.objectives:
        if one.stage and one.stage not in stages:
            raise UserError(f"objective: '{one.stage}' is no stage; take one of {', '.join(stages)}")
    # a trial may run on another node and in another folder
    flat = dict(flatten(to_dict(config)))
    named = {key: Path(flat[key]) for key in FILES if flat.get(key)}
    there = {k: str(p.resolve()) for k, p in named.items() if (p.is_dir() if k == "data.root" else p.is_file())}
    return sweep.model_copy(update={"preset": "", "base": to_dict(with_changes(config, there, "base"))})


def _in_format_2(tree: dict[str, Any]) -> dict[str, Any]:
    """A sweep file of version 0.1.0 with today's names of its own keys and those of the configuration."""
    result = renamed(tree, OWN_RENAMED)
    if isinstance(base := result.get("base"), dict):
        result["base"] = in_format_2(override({}, dict(flatten(base))))
    if isinstance(searched := result.get("space"), dict):
        result["space"] = {key: _with_when(value) for key, value in renamed(searched, RENAMED).items()}
    return result


def _with_when(dimension: Any) -> Any:
    if isinstance(dimension, dict) and isinstance(when := dimension.get("when"), dict):
        return {**dimension, "when": renamed(when, RENAMED)}
    return dimension


FORMAT = Format((_in_format_2,))


def find_sweep_file(word: str) -> Path:
    """A path, or the name of a sweep that ships with the package (`scenes`)."""
    shipped = SWEEPS / f"{word}.yaml"
    return shipped if not Path(word).is_file() and shipped.is_file() else Path(word)


def load_sweep(path: Path, changes: Mapping[str, Any] = {}) -> Sweep:
    """Read and check a sweep file; `changes` sets keys of the sweep itself (trials, resources.cpu) or of its base.

    Raises UserError for anything that a trial would stumble over.
    """
    return parse_sweep(read_yaml(path), str(path), changes)


def parse_sweep(content: Mapping[str, Any], source: str, changes: Mapping[str, Any] = {}) -> Sweep:
    """The same of the content of a sweep file, which errors call `source`."""
    tree = FORMAT.read(content, source)
    if of_space := [key for key in changes if key.split(".")[0] == "space"]:
        raise UserError(f"{of_space[0]}: the space is changed in the sweep file, not on the command line")
    own = {k: v for k, v in changes.items() if k.split(".")[0] in {*Sweep.model_fields, *OWN_RENAMED}}
    of_base = {f"base.{k}": v for k, v in changes.items() if k not in own}
    # base may be written nested or dotted
    if not isinstance(tree.get("base") or {}, dict):
        raise UserError(f"{source}: base = {tree['base']!r} is not allowed: give keys; a preset goes into preset")
    tree["base"] = override({}, dict(flatten(tree.get("base") or {})))
    try:
        sweep = make_sweep(override(tree, {**own, **of_base}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part not in ("str", "int", "float", "bool"))
        if first["type"] == "missing":
            raise UserError(f"{source}: key '{key}' is missing; give it a value") from None
        if first["type"] == "extra_forbidden":
            known = nearest(key, Sweep.model_fields, OWN_RENAMED)
            raise UserError(f"{source}: unknown key '{key}'{known}") from None
        what = f"{key} is not allowed: " if key else ""
        raise UserError(f"{source}: {what}{reason(error)}") from None
    chosen = [(SAMPLER, sweep.sampler), (EARLY_STOPPING, sweep.early_stopping)]
    for kind, choice in [*chosen, *((TRACKERS, tracker) for tracker in sweep.trackers)]:
        try:
            check(kind, choice)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
    sweep.distributions()
    if sweep.is_grid:
        next(sweep.grid())
    return sweep
