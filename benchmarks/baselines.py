"""What the search is compared with: other searches with the same reuse of stages, and as a user finds them without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm
from sklearn.ensemble import RandomForestRegressor

from tune.columns import Space
from tune.cost_aware import FRESH, CostAwareSampler
from tune.costs import Costs
from tune.needs import affecting
from tune.records import is_duplicate
from tune.samplers import gp, tpe
from tune.sweep_file import Sweep

LATE = ("masks", "segment")  # stages whose own keys are varied on a prefix
ON_NEWEST = 3  # a burst's first of so many parts is on the newest prefix, the rest on the best one


@dataclass(frozen=True)
class Strategy:
    """make: (sweep, seed) -> a sampler. early_stopping: of the sweep. reuse: whether trials share their stages."""

    make: Callable[[Sweep, int], BaseSampler]
    early_stopping: str = "none"
    reuse: bool = True


class Nested(BaseSampler):
    """Whole trials by another sampler, and after each of them late settings drawn at random, until these have cost as
    much as a whole trial (at most MOST of them): the first third on the newest prefix, the others on the best."""

    MOST = 30

    def __init__(self, sweep: Sweep, seed: int, whole: BaseSampler):
        self._space, self._whole, self._rng = Space(sweep), whole, np.random.default_rng(seed)
        stages = affecting(sweep)
        early = {key for name, keys in stages.items() for key in keys if name not in LATE}
        self._late = [name not in early for name in self._space.names]
        self._stages = stages
        self._left, self._newest = 0, 0

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return self._space.distributions

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, of: BaseDistribution) -> Any:
        """Never needed but for keys that depend on others."""
        return self._whole.sample_independent(study, trial, name, of)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A late setting of a burst, or else a whole trial, with which a burst begins."""
        complete = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if not is_duplicate(t)]
        if not complete:
            return self._of_whole(study, trial)
        if self._left == 0:
            costs = Costs(self._space, self._stages, complete)
            of_late = sum(costs.seconds(name) for name in LATE if name in self._stages)
            self._newest = self._left = min(self.MOST, math.ceil(costs.whole / of_late))
            return self._of_whole(study, trial)
        self._left -= 1
        on_newest = self._left >= self._newest * (1 - 1 / ON_NEWEST)
        prefix = complete[-1] if on_newest else max(complete, key=lambda t: t.values[0])
        row = self._space.row(prefix.params)
        drawn = self._space.of_unit(self._rng.random((1, len(row))))[0]
        return self._space.parameters(self._space.settled(np.where(self._late, drawn, row)[None])[0])

    def _of_whole(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        space = self._whole.infer_relative_search_space(study, trial)
        found = self._whole.sample_relative(study, trial, space)
        missing = {name: of for name, of in self._space.distributions.items() if name not in found}
        return found | {name: self._whole.sample_independent(study, trial, name, of) for name, of in missing.items()}


class Gridded(Nested):
    """Gridded random search with reuse (after arXiv 1903.05176): random prefixes, TEN random late settings on each,
    whatever came out."""

    TEN = 10

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next late setting on the newest prefix, or a new prefix."""
        done = len([t for t in study.get_trials(deepcopy=False) if not is_duplicate(t)]) - 1
        row = self._space.of_unit(self._rng.random((1, len(self._space.names))))[0]
        if done % self.TEN:
            newest = study.get_trials(deepcopy=False)[-2]
            row = np.where(self._late, row, self._space.row(newest.params))
        return self._space.parameters(self._space.settled(row[None])[0])


class Forest(CostAwareSampler):
    """Expected improvement under a random forest, as SMAC has it; with `per_second` for every second that remains. Its
    candidates are random ones and those around the best."""

    def __init__(self, sweep: Sweep, seed: int, per_second: bool = False):
        super().__init__(sweep, seed)
        self._per_second = per_second

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The best of the candidates."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and not is_duplicate(t)]
        fresh = self._space.settled(self._space.of_unit(self._rng.random((FRESH, len(self._space.names)))))
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        if len(complete) <= 5:
            return self._space.parameters(fresh[0])
        rows, values = self._space.rows(complete), np.array([t.values[0] for t in complete])
        candidates = np.concatenate([fresh, self._variations(rows[np.argsort(-values)[:8]], ())])
        forest = RandomForestRegressor(50, min_samples_leaf=1, max_features=5 / 6, random_state=0)
        forest.fit(self._space.features(rows), values)
        features = self._space.features(candidates)
        of_trees = np.array([tree.predict(features) for tree in forest.estimators_])
        mean, deviation = of_trees.mean(0), of_trees.std(0) + 1e-9
        z = (mean - values.max()) / deviation
        score = deviation * (z * norm.cdf(z) + norm.pdf(z))
        if self._per_second:
            costs = Costs(self._space, self._stages, trials, self._record)
            score /= np.maximum(costs.remaining(candidates), 0.01 * costs.whole)
        known = {row.tobytes() for row in self._space.rows(trials)}
        score[[row.tobytes() in known for row in candidates]] = -1
        return self._space.parameters(candidates[int(score.argmax())])


OURS = "ours"
STRATEGIES: Mapping[str, Strategy] = {
    OURS: Strategy(CostAwareSampler),
    "random": Strategy(lambda sweep, seed: optuna.samplers.RandomSampler(seed), reuse=False),
    "TPE": Strategy(tpe, reuse=False),
    "TPE with ASHA": Strategy(tpe, "asha", reuse=False),
    "GP": Strategy(gp, reuse=False),
    "random, reuse": Strategy(lambda sweep, seed: optuna.samplers.RandomSampler(seed)),
    "gridded random, reuse": Strategy(
        lambda sweep, seed: Gridded(sweep, seed, optuna.samplers.RandomSampler(seed)),
    ),
    "nested random, reuse": Strategy(
        lambda sweep, seed: Nested(sweep, seed, optuna.samplers.RandomSampler(seed)),
    ),
    "nested TPE, reuse": Strategy(lambda sweep, seed: Nested(sweep, seed, tpe(sweep, seed))),
    "TPE, reuse": Strategy(tpe),
    "GP, reuse": Strategy(gp),
    "forest, reuse": Strategy(Forest),
    "forest per second, reuse": Strategy(lambda sweep, seed: Forest(sweep, seed, per_second=True)),
}
