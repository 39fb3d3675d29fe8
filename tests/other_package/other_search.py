"""Parts of a search: a sampler, a stopping rule, an objective and a tracker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler

from tune.messages import Usage
from tune.objectives import Objective
from tune.stopping import Rule
from tune.sweep_file import Sweep


class Highest(RandomSampler):
    """Suggests the highest value of every range, moved down by `step` for each trial that there is."""

    def __init__(self, step: float):
        super().__init__(seed=0)
        self._step = step

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Of one key."""
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[-1]
        low, high, step = param_distribution.low, param_distribution.high, param_distribution.step
        return type(high)(max(low, high - (self._step if step in (None, 1) else step) * trial.number))


def highest(sweep: Sweep, seed: int, step: float = 1) -> BaseSampler:
    """The sampler that a sweep names `highest`."""
    return Highest(step)


def below(floor: float) -> Rule:
    """Stops every trial whose score is below `floor`."""
    return Rule(lambda score, others: score < floor, f"below {floor:g}")


def gain(weight: float = 1.0) -> Objective:
    """What the pseudo masks are better than the first CAMs, in percent."""

    def value(metrics: Mapping[str, float], usage: Usage) -> float:
        return weight * (metrics["pseudo_miou"] - metrics["classify/cam_miou"])

    return Objective("gain", "maximize", value, stage="masks")


class Lines:
    """A tracker that writes a line a call into the folder of the sweep."""

    def __init__(self, folder: Path, name: str = "calls.jsonl"):
        self._file = folder / name

    def start(self, key: str, name: str, parent: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._write("start", key, dict(tags))

    def add(self, key: str, parameters: Mapping[str, Any]) -> None:
        self._write("add", key, dict(parameters))

    def reopen(self, key: str) -> None:
        self._write("reopen", key)

    def log(self, key: str, points: Sequence[Mapping[str, float]], prefix: str = "", first_step: int = 1) -> None:
        self._write("log", key, [{f"{prefix}{name}": value for name, value in point.items()} for point in points])

    def attach(self, key: str, *files: Path) -> None:
        self._write("attach", key, [str(file) for file in files])

    def tag(self, key: str, **tags: str) -> None:
        self._write("tag", key, tags)

    def end(self, key: str, state: str, **tags: str) -> None:
        self._write("end", key, state)

    def _write(self, *call: Any) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(call) + "\n")


def failing(folder: Path) -> Lines:
    """A tracker whose every call raises."""
    return Lines(folder / "nowhere")


def broken(folder: Path) -> Lines:
    """A tracker that cannot be made."""
    raise RuntimeError("no account")
