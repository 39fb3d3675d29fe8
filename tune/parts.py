"""The parts of a search that are chosen by name in the sweep file, with their settings: `tpe`, or {name: tpe, ...}.

Those of this package are listed here; other packages add theirs by entry points.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, model_serializer, model_validator

from semples import registry
from semples.config import Args, Section
from semples.errors import UserError, cut
from semples.pipeline.graph import STAGES


@dataclass(frozen=True)
class Kind:
    """key: of the sweep file. group: of entry points. own: MODULE:OBJECT by name, of this package."""

    key: str
    group: str
    own: dict[str, str]


# the metrics of a run that a sweep is for, and the stages that report them
HEADLINES = {stage.milestone: name for name, stage in STAGES.items() if stage.headline and stage.milestone}
_FIXED = {"seconds": "tune.objectives:seconds", "gpu_gb": "tune.objectives:gpu_gb", "metric": "tune.objectives:metric"}
OBJECTIVE = Kind("objective", "tune.objectives", {**dict.fromkeys(HEADLINES, "tune.objectives:headline"), **_FIXED})
_OPTUNA = ("tpe", "gp", "nsga2", "nsga3", "cmaes", "random", "sobol", "grid")
_SAMPLERS = {"cost-aware": "tune.cost_aware:CostAwareSampler", **{name: f"tune.samplers:{name}" for name in _OPTUNA}}
SAMPLER = Kind("sampler", "tune.samplers", _SAMPLERS)
_RULES = {"median": "tune.stopping:median", "asha": "tune.stopping:asha", "none": "tune.stopping:never"}
EARLY_STOPPING = Kind("early_stopping", "tune.stopping", _RULES)
TRACKERS = Kind("trackers", "tune.trackers", {})

_SETTINGS: TypeAdapter[dict[str, Any]] = TypeAdapter(Args)


class Choice(Section):
    """name: of a part. Everything else are its settings."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="Name of the part.")

    @property
    def settings(self) -> dict[str, Any]:
        """By name."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _finite_settings(self) -> Choice:
        _SETTINGS.validate_python(self.settings)
        return self

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.settings} if self.settings else self.name


def schema(kind: Kind) -> dict[str, Any]:
    """What editors are told of a choice: the names of this package are offered, others are taken."""
    name = {"anyOf": [{"enum": list(kind.own)}, {"type": "string", "minLength": 1}]}
    described = {**name, "description": "Name; what stands beside it are its settings."}
    return {"anyOf": [*name["anyOf"], {"type": "object", "properties": {"name": described}, "required": ["name"]}]}


def check(kind: Kind, choice: Choice) -> None:
    """Raise UserError where there is no part of that name."""
    registry.find(kind.group, kind.own, choice.name, kind.key)


def find(kind: Kind, choice: Choice, *given: Any) -> Callable[..., Any]:
    """The callable of that name. Raises UserError where there is none, and where it does not take `given` and the
    settings."""
    make: Callable[..., Any] = registry.load(registry.find(kind.group, kind.own, choice.name, kind.key), kind.key)
    try:
        inspect.signature(make).bind(*given, **choice.settings)
    except TypeError as error:
        raise UserError(f"{kind.key} '{choice.name}' does not take these settings: {error}") from None
    return make


def create(kind: Kind, choice: Choice, *given: Any) -> Any:
    """What the callable of that name makes of `given` and its settings. Raises UserError where there is none of that
    name, and for settings that it does not take."""
    make = find(kind, choice, *given)
    try:
        return make(*given, **choice.settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind.key} '{choice.name}' does not take these settings: {cut(str(error), 200)}") from None
