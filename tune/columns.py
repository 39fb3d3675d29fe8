"""The searched keys as columns of numbers, which samplers compute with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from tune.records import given
from tune.sweep_file import Sweep

# of a prior: how near to it what is believed, as a share of the key's range, and how good that is
CONFIDENCE = {"low": (0.3, 0.5), "medium": (0.2, 1.0), "high": (0.1, 1.5)}


class Space:
    """The searched keys as columns: rows hold Optuna's internal representation, the base value where a conditional key
    is not searched. A key that trials may decide themselves has an end of its range there that is not the base value,
    so that a trial which was given that is another one."""

    def __init__(self, sweep: Sweep):
        self.sweep, self.distributions = sweep, sweep.distributions()
        self.names = tuple(self.distributions)
        absent = dict(sweep.base_values)
        for name in sweep.analytic:
            low, high = sweep.space[name].bounds
            absent[name] = high if absent[name] == low else low
        self.absent = np.array([d.to_internal_repr(absent[name]) for name, d in self.distributions.items()])
        self._settles = bool(sweep.analytic) or any(dimension.when for dimension in sweep.space.values())
        priors = {name: of.prior for name, of in sweep.space.items() if of.prior}
        # by column with a prior its width and worth
        self._believed = {self.names.index(name): CONFIDENCE[of.confidence] for name, of in priors.items()}
        self._priors = self.unit(self.row(sweep.prior_parameters())[None])[0] if priors else self.absent

    def columns(self, keys: Iterable[str]) -> list[int]:
        """Which columns these keys are."""
        return [self.names.index(key) for key in keys]

    def row(self, parameters: dict[str, Any]) -> np.ndarray:
        """What a trial was given -> (keys,)."""
        return np.array(
            [
                d.to_internal_repr(parameters[name]) if name in parameters else absent
                for (name, d), absent in zip(self._items, self.absent, strict=True)
            ]
        )

    def rows(self, trials: Iterable[FrozenTrial]) -> np.ndarray:
        """Trials -> (n, keys)."""
        return np.array([self.row(given(trial)) for trial in trials]).reshape(-1, len(self.names))

    @property
    def _items(self) -> Iterable[tuple[str, BaseDistribution]]:
        return self.distributions.items()

    def parameters(self, row: np.ndarray) -> dict[str, Any]:
        """A row -> what is suggested: the values of the keys that such a trial searches and does not decide."""
        found = self.sweep.searched(
            {name: d.to_external_repr(value) for (name, d), value in zip(self._items, row.tolist(), strict=True)}
        )
        decided = self.sweep.decided({key: value for key, value in found.items() if key not in self.sweep.analytic})
        return {key: value for key, value in found.items() if key not in decided}

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """(n, keys) -> (n, keys) in [0, 1]; of choices, their position."""
        columns = []
        for column, (_, d) in zip(rows.T, self._items, strict=True):
            low, high, log = _bounds(d)
            columns.append(
                (np.log(column) - np.log(low)) / np.log(high / low) if log else (column - low) / (high - low)
            )
        return np.clip(np.stack(columns, 1), 0, 1)

    def of_unit(self, unit: np.ndarray) -> np.ndarray:
        """The inverse, rounded to whole numbers and steps; not `settled` yet."""
        columns = []
        for column, (_, d) in zip(np.clip(unit, 0, 1).T, self._items, strict=True):
            low, high, log = _bounds(d)
            value = low * (high / low) ** column if log else low + (high - low) * column
            if isinstance(d, CategoricalDistribution):
                value = np.minimum(np.rint(value), len(d.choices) - 1)
            else:
                first, last, step = d.low, d.high, d.step  # type: ignore[attr-defined]
                # the 0.6 of a base and a grid, not 0.3 + 3 * 0.1
                value = np.round(first + step * np.rint((value - first) / step), 12) if step else value
                value = np.clip(value, first, last)
            columns.append(value)
        return np.stack(columns, 1)

    def settled(self, rows: np.ndarray) -> np.ndarray:
        """Keys for which nothing is suggested at a point take one value, so that equal trials are equal rows."""
        if self._settles:
            for row in rows:
                own = self.parameters(row)
                for i, name in enumerate(self.names):
                    if name not in own:
                        row[i] = self.absent[i]
        return rows

    def features(self, rows: np.ndarray) -> np.ndarray:
        """What the process sees: numbers in [0, 1], a column of 0 and 1 for every choice."""
        unit = self.unit(rows)
        columns: list[np.ndarray] = []
        for i, (_, d) in enumerate(self._items):
            if isinstance(d, CategoricalDistribution):
                columns += [(rows[:, i] == choice).astype(float) for choice in range(len(d.choices))]
            else:
                columns.append(unit[:, i])
        return np.stack(columns, 1)

    @property
    def has_priors(self) -> bool:
        """Whether anything is believed of a key."""
        return bool(self._believed)

    def beliefs(self, rows: np.ndarray) -> np.ndarray:
        """How much is believed of rows, a column for every key with a prior, from its confidence (in deviations of what
        trials are worth) where they have its value to 0 far from it."""
        unit, columns = self.unit(rows), []
        for i, (width, worth) in self._believed.items():
            away = unit[:, i] - self._priors[i]
            if isinstance(self.distributions[self.names[i]], CategoricalDistribution):
                away = np.where(away == 0, 0.0, np.inf)
            columns.append(worth * np.exp(-((away / width) ** 2) / 2))
        return np.stack(columns, 1) if columns else np.zeros((len(rows), 0))

    def near_priors(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows with other values of the keys that have a prior, near it."""
        unit = self.unit(rows)
        for i, (width, _) in self._believed.items():
            numbers = not isinstance(self.distributions[self.names[i]], CategoricalDistribution)
            unit[:, i] = self._priors[i] + width * rng.standard_normal(len(unit)) * numbers
        return self.of_unit(unit)


def _bounds(d: Any) -> tuple[float, float, bool]:
    if isinstance(d, CategoricalDistribution):
        return 0.0, max(1.0, len(d.choices) - 1.0), False
    half = 0.0 if d.log or not d.step else d.step / 2  # every whole number gets the same share
    return d.low - half, d.high + half, d.log
