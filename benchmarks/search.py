"""What the search is worth: the figures of "A search that knows what it costs" in the README.

    python benchmarks/search.py [--only WORD ...] [--repeats 30] [--work runs/search] [--json FILE] [--plot FILE]

Sweeps by several searches are replayed on the landscapes (landscape.py), in virtual time, on one worker, for pseudo
masks, until they have spent as much as WHOLE trials that find nothing stored. Every repeat draws its own images that
choose, seeds its own sampler, and alternates between the two models of what was not measured. What is looked at is the
trial that would be taken, the best by the images that choose, and of it the mIoU on images that chose nothing.

ratio/NAME: over the landscapes, the geometric mean of the compute that the baseline takes to its own best mean over the
compute that ours takes to the same. best_baseline is the one with the least ratio of those that reuse stages as ours
does, compute_ratio its ratio with its 95% interval (bootstrap over repeats), ratio_no_reuse the least ratio of those
without reuse; worst_landscape the least of a single landscape, all baselines together. gain/NAME: reported points of
ours over the baseline after all compute, mean over the landscapes, with its interval. Every replay is kept in --work,
where the same command goes on. About six hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from answers import MODELS, Answers, sweep_of
from baselines import OURS, STRATEGIES
from figures import tell
from landscape import FOLDER
from matplotlib.figure import Figure

from tune.replay import replay

WHOLE = 12.0  # trials
GRID = np.arange(1.0, WHOLE + 1e-9, 0.05)  # compute, in whole trials
DRAWS = 2000  # of the bootstrap


def course(landscape: str, strategy: str, repeat: int) -> list[tuple[float, float, float]]:
    """Whenever another trial would be taken: compute in whole trials, its mIoU (%) on what chose and on the others."""
    how, model = STRATEGIES[strategy], MODELS[repeat % len(MODELS)]
    changes = {"objective": "pseudo_miou", "early_stopping": how.early_stopping, "trials": 10_000, "seed": repeat}
    sweep = sweep_of(landscape, changes)
    answers = Answers(landscape, sweep, model, repeat)
    seconds = answers.stage_seconds("measured")
    stages = {plan.stage for plan in answers.plan(sweep.default_parameters(), seconds, sweep.last_stage)}
    whole = sum(seconds[name] for name in stages)
    done = replay(
        sweep,
        answers,
        reuse=how.reuse,
        sampler=how.make(sweep, repeat),
        enough=lambda end: end.spent >= WHOLE * whole,
    )
    best, found = -np.inf, []
    trials = done.study.get_trials(deepcopy=False)
    for end in done.ends:
        if end.values and end.values[0] > best and end.spent <= WHOLE * whole:
            best = end.values[0]
            reported = trials[end.number].user_attrs["metrics"]["pseudo_miou"]
            found.append((round(end.spent / whole, 4), round(best, 3), round(reported, 3)))
    return found


def reported(of: list[tuple[float, float, float]]) -> np.ndarray:
    """The reported mIoU at every compute of GRID; of nothing yet, that of the first trial."""
    spent, _, values = np.array(of).T
    return values[np.maximum(np.searchsorted(spent, GRID, "right") - 1, 0)]


def ratio(baseline: np.ndarray, ours: np.ndarray) -> float:
    """Means over GRID -> the compute of the baseline to its own best over that of ours to the same; where ours does not
    get there, as if it did with the next step."""
    goal = baseline.max()
    there = np.flatnonzero(ours >= goal - 1e-9)
    taken = GRID[there[0]] if len(there) else GRID[-1] + GRID[1] - GRID[0]
    return float(GRID[int(baseline.argmax())] / taken)


def compare(curves: dict[str, dict[str, np.ndarray]], name: str, rng: np.random.Generator) -> dict[str, float]:
    """A baseline against ours. curves: by landscape and strategy, (repeats, GRID)."""

    def of(drawn: dict[str, np.ndarray] | None) -> tuple[list[float], float]:
        means = {
            landscape: {key: by[key][drawn[landscape] if drawn else slice(None)].mean(0) for key in (name, OURS)}
            for landscape, by in curves.items()
        }
        gains = [float(mean[OURS][-1] - mean[name][-1]) for mean in means.values()]
        return [ratio(mean[name], mean[OURS]) for mean in means.values()], float(np.mean(gains))

    ratios, gain = of(None)
    drawn = [
        of({landscape: rng.integers(len(by[OURS]), size=len(by[OURS])) for landscape, by in curves.items()})
        for _ in range(DRAWS)
    ]
    low, high = np.percentile([np.exp(np.mean(np.log(found))) for found, _ in drawn], [2.5, 97.5])
    gain_low, gain_high = np.percentile([found for _, found in drawn], [2.5, 97.5])
    return {
        "ratio": float(np.exp(np.mean(np.log(ratios)))), "ratio_low": float(low), "ratio_high": float(high),
        "ratio_worst": min(ratios), "gain": gain, "gain_low": float(gain_low), "gain_high": float(gain_high),
    }  # fmt: skip


def draw(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Means and their 95% intervals over compute, a panel a landscape."""
    figure = Figure(figsize=(5 * len(curves), 4))
    panels = np.atleast_1d(figure.subplots(1, len(curves), sharex=True))
    for axes, (landscape, by) in zip(panels, curves.items(), strict=True):
        for name, of in by.items():
            mean, half = of.mean(0), 1.96 * of.std(0, ddof=1) / np.sqrt(len(of))
            (line,) = axes.plot(GRID, mean, label=name, lw=2 if name == OURS else 1)
            axes.fill_between(GRID, mean - half, mean + half, color=line.get_color(), alpha=0.1, lw=0)
        axes.set(title=landscape, xlabel="compute, in whole trials")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mIoU (%) of the trial chosen by holdout, on other images")
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def done_before(file: Path) -> Iterator[tuple[tuple[str, str, int], Any]]:
    """Replays that an earlier call left."""
    for line in file.read_text().splitlines() if file.exists() else ():
        *which, found = json.loads(line)
        yield (which[0], which[1], which[2]), found


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="landscapes and strategies by name; default: all")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--work", type=Path, default=Path("runs/search"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    measured = sorted(path.parent.name for path in FOLDER.glob("*/images.npz"))
    landscapes = [name for name in measured if name in arguments.only] or measured
    strategies = [OURS, *(name for name in STRATEGIES if name in arguments.only and name != OURS)]
    strategies = strategies if len(strategies) > 1 else [*STRATEGIES]
    arguments.work.mkdir(parents=True, exist_ok=True)
    file = arguments.work / "replays.jsonl"
    known = dict(done_before(file))
    wanted = [(a, b, c) for c in range(arguments.repeats) for a in landscapes for b in strategies]
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(course, *which): which for which in wanted if which not in known}
        for number, future in enumerate(as_completed(waiting), 1):
            known[waiting[future]] = future.result()
            with file.open("a") as to:
                to.write(json.dumps([*waiting[future], future.result()]) + "\n")
            print(f"{number} of {len(waiting)}: {waiting[future]}, {future.result()[-1]}", flush=True)
    curves = {
        a: {b: np.array([reported(known[a, b, c]) for c in range(arguments.repeats)]) for b in strategies}
        for a in landscapes
    }
    rng = np.random.default_rng(0)
    figures: dict[str, float] = {"landscapes": len(landscapes), "repeats": arguments.repeats}
    print("\n| " + " | ".join(["mIoU (%) on other images", *landscapes, "ratio", "least", "gain of ours"]) + " |")
    print("|" + "---|" * (len(landscapes) + 4))
    found = {name: compare(curves, name, rng) for name in strategies if name != OURS}
    for name in strategies:
        cells = [f"{by[name][:, -1].mean():.1f} ({by[name][:, len(GRID) // 3].mean():.1f})" for by in curves.values()]
        if name != OURS:
            of = found[name]
            cells += [f"{of['ratio']:.2f} ({of['ratio_low']:.2f} - {of['ratio_high']:.2f})", f"{of['ratio_worst']:.2f}"]
            cells += [f"{of['gain']:+.1f} ({of['gain_low']:+.1f} to {of['gain_high']:+.1f})"]
            figures |= {f"{figure}/{name}": value for figure, value in of.items()}
        print(f"| {name} | " + " | ".join(cells) + " |")
    for reuse, label in ((True, "compute_ratio"), (False, "ratio_no_reuse")):
        if names := [name for name in found if STRATEGIES[name].reuse is reuse]:
            best = min(names, key=lambda name: found[name]["ratio"])
            print(f"{label}: against {best}")
            figures |= {label: found[best]["ratio"], f"{label}_low": found[best]["ratio_low"]}
    figures["worst_landscape"] = min(of["ratio_worst"] for of in found.values())
    tell(figures, arguments.json)
    if arguments.plot:
        draw(curves, arguments.plot)


if __name__ == "__main__":
    main()
