"""The sweep file, and its search space as Optuna distributions checked against the configuration."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from semples.config import (
    Config,
    Real,
    Section,
    Seed,
    Whole,
    find_config,
    flatten,
    no_flag,
    override,
    parse,
    read_yaml,
    reason,
    to_dict,
    with_changes,
)
from semples.errors import UserError, nearest, quoted
from semples.pipeline.graph import STAGES

SWEEPS = Path(__file__).parent / "sweeps"
# what a trial may be judged by: the stage after which it is known, None where it belongs to the whole trial
OBJECTIVES: dict[str, str | None] = {
    **{stage.milestone: name for name, stage in STAGES.items() if stage.headline and stage.milestone},
    "seconds": None,
    "gpu_gb": None,
}
FILES = ("data.root", "generator.weights", "clip.pretrained")  # keys that may name a file or folder
LONGEST = 100 * 365 * 86400  # seconds of a sweep
LIMITS = ("seconds", "gpu_gb")
GRID = 10_000  # points at most


# named here because the fields of Dimension hide int and float
_End = Field(ge=-1e15, le=1e15)
_Ints = tuple[Annotated[Whole, _End], Annotated[Whole, _End]]
_Floats = tuple[Annotated[Real, _End], Annotated[Real, _End]]
_Number = int | float


def _one_value(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple | dict):
        what = "null" if value is None else quoted(value)
        raise ValueError(f"a choice is a number, a word, true or false, not {what}")
    return value


_Choice = Annotated[str | int | float | bool, BeforeValidator(_one_value)]
_Choices = Annotated[tuple[_Choice, ...], Field(max_length=1000)]


class Dimension(Section):
    """One searched key: `int: [low, high]` or `float: [low, high]`, both ends included, `log: true` for a log scale or
    `step` for equal steps, or `choice: [a, b, ...]`. when: {key: value or values}: searched only in trials in which
    another searched key has such a value; in the others it keeps its base value."""

    int: _Ints | None = None
    float: _Floats | None = None
    choice: _Choices | None = Field(default=None, min_length=1)
    log: bool = False
    step: Annotated[_Number | None, BeforeValidator(no_flag), Field(gt=0)] = None
    when: dict[str, _Choice | _Choices] = Field(default={})

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        if sum(kind is not None for kind in (self.int, self.float, self.choice)) != 1:
            raise ValueError("give exactly one of int, float, choice")
        numbers = self.int or self.float
        if numbers and numbers[0] >= numbers[1]:
            raise ValueError("the low end must be below the high end")
        if self.log and (not numbers or numbers[0] <= 0):
            raise ValueError("a log scale needs numbers above 0")
        if self.step and (self.log or not numbers):
            raise ValueError("a step needs numbers on a linear scale")
        if self.step and self.int and int(self.step) != self.step:
            raise ValueError("the step between whole numbers must be one too")
        if self.step and numbers:
            steps = (numbers[1] - numbers[0]) / self.step
            if steps < 1 - 1e-6:  # 1.0 - 0.9 is less than 0.1
                raise ValueError("the step is larger than the range")
            if abs(steps - round(steps)) > 1e-6:
                last = numbers[0] + math.floor(steps) * self.step
                raise ValueError(
                    f"with step {self.step:g} from {numbers[0]:g} the last value is {last:g}; "
                    f"give {last:g} or {last + self.step:g} as the high end"
                )
        return self

    def distribution(self) -> BaseDistribution:
        """The same as an Optuna distribution."""
        if self.int:
            return IntDistribution(*self.int, log=self.log, step=round(self.step or 1))
        if self.float:
            return FloatDistribution(*self.float, log=self.log, step=self.step)
        return CategoricalDistribution(self.choice or ())

    @property
    def ends(self) -> tuple[Any, ...]:
        """Lowest and highest value, or all choices."""
        return self.int or self.float or self.choice or ()

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be: the ends and, of a range, one in between that is not round."""
        if self.choice:
            return self.ends
        low, high = self.ends
        step = self.step or (1 if self.int else (high - low) * 0.381966)
        return (low, min(low + round(step) if self.int else low + step, high), high)

    def holds(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a trial with these parameters searches this key."""
        return all(key in parameters and parameters[key] in self.values_of(key) for key in self.when)

    def values_of(self, parent: str) -> tuple[Any, ...]:
        """The values of a key of `when` with which this one is searched."""
        values = self.when[parent]
        return values if isinstance(values, tuple) else (values,)


class Resources(Section):
    """What Ray reserves for one trial. cpu: also the threads of a trial. gpu: a fraction lets several trials share one;
    0 = trials run on the CPU, even where there is a GPU."""

    cpu: Annotated[Real, Field(gt=0, le=100_000)] = 1
    gpu: Annotated[Real, Field(ge=0, le=100_000)] = 0

    @field_validator("cpu", "gpu")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("above 1 Ray knows whole numbers only")
        return value


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _reported(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(
                f"'{name}' is not reported by trials{nearest(name, OBJECTIVES)}; known: {_list(OBJECTIVES)}"
            )
    if len(set(names)) != len(names) or not any(OBJECTIVES[name] for name in names):
        raise ValueError("name every objective once, and at least one mIoU")
    return names


def _seconds(value: Any) -> Any:
    """Seconds of "90s", "30m", "6h", "2d" or several such in a row, "1h30m"; numbers are seconds already."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", value)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != value:
        raise ValueError("give a time like 90s, 30m, 6h, 2d or 1h30m")
    return sum(float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit] for number, unit in parts)


def _limits(limits: dict[str, float]) -> dict[str, float]:
    for name in limits:
        if name not in LIMITS:
            raise ValueError(f"'{name}' cannot be limited{nearest(name, LIMITS)}; known: {_list(LIMITS)}")
    return limits


def _list(names: Any) -> str:
    return ", ".join(names)


_Seconds = Annotated[Annotated[Real, Field(gt=0, le=LONGEST)] | None, BeforeValidator(_seconds)]


class Sweep(Section):
    """A sweep file.

    selection: which masks choose, see semples.config.Config. objective: what is best, measured on those masks:
    seg_miou, pseudo_miou (then trials end at the pseudo masks and train no network) or several, with seconds (compute
    of all of a trial's stages) or gpu_gb (its most GPU memory) among them if you like; mIoU is maximised, the rest is
    minimised, and of several the best are those that no other trial beats in all. limits: what a trial may take,
    `seconds` and `gpu_gb`; trials above are never the best.
    trials: how many, in all. budget: compute seconds of all trials together, after which no trial is begun ("6h").
    wall: the same for the time since the launch. Give at least one of the three. parallel: trials at a time, 0 = as
    many as the cluster has room for.
    sampler: who suggests. "cost-aware" weighs what a candidate promises against what it costs with the stages that are
    stored, see tune.cost_aware; tpe, gp, nsga2, nsga3, cmaes, random and sobol are Optuna's; "grid" takes every point.
    early_stopping: "median" stops a trial whose score at a milestone is below the median of the others at the same
    milestone, "asha" (asynchronous successive halving) one that is not in the best third; "none" no trial, which on the
    scenes finds more with the same compute: CAMs say too little about masks. seed: of the sampler; the seed of the runs
    is base.seed. warm_start: folder of another sweep, whose best trials are tried first, as far as it searches the same
    keys.
    study: where the Optuna study is kept; empty = a SQLite file in the sweep's folder, "journal" = a journal file there
    (for network file systems), or a URL (postgresql://...). mlflow: tracking URI; empty = $MLFLOW_TRACKING_URI, else a
    SQLite file beside the sweep. store: stage results to share, a folder that all nodes see or a URL (s3://...);
    empty = in the sweep's own folder. store_gb: what it may take, the least worth keeping goes first; empty = no limit.
    preset: a preset of semples (voc, coco, scenes-weaktr) or a YAML file that base is relative to; empty = the defaults
    for scenes. base: differences from it. space: what is searched, by dotted key: any with a single value but
    data, runtime, seed, selection, kinds (launch a sweep for each), segment.train_on and, where CLIP judges, clip.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    selection: Literal["holdout", "proxy", "oracle"]
    objective: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1), AfterValidator(_reported)]
    limits: Annotated[dict[str, Annotated[Real, Field(gt=0)]], AfterValidator(_limits)] = Field(default={})
    trials: Annotated[Whole | None, Field(ge=1, le=1_000_000)] = None
    budget: _Seconds = None
    wall: _Seconds = None
    parallel: Annotated[Whole, Field(ge=0, le=100_000)] = 0
    sampler: Literal["cost-aware", "tpe", "gp", "nsga2", "nsga3", "cmaes", "random", "sobol", "grid"] = "cost-aware"
    early_stopping: Literal["median", "asha", "none"] = "none"
    seed: Seed = 0
    warm_start: str = ""
    resources: Resources = Resources()
    study: str = ""
    mlflow: str = ""
    store: str = ""
    store_gb: Annotated[Real | None, Field(gt=0)] = None
    preset: str = ""
    base: dict[str, Any] = Field(default={})
    space: dict[str, Dimension] = Field(min_length=1)

    @model_validator(mode="after")
    def _ends(self) -> Sweep:
        if self.trials is None and self.budget is None and self.wall is None and self.sampler != "grid":
            raise ValueError("say when it ends: give trials, budget or wall")
        if self.sampler == "cmaes" and len(self.objective) > 1:
            raise ValueError("cmaes knows one objective only; take cost-aware, tpe, nsga2 or nsga3")
        return self

    @property
    def last_stage(self) -> str:
        """The stage after which all objectives are known; what comes after it is not computed."""
        needed = [stage for name in self.objective if (stage := OBJECTIVES[name])]
        return max(needed, key=list(STAGES).index)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Optuna's word for every objective."""
        return ["maximize" if OBJECTIVES[name] else "minimize" for name in self.objective]

    def base_config(self) -> Config:
        """The configuration that every trial starts from, and that the first trial is."""
        preset = read_yaml(find_config(self.preset)) if self.preset else {}
        # every trial on the same kind of device, with the threads that Ray reserves for it
        runtime = {"threads": max(1, int(self.resources.cpu)), "device": "cuda" if self.resources.gpu else "cpu"}
        tree = override(preset, {**{f"runtime.{k}": v for k, v in runtime.items()}, **dict(flatten(self.base))})
        if self.base.get("selection", self.selection) != self.selection:
            raise UserError("base.selection differs from selection; give it once, as selection")
        config = parse({**tree, "selection": self.selection}, "base")
        if config.selection == "proxy" and config.segment.train_on != "pseudo":
            raise UserError("base.segment.train_on: where no mask may choose (selection: proxy) none may train either")
        # a trial may run on another node and in another folder
        flat = dict(flatten(to_dict(config)))
        named = {key: Path(flat[key]) for key in FILES if flat.get(key)}
        there = {k: str(p.resolve()) for k, p in named.items() if (p.is_dir() if k == "data.root" else p.is_file())}
        return with_changes(config, there, "base")

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space for Optuna. Raises UserError where a key or a value is none that the configuration allows."""
        base = self.base_config()
        flat = dict(flatten(to_dict(base)))
        result: dict[str, BaseDistribution] = {}
        for key, dimension in self.space.items():
            for other in dimension.when:
                if other not in result:
                    raise UserError(
                        f"space: {key} is searched when {other} has a value, so {other} must stand before it"
                    )
                for value in dimension.values_of(other):
                    if not within(result[other], value):
                        raise UserError(f"space: {key} is searched when {other} is {value}, which it never is")
            if self.selection == "proxy" and key.startswith("clip."):
                raise UserError(f"space: {key} cannot be searched where CLIP is the judge (selection: proxy)")
            if key in ("selection", "seed", "segment.train_on") or key.startswith(("data.", "runtime.")):
                raise UserError(f"space: {key} cannot be searched: trials compare on the same data and rule only")
            if key.endswith(".kind"):
                raise UserError(
                    f"space: {key} cannot be searched: its kinds have different keys; launch a sweep for each"
                )
            if key not in flat:
                raise UserError(f"space: unknown key '{key}'{nearest(key, flat)}")
            for value in dimension.probes:
                changed = dict(flatten(to_dict(with_changes(base, {key: value}, "space"))))[key]
                if isinstance(value, str | bool) != isinstance(changed, str | bool):
                    raise UserError(f"space: {key}: {quoted(value)} stands for {changed}; write it so, without quotes")
            result[key] = dimension.distribution()
            if not within(result[key], flat[key]):
                raise UserError(
                    f"space: {key} does not include its base value {flat[key]}, with which trials begin; widen it or "
                    "change base"
                )
        return result

    def default_parameters(self) -> dict[str, Any]:
        """The base configuration's values of the searched keys: the first trial."""
        return self.searched(self.base_values())

    def base_values(self) -> dict[str, Any]:
        """Every searched key's value in the base configuration."""
        flat = dict(flatten(to_dict(self.base_config())))
        return {key: flat[key] for key in self.space}

    def searched(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of these values by key those that a trial with them searches."""
        result: dict[str, Any] = {}
        for key, dimension in self.space.items():
            if key in values and dimension.holds(result):
                result[key] = values[key]
        return result

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every point of a space of choices, whole numbers and steps, each once. Raises UserError for other spaces."""
        axes = []
        for key, dimension in self.space.items():
            if dimension.float and not dimension.step:
                raise UserError(f"space: a grid needs a step for {key}, or choices")
            axes.append(_values(dimension))
        if (points := math.prod(map(len, axes))) > GRID:
            raise UserError(
                f"space: a grid of {points} points is more than {GRID}; take larger steps or another sampler"
            )
        seen = set()
        for values in itertools.product(*axes):
            point = self.searched(dict(zip(self.space, values, strict=True)))
            if (own := tuple(point.items())) not in seen:
                seen.add(own)
                yield point


def within(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a dimension's distribution can give a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # no choice of a categorical distribution, or no number
        return False


def _values(dimension: Dimension) -> list[Any]:
    if dimension.choice:
        return list(dimension.choice)
    low, high = dimension.ends
    step = dimension.step or 1
    found = [low + i * step for i in range(int((high - low) / step + 1e-9) + 1)]
    return [round(value, 12) for value in found] if dimension.float else [int(value) for value in found]


def find_sweep_file(word: str) -> Path:
    """A path, or the name of a sweep that ships with the package (`scenes`)."""
    shipped = SWEEPS / f"{word}.yaml"
    return shipped if not Path(word).is_file() and shipped.is_file() else Path(word)


def load_sweep(path: Path, changes: Mapping[str, Any] = {}) -> Sweep:
    """Read and check a sweep file; `changes` sets keys of the sweep itself (trials, resources.cpu) or of its base.

    Raises UserError for anything that a trial would stumble over.
    """
    tree = read_yaml(path)
    if of_space := [key for key in changes if key.split(".")[0] == "space"]:
        raise UserError(f"{of_space[0]}: the space is changed in the sweep file, not on the command line")
    own = {k: v for k, v in changes.items() if k.split(".")[0] in Sweep.model_fields}
    of_base = {f"base.{k}": v for k, v in changes.items() if k not in own}
    # base may be written nested or dotted
    if not isinstance(tree.get("base") or {}, dict):
        raise UserError(f"{path}: base = {tree['base']!r} is not allowed: give keys; a preset goes into preset")
    tree["base"] = override({}, dict(flatten(tree.get("base") or {})))
    try:
        sweep = Sweep.model_validate(override(tree, {**own, **of_base}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part not in ("str", "int", "float", "bool"))
        if first["type"] == "missing":
            raise UserError(f"{path}: key '{key}' is missing; give it a value") from None
        if first["type"] == "extra_forbidden":
            known = nearest(key, Sweep.model_fields)
            raise UserError(f"{path}: unknown key '{key}'{known}") from None
        what = f"{key} is not allowed: " if key else ""
        raise UserError(f"{path}: {what}{reason(error)}") from None
    sweep.distributions()
    if sweep.sampler == "grid":
        next(sweep.grid())
    return sweep
