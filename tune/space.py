"""The search space: searched keys, their Optuna distributions checked against the configuration, and its grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BeforeValidator, Field, model_validator

from semples.config import NO_FLAG, RENAMED, Config, Section, flatten, to_dict, with_changes
from semples.errors import UserError, nearest, quoted

GRID = 10_000  # points at most
SHARED = ("selection", "seed", "data", "runtime", "segment.train_on")  # by all trials of a sweep

# named here because the fields of Dimension hide int and float
_End = Field(ge=-1e15, le=1e15)
_Ints = tuple[Annotated[int, _End, NO_FLAG], Annotated[int, _End, NO_FLAG]]
_Floats = tuple[Annotated[float, _End, NO_FLAG], Annotated[float, _End, NO_FLAG]]
_Number = int | float


def _one_value(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple | dict):
        what = "null" if value is None else quoted(value)
        raise ValueError(f"a choice is a number, a word, true or false, not {what}")
    return value


_Choice = Annotated[str | int | float | bool, BeforeValidator(_one_value)]
_Choices = Annotated[tuple[_Choice, ...], Field(max_length=1000)]


class Prior(Section):
    """A value of a key that somebody believes to be good."""

    value: _Choice = Field(description="The value, which the key can have.")
    confidence: Literal["low", "medium", "high"] = Field(
        default="medium", description="How sure that is: how near to it one should look, and for how long."
    )


class Dimension(Section):
    """One searched key: exactly one of `int`, `float` and `choice`."""

    int: _Ints | None = Field(default=None, description="Whole numbers [low, high], both ends included.")
    float: _Floats | None = Field(default=None, description="Numbers [low, high], both ends included.")
    choice: _Choices | None = Field(
        default=None, min_length=1, description="The values themselves: numbers, words, true or false."
    )
    log: bool = Field(default=False, description="Whether a range is searched on a log scale; its ends are above 0.")
    step: Annotated[_Number, Field(gt=0), NO_FLAG] | None = Field(
        default=None,
        description="Distance of the values of a range, which begin at its low end; empty = 1 for int, none for float.",
    )
    when: dict[str, _Choice | _Choices] = Field(
        default={},
        description="Other searched keys with a value or a list of values: this key is searched only in trials in "
        "which they have such a value, and keeps its base value in the others.",
    )

    prior: Prior | None = Field(
        default=None,
        description="A value that is believed to be good, {value: 2.4, confidence: high} for one; the second trial has "
        "those of all keys, and cost-aware looks near them first, until what it finds says otherwise. confidence: low, "
        "medium or high.",
    )

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
        if self.prior and not self.contains(self.prior.value):
            raise ValueError(f"the prior's value {quoted(self.prior.value)} is none that this key can have")
        return self

    def distribution(self) -> BaseDistribution:
        """The same as an Optuna distribution."""
        if self.int:
            return IntDistribution(*self.int, log=self.log, step=round(self.step or 1))
        if self.float:
            return FloatDistribution(*self.float, log=self.log, step=self.step)
        return CategoricalDistribution(self.choice or ())

    def suggest(self, trial: optuna.Trial, key: str) -> None:
        """Have Optuna draw a value for this key."""
        if self.int:
            trial.suggest_int(key, *self.int, step=round(self.step or 1), log=self.log)
        elif self.float:
            trial.suggest_float(key, *self.float, step=self.step, log=self.log)
        else:
            trial.suggest_categorical(key, self.choice or ())

    def keep(self, trial: optuna.Trial, key: str, value: Any) -> None:
        """Give a trial a value of a range of numbers that nobody drew."""
        trial.suggest_float(key, value, value, log=self.log)

    def contains(self, value: Any) -> bool:
        """Whether it can give a value."""
        if self.choice:
            return value in self.choice
        if isinstance(value, bool) or not isinstance(value, _Number):
            return False
        low, high = self.bounds
        step = self.step or (1 if self.int else None)
        steps = (value - low) / step if step else 0.0
        return bool(low <= value <= high and abs(steps - round(steps)) < 1e-8)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """Lowest and highest value, or all choices."""
        return self.int or self.float or self.choice or ()

    @property
    def probe_values(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be: the ends and, of a range, one in between that is not round."""
        if self.choice:
            return self.bounds
        low, high = self.bounds
        step = self.step or (1 if self.int else (high - low) * 0.381966)
        return (low, min(low + round(step) if self.int else low + step, high), high)

    def is_active(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a trial with these parameters searches this key."""
        return all(key in parameters and parameters[key] in self.values_of(key) for key in self.when)

    def values_of(self, parent: str) -> tuple[Any, ...]:
        """The values of a key of `when` with which this one is searched."""
        values = self.when[parent]
        return values if isinstance(values, tuple) else (values,)

    def grid(self) -> list[Any]:
        """All values of choices, whole numbers and steps, in order."""
        if self.choice:
            return list(self.choice)
        low, high = self.bounds
        step = self.step or 1
        found = [low + i * step for i in range(int((high - low) / step + 1e-9) + 1)]
        return [round(value, 12) for value in found] if self.float else [int(value) for value in found]

    def among(self, values: Iterable[Any]) -> list[Any]:
        """The values of a range of numbers that differ by what happens at these ascending ones: all of its steps, or
        its low end and those of them that it includes."""
        low, high = self.bounds
        return self.grid() if self.step else [low, *(value for value in values if low < value <= high)]


Space = Mapping[str, Dimension]


def distributions(space: Space, base: Config) -> dict[str, BaseDistribution]:
    """The space for Optuna. Raises UserError where a key or a value is none that the configuration allows, beginning
    from `base`."""
    flat = dict(flatten(to_dict(base)))
    result: dict[str, BaseDistribution] = {}
    for key, dimension in space.items():
        for other in dimension.when:
            if other not in result:
                raise UserError(f"space: {key} is searched when {other} has a value, so {other} must stand before it")
            for value in dimension.values_of(other):
                if not space[other].contains(value):
                    raise UserError(f"space: {key} is searched when {other} is {value}, which it never is")
        if base.selection == "proxy" and key.startswith("clip."):
            raise UserError(f"space: {key} cannot be searched where CLIP is the judge (selection: proxy)")
        if is_shared(key):
            raise UserError(f"space: {key} cannot be searched: trials compare on the same data and rule only")
        if key.endswith(".kind"):
            raise UserError(f"space: {key} cannot be searched: its kinds have different keys; launch a sweep for each")
        if key not in flat:
            raise UserError(f"space: unknown key '{key}'{nearest(key, flat, RENAMED)}")
        for value in dimension.probe_values:
            changed = dict(flatten(to_dict(with_changes(base, {key: value}, "space"))))[key]
            if isinstance(value, str | bool) != isinstance(changed, str | bool):
                raise UserError(f"space: {key}: {quoted(value)} stands for {changed}; write it so, without quotes")
        result[key] = dimension.distribution()
        if not dimension.contains(flat[key]):
            raise UserError(
                f"space: {key} does not include its base value {flat[key]}, with which trials begin; widen it or "
                "change base"
            )
    return result


def is_shared(key: str) -> bool:
    """Whether a key of the configuration, or its section, must be the same for all trials that are compared."""
    return any(f"{key}.".startswith(f"{own}.") for own in SHARED)


def searched(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of these values by key those that a trial with them searches."""
    result: dict[str, Any] = {}
    for key, dimension in space.items():
        if key in values and dimension.is_active(result):
            result[key] = values[key]
    return result


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every point of a space of choices, whole numbers and steps, each once. Raises UserError for other spaces."""
    axes = []
    for key, dimension in space.items():
        if dimension.float and not dimension.step:
            raise UserError(f"space: a grid needs a step for {key}, or choices")
        axes.append(dimension.grid())
    if (points := math.prod(map(len, axes))) > GRID:
        raise UserError(f"space: a grid of {points} points is more than {GRID}; take larger steps or another sampler")
    seen = set()
    for values in itertools.product(*axes):
        point = searched(space, dict(zip(space, values, strict=True)))
        if (own := tuple(point.items())) not in seen:
            seen.add(own)
            yield point
