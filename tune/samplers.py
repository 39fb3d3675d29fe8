"""Who suggests. Another package adds a sampler by an entry point of the group `tune.samplers`: a callable
`(sweep, seed, **settings) -> optuna.samplers.BaseSampler`, found by the name that `sampler` gives."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from tune.parts import SAMPLER, create
from tune.sweep_file import Sweep

STARTUP_TRIALS = 6  # random ones before a sampler of Optuna trusts its model


def create_sampler(sweep: Sweep, seed: int) -> BaseSampler:
    """The sampler that the sweep names. Raises UserError where there is none, or for settings that it does not take."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: BaseSampler = create(SAMPLER, sweep.sampler, sweep, seed)
    return sampler


def tpe(sweep: Sweep, seed: int, n_startup_trials: int = STARTUP_TRIALS, **settings: Any) -> BaseSampler:
    """Optuna's TPESampler."""
    conditional = any(dimension.when for dimension in sweep.space.values())
    given = {"multivariate": True, "group": conditional, "constant_liar": True, **settings}
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_startup_trials, **given)


def gp(sweep: Sweep, seed: int, n_startup_trials: int = STARTUP_TRIALS, **settings: Any) -> BaseSampler:
    """Optuna's GPSampler."""
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_startup_trials, **settings)


def nsga2(sweep: Sweep, seed: int, **settings: Any) -> BaseSampler:
    """Optuna's NSGAIISampler."""
    return optuna.samplers.NSGAIISampler(seed=seed, **settings)


def nsga3(sweep: Sweep, seed: int, **settings: Any) -> BaseSampler:
    """Optuna's NSGAIIISampler."""
    return optuna.samplers.NSGAIIISampler(seed=seed, **settings)


def cmaes(sweep: Sweep, seed: int, n_startup_trials: int = STARTUP_TRIALS, **settings: Any) -> BaseSampler:
    """Optuna's CmaEsSampler."""
    return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=n_startup_trials, **settings)


def random(sweep: Sweep, seed: int) -> BaseSampler:
    """Optuna's RandomSampler."""
    return optuna.samplers.RandomSampler(seed=seed)


def sobol(sweep: Sweep, seed: int, scramble: bool = True, **settings: Any) -> BaseSampler:
    """Optuna's QMCSampler."""
    return optuna.samplers.QMCSampler(seed=seed, scramble=scramble, **settings)


def grid(sweep: Sweep, seed: int) -> BaseSampler:
    """Never asked: the points of a grid are given to the study before."""
    return optuna.samplers.RandomSampler(seed=seed)
