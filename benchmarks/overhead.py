"""What a trial spends on anything that is not a stage: to be suggested, started, recorded, and to write its folder.

    python benchmarks/overhead.py [--trials 60] [--json FILE]

A real sweep under Ray on small scenes, one trial at a time, that searches the background score: every trial finds its
early stages stored, and makes masks and its folder. Seconds of the clock from the end of one trial to the end of the
next, less those that its stages took.

overhead_s: the median over the trials but the first, for which processes start. overhead_share: what share of a trial
of 20 s that is. p90_s: nine trials of ten took at most so much. reference_s: ten million additions in a loop of Python,
before the sweep, to know how fast the machine is: 0.6 s where the README's figures were measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import tell

from tune.driver import launch
from tune.environment import quiet
from tune.messages import Ended, Event, StageDone
from tune.sweep_file import make_sweep

SMALL = {
    "data": {"train": 40, "holdout": 16, "test": 8}, "heatmaps": {"scales": [1.0]}, "prompts": {"length": 8},
    **{f"{stage}.epochs": 1 for stage in ("classify", "match", "prompts", "refine")},
}  # fmt: skip
TRIAL = 20.0  # seconds


def reference() -> float:
    """Seconds of ten million additions."""
    start, total = time.perf_counter(), 0
    for number in range(10**7):
        total += number
    return time.perf_counter() - start


def main() -> None:
    """Run the sweep and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sweep = make_sweep(
        {
            "name": "overhead", "selection": "holdout", "objective": "pseudo_miou", "trials": arguments.trials + 1,
            "parallel": 1, "sampler": "random", "report": "leaders", "base": SMALL,
            "space": {"masks.background": {"float": [0.3, 0.7]}},
        }
    )  # fmt: skip
    computed: dict[int, float] = {}
    ends: list[tuple[float, float]] = []  # when a trial ended, and seconds of the stages that it computed

    def note(number: int, event: Event) -> None:
        if isinstance(event, StageDone) and not event.reused:
            computed[number] = computed.get(number, 0.0) + event.seconds
        elif isinstance(event, Ended):
            ends.append((time.perf_counter(), computed.get(number, 0.0)))
            print(f"trial {number}: {event.state}", flush=True)

    speed = reference()
    with tempfile.TemporaryDirectory() as folder, quiet():
        launch(sweep, Path(folder), None, note)
    times = np.array(ends)
    overhead = np.diff(times[:, 0]) - times[1:, 1]
    seconds = float(np.median(overhead))
    figures = {
        "trials": len(overhead), "overhead_s": seconds, "overhead_share": seconds / TRIAL,
        "p90_s": float(np.quantile(overhead, 0.9)), "reference_s": speed,
    }  # fmt: skip
    tell(figures, arguments.json)


if __name__ == "__main__":
    main()
