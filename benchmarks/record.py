"""Measure the table that tune.replay replays: configurations of a small `scenes`, 48 settings of the early
stages with six settings of the masks on each.

    python benchmarks/record.py [--store runs/replay-store] [--table tune/replays/scenes.json] [--prefixes 48]

Every stage is computed once and stored, so the same command goes on where it was stopped. One thread each; about one
and a half hours on one core.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution

from semples.ablation import generator_of
from semples.config import with_changes
from semples.pipeline.graph import STAGES, reporting
from semples.pipeline.run import run
from semples.stages.heatmaps import reported_cam_miou
from semples.store import Store
from tune.replay import Table
from tune.sweep_file import Sweep, find_sweep_file, load_sweep

BASE = {"data.train": 200, "data.holdout": 64, "data.test": 64, "segment.epochs": 30}
LEVELS = 16  # of match.lambda_b, so that prefixes share their match
LATE = 6  # settings of the masks on each prefix
NETWORKS = 1  # how many of them train a network
LATE_KEYS = ("masks.",)


def points(space: dict[str, BaseDistribution], seed: int) -> Iterator[dict[str, Any]]:
    """A scrambled Sobol sequence over the space."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=seed, scramble=True))
    study.add_trial(
        optuna.trial.create_trial(
            params={key: d.to_external_repr(d.low) for key, d in space.items()},  # type: ignore[attr-defined]
            distributions=space,
            value=0.0,
        )
    )  # the sampler wants one trial that tells it the space
    while True:
        trial = study.ask(space)
        study.tell(trial, 0.0)
        yield trial.params


def configurations(sweep: Sweep, prefixes: int) -> list[tuple[dict[str, Any], str]]:
    """Parameters and the last stage to compute; the first are the default's."""
    space = sweep.distributions()
    late = {key: d for key, d in space.items() if key.startswith(LATE_KEYS)}
    early = {key: d for key, d in space.items() if key not in late}
    weight: Any = early["match.lambda_b"]
    early["match.lambda_b"] = IntDistribution(0, LEVELS - 1)
    of_late = points(late, 1)
    result = []
    for i, prefix in zip(range(prefixes), points(early, 0), strict=False):
        share = prefix["match.lambda_b"] / (LEVELS - 1)
        level = weight.low * (weight.high / weight.low) ** share
        default = sweep.default_parameters()
        own = {key: default[key] for key in early} if i == 0 else {**prefix, "match.lambda_b": level}
        for j in range(LATE):
            there = {key: default[key] for key in late} if j == 0 and i % 2 == 0 else next(of_late)
            result.append(({**own, **there}, "segment" if j < NETWORKS else "masks"))
    return result


def measure(sweep: Sweep, store: Path, parameters: dict[str, Any], until: str) -> dict[str, Any]:
    """A row of the table: by stage the milestone's mIoU [holdout, reported] and the compute seconds."""
    config = with_changes(sweep.base_config(), parameters, "record")
    with Store(store) as results:
        result = run(config, results, lambda event: None, until=reporting(config, until) or until)
    milestones = {}
    for name in result.seconds:
        if name in STAGES and (metric := STAGES[name].milestone):
            prefix = "" if STAGES[name].headline else f"{name}/"
            reported = result.metrics.get(f"{prefix}{metric}")
            if reported is None:  # a run does not report the CAMs of its generators
                reported = reported_cam_miou(generator_of(result, name), result.config, result.data)
            milestones[name] = [round(value, 3) for value in (result.metrics[f"{prefix}holdout/{metric}"], reported)]
    seconds = {name: round(value, 2) for name, value in result.seconds.items()}
    return {"parameters": parameters, "milestones": milestones, "seconds": seconds}


def main() -> None:
    """Compute what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("tune/replays/scenes.json"))
    parser.add_argument("--store", type=Path, default=Path("runs/replay-store"))
    parser.add_argument("--prefixes", type=int, default=48)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sweep = load_sweep(find_sweep_file("scenes"), BASE)
    wanted = configurations(sweep, arguments.prefixes)
    rows = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(measure, sweep, arguments.store, *one) for one in wanted]
        for i, future in enumerate(futures, 1):
            rows.append(future.result())
            print(f"{i} of {len(wanted)}: {rows[-1]['milestones']}", flush=True)
    written = [json.dumps(row) for row in rows]

    def write(**head: Any) -> None:
        text = json.dumps({"sweep": "scenes", "base": BASE, **head}).removesuffix("}")
        arguments.table.write_text(text + ', "rows": [\n' + ",\n".join(written) + "\n]}\n")

    write()
    write(surrogate=Table(arguments.table).scales)


if __name__ == "__main__":
    main()
