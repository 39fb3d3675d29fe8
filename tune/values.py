"""The values of a sweep file's keys that are more than a number or a word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator

from semples.config import NO_FLAG, Section
from semples.errors import UserError, nearest
from tune.objectives import find_objective
from tune.parts import OBJECTIVE, Choice, schema

LONGEST = 100 * 365 * 86400  # seconds of a sweep
LIMITS = {
    "seconds": "Compute seconds of all of a trial's stages.",
    "gpu_gb": "The most GPU memory of a trial, in GB.",
}
Report = Literal["auto", "all", "leaders"]  # which trials, see tune.reporting
TIME = r"(\d+(?:\.\d+)?)([smhd])"


class Resources(Section):
    """The part of a machine that a stage of a trial has to itself while it is computed. A trial that waits has none."""

    cpu: Annotated[float, Field(gt=0, le=100_000), NO_FLAG] = Field(
        default=1, description="CPUs, which are also the threads of a stage; above 1 whole numbers only."
    )
    gpu: Annotated[float, Field(ge=0, le=100_000), NO_FLAG] = Field(
        default=0,
        description="GPUs; a fraction lets several stages share one, above 1 whole numbers only. 0 = trials run on the "
        "CPU, even where there is a GPU.",
    )
    cpu_only: Annotated[float, Field(gt=0, le=100_000), NO_FLAG] = Field(
        default=1,
        description="CPUs of a stage that uses no GPU, such as the masks, and of each part into which its images are "
        "divided. Counts where trials use a GPU; where they do not, every stage has `cpu`.",
    )

    def of_stage(self, on_gpu: bool) -> dict[str, float]:
        """What Ray reserves for a stage, by whether it uses a GPU where there is one."""
        if self.gpu and not on_gpu:
            return {"num_cpus": self.cpu_only, "num_gpus": 0}
        return {"num_cpus": self.cpu, "num_gpus": self.gpu}

    @field_validator("cpu", "gpu", "cpu_only")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("above 1 Ray knows whole numbers only")
        return value


class Confirmation(Section):
    """The best trials and the default once more, over seeds."""

    top: Annotated[int, Field(ge=1, le=100), NO_FLAG] = Field(
        default=3, description="Number of finalists, besides the default configuration."
    )
    seeds: Annotated[int, Field(ge=2, le=1000), NO_FLAG] = Field(
        default=5,
        description="Runs of each, with seeds that the sweep did not use; fewer where the budget allows no more, but "
        "two at least.",
    )

    @property
    def runs(self) -> int:
        """Of all of them."""
        return (self.top + 1) * self.seeds


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | Mapping) else value


def _objectives(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    try:
        found = [find_objective(choice) for choice in choices]
    except UserError as error:
        raise ValueError(str(error)) from None
    if len({one.metric for one in found}) != len(found) or not any(one.stage for one in found):
        raise ValueError("name every objective once, and at least one that a stage reports, such as an mIoU")
    return choices


def _seconds(value: Any) -> Any:
    """Seconds of "90s", "30m", "6h", "2d" or several such in a row, "1h30m"; numbers are seconds already."""
    if not isinstance(value, str):
        return value
    parts = re.findall(TIME, value)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != value:
        raise ValueError("give a time like 90s, 30m, 6h, 2d or 1h30m")
    return sum(float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit] for number, unit in parts)


def _limits(limits: dict[str, float]) -> dict[str, float]:
    for name in limits:
        if name not in LIMITS:
            raise ValueError(f"'{name}' cannot be limited{nearest(name, LIMITS)}; known: {', '.join(LIMITS)}")
    return limits


# with what editors are told, where a file may have other forms than the value
_ONE_OF = schema(OBJECTIVE)
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
Objectives = Annotated[
    tuple[Choice, ...],
    BeforeValidator(_as_tuple),
    Field(min_length=1),
    AfterValidator(_objectives),
    WithJsonSchema({"anyOf": [_ONE_OF, {"type": "array", "items": _ONE_OF, "minItems": 1, "uniqueItems": True}]}),
]
Limits = Annotated[
    dict[str, Annotated[float, Field(gt=0), NO_FLAG]],
    AfterValidator(_limits),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {name: {**_POSITIVE, "description": text} for name, text in LIMITS.items()},
            "additionalProperties": False,
        }
    ),
]
Seconds = Annotated[
    Annotated[float, Field(gt=0, le=LONGEST), NO_FLAG] | None,
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"^({TIME})+$"}, _POSITIVE, {"type": "null"}]}),
]
