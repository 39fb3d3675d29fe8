"""The search on real trials at equal compute: random search and TPE without reuse against ours, every stage computed.
See "A search that knows what it costs" in the README.

    python benchmarks/real.py [--repeats 3] [--budget 700] [--store DIR] [--processes 1] [--json FILE]

Sweeps of `scenes` for pseudo_miou on a small world, one virtual worker each. All read one store, so that no stage is
computed twice, but every sweep is charged the recorded seconds of the stages that it would have had to compute by
itself: without reuse all of every trial. The same command goes on where it was stopped. Nearly two hours on one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from record import measure

from tune.needs import affecting
from tune.replay import StagePlan, replay
from tune.sweep_file import find_sweep_file, load_sweep

OURS = "ours: cost-aware with reuse"
# sampler, early stopping, whether trials share their stages
STRATEGIES = {
    "random search": ("random", "none", False),
    "TPE": ("tpe", "none", False),
    OURS: ("cost-aware", "none", True),
}
SCENES = {"data.train": 100, "data.holdout": 200, "data.test": 32}


class Computed:
    """Answers a replay with trials that are really run."""

    def __init__(self, store: Path, changes: dict[str, Any]):
        self.sweep, self._store = load_sweep(find_sweep_file("scenes"), {**SCENES, **changes}), store

    def stage_seconds(self, profile: str) -> dict[str, float]:
        """None are known before."""
        return {}

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        """Run the trial; its stages."""
        row = measure(self.sweep, self._store, parameters, last)
        return [
            StagePlan(
                name,
                repr([parameters[key] for key in keys]).encode(),
                row["seconds"][name],
                row["milestones"].get(name),
            )
            for name, keys in affecting(self.sweep).items()
        ]


def best_within(strategy: str, budget: float, store: Path, seed: int) -> tuple[float, float, int]:
    """Of the best trial that ended within the budget: its objective and its mIoU on other images; how many ended."""
    sampler, stopping, reuse = STRATEGIES[strategy]
    fixed = {"sampler": sampler, "early_stopping": stopping, "objective": "pseudo_miou", "seed": seed}
    computed = Computed(store, {**fixed, "budget": budget, "trials": None})
    done = replay(computed.sweep, computed, reuse=reuse)
    within = [end for end in done.ends if end.values and end.spent <= budget]
    best = max(within, key=lambda end: end.values[0])
    reported = done.study.get_trials(deepcopy=False)[best.number].user_attrs["metrics"]["pseudo_miou"]
    print(f"{strategy}, seed {seed}: {best.values[0]:.1f} ({reported:.1f}), {len(within)} trials", flush=True)
    return best.values[0], reported, len(within)


def main() -> None:
    """Run the sweeps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=700.0, help="compute seconds of a sweep")
    parser.add_argument("--store", type=Path, default=Path("runs/real-store"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    wanted = [(name, seed) for seed in range(arguments.repeats) for name in STRATEGIES]
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {
            one: pool.submit(best_within, one[0], arguments.budget, arguments.store.resolve(), one[1]) for one in wanted
        }
        found = {one: future.result() for one, future in waiting.items()}
    figures: dict[str, float] = {}
    print(f"\n| {arguments.budget:.0f} compute seconds, {arguments.repeats} repeats | best on the holdout | ", end="")
    print("the same trials on other images | trials |\n|---|---|---|---|")
    for name in STRATEGIES:
        chosen, reported, trials = np.array([found[name, seed] for seed in range(arguments.repeats)]).T
        spread = f"{chosen.mean():.1f} ({chosen.min():.1f} - {chosen.max():.1f})"
        print(f"| {name} | {spread} | {reported.mean():.1f} | {trials.mean():.0f} |")
        figures |= {f"{STRATEGIES[name][0]}_holdout": chosen.mean(), f"{STRATEGIES[name][0]}_miou": reported.mean()}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
