"""What the store saves: trials that differ in late parameters only, without it and with it. The figures of "Every
stage once" in the README.

    python benchmarks/reuse.py [--trials 24] [--json FILE] [key=value ...]

Trials on scenes that differ in background score and CRF strength, up to the pseudo masks: each with an empty store of
its own, then all with one store. Compares their seconds and, bit for bit, their metrics. overhead: the seconds of a
cold run beyond those of its stages, in percent. A quarter of the images of `scenes`, so that it takes a quarter of an
hour: of longer stages the store saves more and its overhead is a smaller share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

from semples.config import Config, assignments, load, with_changes
from semples.data import load_data
from semples.pipeline.run import Result, run
from semples.store import Store

SMALL: dict[str, object] = {"data.train": 120, "data.holdout": 16, "data.test": 32}


def trial(config: Config, folder: Path) -> tuple[Result, float]:
    """The run of one trial up to its pseudo masks, and its wall seconds."""
    start = time.perf_counter()
    with Store(folder) as store:
        result = run(config, store, lambda event: None, until="masks")
    return result, time.perf_counter() - start


def main() -> None:
    """Run the trials twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    base = load(None, SMALL | assignments(arguments.changes))
    load_data(base.data)  # drawn once, before anything is timed
    late = itertools.product((0.3, 0.4, 0.5, 0.6), (0.0, 1.0, 3.0, 10.0), (3.0, 0.0))
    configs = [
        with_changes(
            base,
            {"masks.background": b, "masks.crf.bilateral_compat": c, "masks.crf.gaussian_compat": g},
            "benchmark",
        )
        for b, c, g in itertools.islice(late, arguments.trials)
    ]
    off, on = [], []
    for number, config in enumerate(configs, 1):
        with tempfile.TemporaryDirectory() as folder:
            off.append(trial(config, Path(folder)))
        print(f"store off: trial {number} of {len(configs)}, {off[-1][1]:.1f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        on = [trial(config, Path(folder)) for config in configs]
    wall_off, wall_on = sum(seconds for _, seconds in off), sum(seconds for _, seconds in on)
    stages = sum(sum(result.seconds.values()) for result, _ in off)
    figures = {
        "trials": float(len(configs)),
        "seconds_off": wall_off,
        "seconds_on": wall_on,
        "compute_ratio": wall_off / wall_on,
        "metrics_equal": float([result.metrics for result, _ in off] == [result.metrics for result, _ in on]),
        "overhead_percent": 100 * (wall_off - stages) / wall_off,
    }
    print("\n| store | compute, seconds | metrics |\n|---|---|---|")
    equal = "the same bits" if figures["metrics_equal"] else "DIFFERENT"
    print(f"| off: {len(configs)} runs | {wall_off:.0f} | |\n| on, one store | {wall_on:.0f} | {equal} |")
    print(f"\n{figures['compute_ratio']:.1f} times less; overhead of the store {figures['overhead_percent']:.2f}%")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
