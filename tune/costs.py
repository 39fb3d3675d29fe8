"""What trials cost that find some of their stages stored."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from tune.columns import Space
from tune.needs import affecting, on_gpu
from tune.records import TrialRecord, is_duplicate, trial_record
from tune.sweep_file import Sweep

MEASURED = 6  # results of a stage after which its seconds may depend on parameters
SURE = 0.3  # of the regression: the variance of the logarithm of seconds over that of a weight
APART = 10.0  # what one result takes at most of another's seconds; more is a loaded node


class Costs:
    """What candidates would cost, by the record that the trials left: seconds of every stage by its parameters, and
    which results exist (or are being computed, and will be shared). stopped: at which of them a trial was stopped.
    whole: median seconds of a trial that finds nothing there."""

    def __init__(
        self,
        space: Space,
        stages: dict[str, tuple[str, ...]],
        trials: Sequence[FrozenTrial],
        record: Callable[[FrozenTrial], TrialRecord] = trial_record,
    ):
        rows = space.rows(trials)
        records = [record(trial) for trial in trials]
        self.columns = {name: space.columns(keys) for name, keys in stages.items()}
        self._space, unit = space, space.unit(rows)
        self._seconds, self._weights, self._known = {}, {}, {}
        for name, columns in self.columns.items():
            there = [i for i, record in enumerate(records) if name in record.stages]
            seconds = np.array([records[i].stages[name].seconds for i in there])
            self._seconds[name] = float(np.median(seconds)) if there else 0.0  # a loaded node spoils a mean
            computed = [k for k, i in enumerate(there) if not records[i].stages[name].reused]
            own = unit[there][computed][:, columns]
            self._weights[name] = _weights(own, seconds[computed], self._seconds[name])
            self._known[name] = {
                row[columns].tobytes()
                for row, record, trial in zip(rows, records, trials, strict=True)
                if name in record.stages or trial.state == TrialState.RUNNING
            }
        self.whole = sum(self._seconds.values())
        self._stopped: dict[str, set[bytes]] = {name: set() for name in stages}
        for row, trial, of in zip(rows, trials, records, strict=True):
            # one that was stopped within a stage may have been so for what only that stage reads
            if trial.state == TrialState.PRUNED and (last := of.last_milestone) and {*of.epochs} <= {*of.stages}:
                self._stopped[last[0]].add(row[self.columns[last[0]]].tobytes())

    def seconds(self, stage: str) -> float:
        """Median seconds of a stage."""
        return self._seconds[stage]

    def stopped(self, rows: np.ndarray) -> np.ndarray:
        """Candidates (n, keys) -> whether they share the result at which a trial was stopped: they would be, too."""
        return np.any([self._among(rows, name, known) for name, known in self._stopped.items()], axis=0)

    def _among(self, rows: np.ndarray, stage: str, known: set[bytes]) -> np.ndarray:
        if not known:
            return np.zeros(len(rows), bool)
        return np.array([row.tobytes() in known for row in rows[:, self.columns[stage]]], bool)

    def miss(self, rows: np.ndarray, stages: Container[str]) -> np.ndarray:
        """Candidates (n, keys) -> whether one of these stages is missing, (n,)."""
        return np.any(
            [~self._among(rows, name, known) for name, known in self._known.items() if name in stages], axis=0
        )

    def remaining(self, rows: np.ndarray) -> np.ndarray:
        """Candidates (n, keys) -> seconds of the stages whose results are missing, (n,)."""
        unit = self._space.unit(rows)
        missing = (self._of(name, unit) * ~self._among(rows, name, known) for name, known in self._known.items())
        return np.sum(list(missing), axis=0)

    def _of(self, stage: str, unit: np.ndarray) -> np.ndarray:
        """Points of the unit cube (n, keys) -> seconds of a stage there, (n,)."""
        middle, weights = self._weights[stage]
        factor = np.exp((unit[:, self.columns[stage]] - middle) @ weights)
        return np.asarray(self._seconds[stage] * np.clip(factor, 1 / APART, APART))


def _weights(unit: np.ndarray, seconds: np.ndarray, median: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, keys) at which a stage took so many seconds -> a middle (keys,) and by what the logarithm of the
    seconds rises from there with each key, (keys,); as little as that is sure (ridge regression)."""
    if len(unit) < MEASURED or not median:
        return np.zeros(unit.shape[1]), np.zeros(unit.shape[1])
    middle = unit.mean(0)
    apart, log = unit - middle, np.log(np.clip(seconds / median, 1 / APART, APART))
    return middle, np.linalg.solve(apart.T @ apart + SURE * np.eye(len(middle)), apart.T @ (log - log.mean()))


def needs_gpu(sweep: Sweep, trials: Iterable[FrozenTrial], parameters: dict[str, Any]) -> bool:
    """Whether a trial with these parameters would compute a stage that uses a GPU, and that none of these trials has
    computed or is going to."""
    space = Space(sweep)
    costs = Costs(space, affecting(sweep), [trial for trial in trials if not is_duplicate(trial)])
    return bool(costs.miss(space.row(parameters)[None], on_gpu(sweep))[0])
