"""What every section of a configuration is made of: numbers with their ranges, and a frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _no_flag(value: Any) -> Any:
    """For a validator of numbers: Python counts true as 1."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs in order."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    for key, value in flatten(values):
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{key} must be a finite number")
    return values


# stands behind the bounds of a number, else a JSON schema does not show them
NO_FLAG = BeforeValidator(_no_flag)
# bounds from above where more would take all of a machine's memory or time before anything is said
Positive = Annotated[float, Field(gt=0), NO_FLAG]
NotNegative = Annotated[float, Field(ge=0), NO_FLAG]
Share = Annotated[float, Field(ge=0, le=1), NO_FLAG]
Scale = Annotated[float, Field(ge=0.05, le=8), NO_FLAG]
Width = Annotated[float, Field(ge=0.01, le=10_000), NO_FLAG]  # the dense CRF's library dies of smaller ones
Compat = Annotated[float, Field(ge=0, le=10_000), NO_FLAG]
Rate = Annotated[float, Field(gt=0, le=1e30), NO_FLAG]
Decay = Annotated[float, Field(ge=0, le=1e6), NO_FLAG]
Root = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=100_000), NO_FLAG]
Images = Annotated[int, Field(ge=1, le=10**9), NO_FLAG]
Side = Annotated[int, Field(ge=32, le=4096), NO_FLAG]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), NO_FLAG]
Args = Annotated[dict[str, Any], AfterValidator(_finite)]


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
