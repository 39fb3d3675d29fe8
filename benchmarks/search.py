"""What the search saves: compute until a sweep comes within one point of the best configuration known, for several ways
to search, replayed on the measured table. The figures of "A search that knows what it costs" in the README.

    python benchmarks/search.py [--repeats 50] [--objective pseudo_miou] [--profile measured] [--json FILE]

Every repeat is a sweep with another seed of the sampler on 4 virtual workers; one that does not get there within 1,000
trials counts with the compute that these took, and a figure that rests on such ones is marked by ">". Then 1,000 trials
on 64 virtual workers, for the time of a suggestion and how busy the workers are. --plot FILE draws the shares over
compute. About a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tune.parts import HEADLINES
from tune.replay import PROFILES, Table, replay
from tune.sweep_file import Sweep

# sampler, early stopping, whether trials share their stages
STRATEGIES = {
    "random search": ("random", "none", False),
    "TPE": ("tpe", "none", False),
    "TPE with ASHA": ("tpe", "asha", False),
    "TPE with reuse": ("tpe", "none", True),
    "ours: cost-aware with reuse": ("cost-aware", "none", True),
}
OURS = "ours: cost-aware with reuse"
TRIALS = 1000
WORKERS = 4
WITHIN = 1.0  # points of mIoU


def sweep_of(table: Table, strategy: str, objective: str, seed: int, trials: int) -> Sweep:
    """The table's sweep under a strategy."""
    sampler, stopping, _ = STRATEGIES[strategy]
    changes = {
        "sampler": sampler,
        "early_stopping": stopping,
        "gate": 1,
        "objective": (objective,),
        "trials": trials,
        "seed": seed,
    }
    return table.sweep.changed(**changes)


def best_known(objective: str, profile: str, seed: int) -> float:
    """The best objective value of a long replay."""
    table = Table()
    ends = replay(sweep_of(table, OURS, objective, seed, 400), table, WORKERS, profile).ends
    return max(end.values[0] for end in ends if end.values)


def seconds_to(target: float, strategy: str, objective: str, profile: str, seed: int) -> tuple[float, bool]:
    """Compute seconds until a complete trial reaches the target, and whether one did."""
    table = Table()
    sweep = sweep_of(table, strategy, objective, seed, TRIALS)
    done = replay(
        sweep,
        table,
        WORKERS,
        profile,
        reuse=STRATEGIES[strategy][2],
        enough=lambda end: bool(end.values) and end.values[0] >= target,
    )
    last = done.ends[-1]
    return last.spent, bool(last.values) and last.values[0] >= target


def many_workers() -> tuple[float, float]:
    """Of 1,000 trials for seg_miou on 64 virtual workers: median milliseconds of a suggestion, share of busy time."""
    table = Table()
    done = replay(sweep_of(table, OURS, "seg_miou", 0, TRIALS), table, 64)
    return 1000 * float(np.median(done.suggestions)), done.busy


def draw(found: dict[str, np.ndarray], path: Path, caption: str) -> None:
    """Share of the repeats that are there, by compute. found: (repeats, 2), seconds and whether they got there."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for name, repeats in found.items():
        there = np.sort(repeats[repeats[:, 1] == 1, 0])
        shares = np.array([*range(len(there) + 1), len(there)]) / len(repeats)
        axes.step([100, *there, repeats[:, 0].max()], shares, where="post", label=name)
    axes.set(xscale="log", xlabel="compute seconds", ylabel="share of the repeats that are there", title=caption)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    """Replay, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--objective", choices=list(HEADLINES), default="pseudo_miou")
    parser.add_argument("--profile", choices=list(PROFILES), default="measured")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    objective, profile, repeats = arguments.objective, arguments.profile, arguments.repeats
    os.environ["OMP_NUM_THREADS"] = "1"
    medians = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        best = max(pool.map(best_known, [objective] * 4, [profile] * 4, range(1000, 1004)))
        print(f"best known: {objective} {best:.1f} on the holdout; target {best - WITHIN:.1f}", flush=True)
        found = {}
        for name in STRATEGIES:
            same = ([value] * repeats for value in (best - WITHIN, name, objective, profile))
            found[name] = np.array(list(pool.map(seconds_to, *same, range(repeats))))
            medians[name], there = float(np.median(found[name][:, 0])), found[name][:, 1].sum()
            print(f"{name}: {medians[name]:.0f} s, {there:.0f} of {repeats}", flush=True)
    milliseconds, busy = many_workers()
    print(f"\n| {repeats} repeats, {objective}, {profile} durations | compute, median | quartiles | got there |")
    print("|---|---|---|---|")
    for name, (seconds, there) in ((name, of.T) for name, of in found.items()):
        low, middle, high = (
            f"{'> ' if share / 100 > there.mean() else ''}{np.percentile(seconds, share):,.0f}"
            for share in (25, 50, 75)
        )
        print(f"| {name} | {middle} s | {low} - {high} | {there.sum():.0f} of {repeats} |")
    figures = {
        "tpe_over_ours": medians["TPE"] / medians[OURS],
        "random_over_ours": medians["random search"] / medians[OURS],
        "tpe_reuse_over_ours": medians["TPE with reuse"] / medians[OURS],
        "ours_reached": float(found[OURS][:, 1].mean()),
        "suggest_ms": milliseconds,
        "busy_share": busy,
    }
    print("\n" + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    if arguments.plot:
        draw(found, arguments.plot, f"within {WITHIN:g} point of the best {objective} known ({profile} durations)")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
