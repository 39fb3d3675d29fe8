"""Suggestions that know what they cost: expected improvement for every second that is not computed yet.

A candidate that changes late parameters only finds its early stages in the store, so it costs a fraction of one that
begins anew. A Gaussian process (tune/process.py) says what a candidate promises, the study's record of stages what it
would cost, and the best ratio is suggested (expected improvement per second, Snoek et al., arXiv 1206.2944; with the
cost of what remains, as EEIPU, arXiv 2411.03731). Cheap variations of a good prefix come in bursts: those that take
less than half of a whole trial may together take as much as one, then candidates that keep a prefix on purpose wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr
from scipy.stats import norm

from tune import process
from tune.columns import Space
from tune.costs import Costs
from tune.messages import State
from tune.needs import Fit, affecting, on_gpu, trained_by
from tune.records import Promise, TrialRecord, compute_seconds, is_duplicate, trial_record
from tune.study import constraint_violations
from tune.sweep_file import Sweep

FRESH = 256  # candidates drawn from the whole space, and as many that take later settings from a leader
LEADERS = 8  # trials whose surroundings and prefixes are looked at: the best, and the best of other prefixes
VARIATIONS = 16  # of each leader, and of each of its prefixes
WIDTH = 0.1  # of a variation, as a share of a key's range
UNFIT = 1e6  # less than any other candidate, but than one that was tried
FREE = 0.01  # what a candidate costs at least, as a share of a whole trial
BURST = 1.0  # what cheap variations may take together, in whole trials
CHEAP = 0.5  # what such a variation takes at most, in whole trials
OBSERVATIONS = 400  # the best and the newest are kept, so that a suggestion stays fast
LEARNED = 200  # of these, from which the process learns its scales
ALWAYS = 20  # trials until which it does so at every suggestion
REFIT = 1.15  # and then, by so much more trials
PROMISES = 10  # observations before it says what more compute will bring
DRAWN, DRAWS = 128, 64  # candidates, and possible worlds, by which it says how much there is to find
PAIRS = 4  # complete trials with a milestone before it says what stopped ones were worth


class CostAwareSampler(optuna.samplers.BaseSampler):
    """Optuna sampler for the sweep's whole space; see this module's first lines. fit: what the next suggestion should
    need, as far as there is such a candidate. promise: what the last one said of more compute, of one objective."""

    def __init__(self, sweep: Sweep, seed: int):
        self.fit: Fit = "any"
        self.promise: Promise | None = None
        self._space, self._stages, self._on_gpu = Space(sweep), affecting(sweep), on_gpu(sweep)
        of_stages = (tuple(self._space.columns(keys)) for keys in self._stages.values())
        # on which columns results depend, from the first stage that is searched to the last
        self._prefixes = [*dict.fromkeys(filter(None, of_stages))] or [tuple(range(len(self._space.names)))]
        self._trained = self._space.columns(trained_by(sweep))
        self._signs = np.array([1.0 if d == "maximize" else -1.0 for d in sweep.directions])
        self._limits = sweep.limits
        self._rng = np.random.default_rng(seed)
        self._random = optuna.samplers.RandomSampler(seed)
        self._theta: np.ndarray | None = None
        self._learned_from = 0  # trials
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
        ended = [t for t in trials if t.state.is_finished()]
        rows, values = self._observations(ended)
        if not len(rows):
            return self._space.parameters(self._fresh()[0])
        running = self._space.rows(t for t in trials if t.state == TrialState.RUNNING)
        costs = Costs(self._space, self._stages, trials, self._record)
        candidates = self._candidates(rows, values, self._burst(ended, costs) < BURST * costs.whole)
        improvement, most = self._log_improvement(rows, values, running, candidates, len(ended))
        score = improvement - np.log(np.maximum(costs.remaining(candidates), FREE * costs.whole or 1.0))
        score[costs.stopped(candidates)] = -np.inf
        score[_contained(candidates, np.concatenate([self._space.rows(ended), running]))] = -np.inf
        if len(self._signs) == 1 and len(rows) >= PROMISES:
            self.promise = Promise(float(np.exp(score.max())), most)
        if self.fit != "any":
            score[costs.miss(candidates, self._on_gpu) != (self.fit == "gpu")] -= UNFIT
        return self._space.parameters(candidates[int(score.argmax())])

    def _fresh(self) -> np.ndarray:
        """Points anywhere in the space."""
        return self._space.settled(self._space.of_unit(self._rng.random((FRESH, len(self._space.names)))))

    def _candidates(self, rows: np.ndarray, values: np.ndarray, bursts: bool) -> np.ndarray:
        """Points anywhere; others that have later settings of a leader; points around the leaders, some of which keep
        these; and where there are to be `bursts`, some that keep a prefix of a leader."""
        rest = [tuple(set(range(rows.shape[1])) - {*prefix}) for prefix in self._prefixes]
        leaders = self._leaders(rows, values)
        anywhere, mixed = self._fresh(), self._fresh()
        of = leaders[self._rng.integers(len(leaders), size=FRESH)]
        for row, leader, cut in zip(mixed, of, self._rng.integers(len(rest), size=FRESH), strict=True):
            row[list(rest[cut])] = leader[list(rest[cut])]
        kept = [(), *filter(None, rest), *(self._prefixes if bursts else ())]
        varied = [self._variations(leaders, columns) for columns in kept]
        if self._space.has_priors:
            varied.append(self._space.settled(self._space.near_priors(np.concatenate([anywhere, mixed]), self._rng)))
        return np.concatenate([anywhere, self._space.settled(mixed), *varied])

    def _leaders(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The best trials, half of them the best of those that trained the same."""
        order = np.argsort(-values, kind="stable")
        distinct = dict[bytes, int]()
        for i in order:
            distinct.setdefault(rows[i, self._trained].tobytes(), i)
        chosen = dict.fromkeys([*[*distinct.values()][: LEADERS // 2], *order])
        return rows[[*chosen][:LEADERS]]

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
            if seconds > CHEAP * costs.whole:
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
        self, rows: np.ndarray, values: np.ndarray, running: np.ndarray, candidates: np.ndarray, trials: int
    ) -> tuple[np.ndarray, float]:
        """Logarithm of the expected improvement over the best mean among the observed, (n,), with the running trials
        taken to end as expected; and what all of the space is expected to have above that. trials: how many have
        ended."""
        points = self._points(np.concatenate([rows, running, candidates]))
        seen, busy, rest = (slice(len(rows)), slice(len(rows), -len(candidates)), slice(-len(candidates), None))
        unit = values.std() or 1.0
        y = (values - values.mean()) / unit
        if self._theta is None or trials <= ALWAYS or trials > REFIT * self._learned_from:
            some = np.sort(self._rng.permutation(len(rows))[:LEARNED])
            self._theta, self._learned_from = process.learn(points[some], y[some], self._theta), trials
        known = process.Process(points[seen], y, self._theta)
        if len(running):
            as_expected, _ = known.predict(points[busy])
            both = slice(-len(candidates))
            known = process.Process(points[both], np.concatenate([y, as_expected]), self._theta)
        mean, deviation = known.predict(points[rest])
        best = known.predict(points[seen])[0].max()
        some = self._rng.choice(len(candidates), DRAWN, replace=False)
        above = known.draw(points[rest][some], DRAWS, self._rng).max(1) - best
        improvement = log_expected_improvement((mean - best) / deviation) + np.log(deviation * unit)
        return improvement, float(np.maximum(above, 0).mean() * unit)

    def _points(self, rows: np.ndarray) -> process.Points:
        """Rows as the process sees them."""
        results = [np.unique(rows[:, list(of)], axis=0, return_inverse=True)[1].ravel() for of in self._prefixes]
        return process.Points(self._space.features(rows), np.stack(results, 1), self._space.beliefs(rows))


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
        if len(x) < PAIRS or x.std() == 0:
            return float(min(worth.values()))
        slope = max(0.0, float(np.cov(x, y, bias=True)[0, 1] / x.var()))
        return float(y.mean() + slope * (score - x.mean()))

    return expected
