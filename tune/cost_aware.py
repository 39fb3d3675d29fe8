"""Suggestions that know what they cost: expected improvement for every second that is not computed yet.

A candidate that changes late parameters only finds its early stages in the store, so it costs a fraction of one that
begins anew. A Gaussian process over the searched keys says what a candidate promises, the study's record of stages what
it would cost, and the best ratio is suggested (expected improvement per second, Snoek et al., arXiv 1206.2944; with the
cost of what remains, as EEIPU, arXiv 2411.03731). Cheap variations of a good prefix come in bursts: those that take
less than half of a whole trial may together take as much as one, then candidates that keep a prefix on purpose wait.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from tune.messages import State
from tune.needs import Fit, affecting, on_gpu
from tune.records import TrialRecord, compute_seconds, given, is_duplicate, trial_record
from tune.study import constraint_violations
from tune.sweep_file import Sweep

STARTUP = 4  # trials at random points before the model is asked
FRESH = 256  # candidates drawn from the whole space
LEADERS = 8  # best trials whose surroundings and prefixes are looked at
VARIATIONS = 16  # of each leader, and of each of its prefixes
WIDTH = 0.1  # of a variation, as a share of a key's range
UNFIT = 1e6  # less than any other candidate, but than one that was tried
FREE = 0.01  # what a candidate costs at least, as a share of a whole trial
OBSERVATIONS = 400  # the best and the newest are kept, so that a suggestion stays fast
REFIT = 1.25  # growth of the observations after which the process learns its scales anew


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


def _bounds(d: Any) -> tuple[float, float, bool]:
    if isinstance(d, CategoricalDistribution):
        return 0.0, max(1.0, len(d.choices) - 1.0), False
    half = 0.0 if d.log or not d.step else d.step / 2  # every whole number gets the same share
    return d.low - half, d.high + half, d.log


class Costs:
    """What candidates would cost, by the record that the trials left: seconds of every stage, and which results exist
    (or are being computed, and will be shared). stopped: at which of them a trial was stopped. whole: seconds of a
    trial that finds nothing there."""

    def __init__(
        self,
        space: Space,
        stages: dict[str, tuple[str, ...]],
        trials: Sequence[FrozenTrial],
        record: Callable[[FrozenTrial], TrialRecord] = trial_record,
    ):
        rows = space.rows(trials)
        records = [record(trial) for trial in trials]
        self.columns = {name: [space.names.index(key) for key in keys] for name, keys in stages.items()}
        self._seconds, self._known = {}, {}
        for name, columns in self.columns.items():
            seconds = [record.stages[name].seconds for record in records if name in record.stages]
            self._seconds[name] = float(np.median(seconds)) if seconds else 0.0  # a loaded node spoils a mean
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
        """Candidates (n, keys) -> median seconds of the stages whose results are missing, (n,)."""
        missing = (seconds * ~self._among(rows, name, self._known[name]) for name, seconds in self._seconds.items())
        return np.sum(list(missing), axis=0)


def needs_gpu(sweep: Sweep, trials: Iterable[FrozenTrial], parameters: dict[str, Any]) -> bool:
    """Whether a trial with these parameters would compute a stage that uses a GPU, and that none of these trials has
    computed or is going to."""
    space = Space(sweep)
    costs = Costs(space, affecting(sweep), [trial for trial in trials if not is_duplicate(trial)])
    return bool(costs.miss(space.row(parameters)[None], on_gpu(sweep))[0])


class CostAwareSampler(optuna.samplers.BaseSampler):
    """Optuna sampler for the sweep's whole space; see this module's first lines. fit: what the next suggestion should
    need, as far as there is such a candidate."""

    def __init__(self, sweep: Sweep, seed: int):
        self.fit: Fit = "any"
        self._space, self._stages, self._on_gpu = Space(sweep), affecting(sweep), on_gpu(sweep)
        self._signs = np.array([1.0 if d == "maximize" else -1.0 for d in sweep.directions])
        self._limits = sweep.limits
        self._rng = np.random.default_rng(seed)
        self._random = optuna.samplers.RandomSampler(seed)
        self._kernel: Any = None
        self._learned_from = 0
        self._known: dict[int, TrialRecord] = {}  # of trials that have ended, by number

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        """What the study remembers of a trial; of one that has ended it is read once."""
        if not trial.state.is_finished():
            return trial_record(trial)
        if trial.number not in self._known:
            self._known[trial.number] = trial_record(trial)
        return self._known[trial.number]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, from the first trial on."""
        return self._space.distributions

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Only for a trial whose suggestion was cut short."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate with the best ratio of expected improvement to remaining cost."""
        others = (t for t in study.get_trials(deepcopy=False) if t.number != trial.number)
        trials = [t for t in others if not is_duplicate(t)]
        candidates = self._space.settled(self._space.of_unit(self._rng.random((FRESH, len(self._space.names)))))
        ended = [t for t in trials if t.state.is_finished()]
        rows, values = self._observations(ended)
        if len(rows) <= STARTUP:
            return self._space.parameters(candidates[0])
        running = self._space.rows(t for t in trials if t.state == TrialState.RUNNING)
        costs = Costs(self._space, self._stages, trials, self._record)
        leaders = rows[np.argsort(-values, kind="stable")[:LEADERS]]
        candidates = np.concatenate([candidates, self._variations(leaders, ())])
        if self._burst(ended, costs) < costs.whole:
            prefixes = {columns: None for columns in map(tuple, costs.columns.values()) if columns}
            candidates = np.concatenate([candidates, *(self._variations(leaders, kept) for kept in prefixes)])
        remaining = costs.remaining(candidates)
        improvement = self._log_improvement(rows, values, running, candidates)
        score = improvement - np.log(np.maximum(remaining, FREE * costs.whole or 1.0))
        score[costs.stopped(candidates)] = -np.inf
        score[_contained(candidates, np.concatenate([self._space.rows(ended), running]))] = -np.inf
        if self.fit != "any":
            score[costs.miss(candidates, self._on_gpu) != (self.fit == "gpu")] -= UNFIT
        return self._space.parameters(candidates[int(score.argmax())])

    def _variations(self, leaders: np.ndarray, kept: tuple[int, ...]) -> np.ndarray:
        """Points around the leaders and anywhere, that keep the columns `kept` of a leader."""
        rows = np.repeat(leaders, VARIATIONS, axis=0)
        near = self._space.unit(rows) + WIDTH * self._rng.standard_normal(rows.shape)
        anywhere = self._rng.random(rows.shape) < (0.5 if kept else 0.1)
        varied = self._space.of_unit(np.where(anywhere, self._rng.random(rows.shape), near))
        varied[:, list(kept)] = rows[:, list(kept)]
        return self._space.settled(varied)

    def _burst(self, ended: Sequence[FrozenTrial], costs: Costs) -> float:
        """Seconds of the newest trials since the last one that took more than half of a whole trial."""
        spent = 0.0
        for trial in reversed(ended):
            seconds, _ = compute_seconds([self._record(trial)])
            if seconds > costs.whole / 2:
                break
            spent += seconds
        return spent

    def _observations(self, ended: Sequence[FrozenTrial]) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n, keys) and what the trials are worth (n,), more is better.

        Several objectives become one by random weights (ParEGO). A pruned trial is worth what complete ones with its
        score at its last milestone were worth on average, a failed one or one above a limit as little as the worst. One
        that was lost says nothing: its process or node died, whatever its parameters were.
        """
        complete = [t for t in ended if t.state == TrialState.COMPLETE]
        if not complete:
            return np.zeros((0, len(self._space.names))), np.zeros(0)
        values = np.array([t.values for t in complete]) * self._signs
        if values.shape[1] > 1:
            low, high = values.min(0), values.max(0)
            scaled = self._rng.dirichlet(np.ones(len(low))) * (values - low) / np.where(high > low, high - low, 1)
            values = scaled.min(1, keepdims=True) + 0.05 * scaled.sum(1, keepdims=True)
        worth = dict(zip((t.number for t in complete), values[:, 0].tolist(), strict=True))
        worst = min(worth.values())
        expected = _by_milestone({t.number: self._record(t) for t in complete}, worth)
        for trial in ended:
            record = self._record(trial)
            over = constraint_violations(record.usage, self._limits).values()
            if trial.state == TrialState.PRUNED and record.last_milestone:
                worth[trial.number] = expected(*record.last_milestone)
            elif record.state != State.LOST and (trial.state != TrialState.COMPLETE or any(by > 0 for by in over)):
                worth[trial.number] = worst
        known = [t for t in ended if worth.get(t.number) is not None]
        if len(known) > OBSERVATIONS:
            best = {t.number for t in sorted(known, key=lambda t: -worth[t.number])[: OBSERVATIONS // 2]}
            newest = {t.number for t in known[-OBSERVATIONS // 2 :]}
            known = [t for t in known if t.number in best | newest]
        return self._space.rows(known), np.array([worth[t.number] for t in known])

    def _log_improvement(
        self, rows: np.ndarray, values: np.ndarray, running: np.ndarray, candidates: np.ndarray
    ) -> np.ndarray:
        """Logarithm of the expected improvement over the best mean among the observed, (n,), with the running trials
        taken to end as expected."""
        x, y = self._space.features(rows), (values - values.mean()) / (values.std() or 1.0)
        if self._kernel is None or len(x) > REFIT * self._learned_from:
            scales = Matern(np.full(x.shape[1], 0.5), (0.05, 10.0), nu=2.5)
            kernel = ConstantKernel(1.0, (0.1, 10.0)) * scales + WhiteKernel(0.05, (1e-4, 1.0))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is fine
                learned = GaussianProcessRegressor(kernel).fit(x[-OBSERVATIONS // 2 :], y[-OBSERVATIONS // 2 :])
            self._kernel, self._learned_from = learned.kernel_, len(x)
        process = GaussianProcessRegressor(self._kernel, optimizer=None).fit(x, y)
        if len(running):
            busy = self._space.features(running)
            x, y = np.concatenate([x, busy]), np.concatenate([y, process.predict(busy)])
            process.fit(x, y)
        mean, deviation = process.predict(self._space.features(candidates), return_std=True)
        deviation = np.sqrt(np.maximum(deviation**2 - self._kernel.get_params()["k2__noise_level"], 1e-12))
        return log_expected_improvement((mean - process.predict(x).max()) / deviation) + np.log(deviation)


def log_expected_improvement(z: np.ndarray) -> np.ndarray:
    """log(pdf(z) + z cdf(z)) of the standard normal distribution; below -10 by its expansion log pdf(z) - 2 log |z|."""
    near = np.clip(z, -10.0, 30.0)
    ratio = np.exp(log_ndtr(near) - norm.logpdf(near))
    return np.where(
        z > -10.0, norm.logpdf(near) + np.log1p(near * ratio), norm.logpdf(z) - 2 * np.log(np.abs(z) + 1e-9)
    )


def _contained(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    known = {row.tobytes() for row in others}
    return np.array([row.tobytes() in known for row in rows], bool)


def _by_milestone(complete: Mapping[int, TrialRecord], worth: dict[int, float]) -> Any:
    """(milestone, score) -> what complete trials with it were worth, by a straight line; the least if few have it."""

    def expected(name: str, score: float) -> float:
        pairs = [
            (of.stages[name].score, worth[number])
            for number, of in complete.items()
            if name in of.stages and of.stages[name].score is not None
        ]
        x, y = np.array(pairs).reshape(-1, 2).T
        if len(x) < STARTUP or x.std() == 0:
            return float(min(worth.values()))
        slope = max(0.0, float(np.cov(x, y, bias=True)[0, 1] / x.var()))
        return float(y.mean() + slope * (score - x.mean()))

    return expected
