"""The sweep file, and its search space as Optuna distributions checked against the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, ValidationError, model_validator

from semples.config import Config, Section, find_config, flatten, override, parse, read_yaml, to_dict, with_changes
from semples.errors import UserError, nearest

SWEEPS = Path(__file__).parent / "sweeps"


# named here because the fields of Dimension hide int and float
_Ints = tuple[int, int]
_Floats = tuple[float, float]
_Choices = tuple[str | int | float | bool, ...]


class Dimension(Section):
    """One searched key: `int: [low, high]` or `float: [low, high]`, both ends included, `log: true` for a log scale,
    or `choice: [a, b, ...]`."""

    int: _Ints | None = None
    float: _Floats | None = None
    choice: _Choices | None = Field(default=None, min_length=1)
    log: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        if sum(kind is not None for kind in (self.int, self.float, self.choice)) != 1:
            raise ValueError("give exactly one of int, float, choice")
        numbers = self.int or self.float
        if numbers and numbers[0] >= numbers[1]:
            raise ValueError("the low end must be below the high end")
        if self.log and (not numbers or numbers[0] <= 0):
            raise ValueError("a log scale needs numbers above 0")
        return self

    def distribution(self) -> BaseDistribution:
        """The same as an Optuna distribution."""
        if self.int:
            return IntDistribution(*self.int, log=self.log)
        if self.float:
            return FloatDistribution(*self.float, log=self.log)
        return CategoricalDistribution(self.choice or ())

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that must be allowed for all to be allowed."""
        return self.int or self.float or self.choice or ()


class Resources(Section):
    """What Ray reserves for one trial; a fraction of a GPU lets several trials share it."""

    cpu: Annotated[float, Field(gt=0)] = 1
    gpu: Annotated[float, Field(ge=0)] = 0


class Sweep(Section):
    """A sweep file.

    selection: which masks choose, see semples.config.Config. objective: the metric that is maximised, measured on those
    masks; with "pseudo_miou" trials end at the pseudo masks and train no network. parallel: trials at a time, 0 = as
    many as the cluster has room for. early_stopping: "median" stops a trial whose score at a milestone is below the
    median of the others at the same milestone. seed: of the sampler; the seed of the runs is base.seed. mlflow:
    tracking URI; empty = $MLFLOW_TRACKING_URI, else a SQLite file beside the sweep. store: stage results to share, a
    folder that all nodes see or a URL (s3://...); empty = in the sweep's own folder. store_gb: what it may take, the
    least worth keeping goes first; empty = no limit. preset: a preset of semples (voc, coco) or a YAML file that base
    is relative to; empty = the defaults for scenes.
    base: differences from it. space: what is searched, by dotted key.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    selection: Literal["holdout", "oracle"]
    objective: Literal["seg_miou", "pseudo_miou"]
    trials: Annotated[int, Field(ge=1)]
    parallel: Annotated[int, Field(ge=0)] = 0
    early_stopping: Literal["median", "none"] = "median"
    seed: Annotated[int, Field(ge=0)] = 0
    resources: Resources = Resources()
    mlflow: str = ""
    store: str = ""
    store_gb: Annotated[float | None, Field(gt=0)] = None
    preset: str = ""
    base: dict[str, Any] = Field(default={})
    space: dict[str, Dimension] = Field(min_length=1)

    def base_config(self) -> Config:
        """The configuration that every trial starts from, and that the first trial is."""
        preset = read_yaml(find_config(self.preset)) if self.preset else {}
        # every trial on the same kind of device, with the threads that Ray reserves for it
        runtime = {"threads": max(1, int(self.resources.cpu)), "device": "cuda" if self.resources.gpu else "cpu"}
        tree = override(preset, {**{f"runtime.{k}": v for k, v in runtime.items()}, **dict(flatten(self.base))})
        if self.base.get("selection", self.selection) != self.selection:
            raise UserError("base.selection differs from selection; give it once, as selection")
        return parse({**tree, "selection": self.selection}, "base")

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space for Optuna. Raises UserError where a key or a value is none that the configuration allows."""
        base = self.base_config()
        flat = dict(flatten(to_dict(base)))
        result = {}
        for key, dimension in self.space.items():
            if key in ("selection", "segment.train_on") or key.startswith("data."):
                raise UserError(f"space: {key} cannot be searched: trials compare on the same data and rule only")
            if key.endswith(".kind"):
                raise UserError(
                    f"space: {key} cannot be searched: its kinds have different keys; launch a sweep for each"
                )
            if key not in flat:
                raise UserError(f"space: unknown key '{key}'{nearest(key, flat)}")
            for value in dimension.ends:
                with_changes(base, {key: value}, "space")
            distribution = dimension.distribution()
            try:
                included = distribution._contains(distribution.to_internal_repr(flat[key]))
            except ValueError:  # a categorical distribution without the value
                included = False
            if not included:
                raise UserError(
                    f"space: {key} does not include the base value {flat[key]}, which the first trial needs; "
                    "widen it or change base"
                )
            result[key] = distribution
        return result

    def default_parameters(self) -> dict[str, Any]:
        """The base configuration's values of the searched keys: the first trial."""
        flat = dict(flatten(to_dict(self.base_config())))
        return {key: flat[key] for key in self.space}


def find_sweep_file(word: str) -> Path:
    """A path, or the name of a sweep that ships with the package (`scenes`)."""
    shipped = SWEEPS / f"{word}.yaml"
    return shipped if not Path(word).is_file() and shipped.is_file() else Path(word)


def load_sweep(path: Path, changes: Mapping[str, Any] = {}) -> Sweep:
    """Read and check a sweep file; `changes` sets keys of the sweep itself (trials, resources.cpu) or of its base.

    Raises UserError for anything that a trial would stumble over.
    """
    tree = read_yaml(path)
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
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise UserError(f"{path}: key '{key}' is missing; give it a value") from None
        if first["type"] == "extra_forbidden":
            known = nearest(key, Sweep.model_fields)
            raise UserError(f"{path}: unknown key '{key}'{known}") from None
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {key} is not allowed: {reason[0].lower()}{reason[1:]}") from None
    sweep.distributions()
    return sweep
