"""Where the milestones of a small run lie, over seeds: the bands of tests/promises/test_golden.py.

    python benchmarks/golden.py [--json tests/promises/golden.json] [--seeds 8]

Runs tests/promises/golden.yaml with each seed and gives mean and standard deviation of every mIoU. To be measured
anew, and looked at, when a change of the method is meant to change results. About four minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from semples.config import load
from semples.pipeline.run import run
from semples.store import Store

FILE = Path(__file__).parent.parent / "tests" / "promises" / "golden.yaml"


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
            metrics = run(load(FILE, {"seed": seed}), store, lambda event: None).metrics
        for name, value in metrics.items():
            if name.endswith("miou"):
                found[name].append(value)
        print(f"seed {seed}", {name: round(values[-1], 1) for name, values in found.items()}, flush=True)
    figures: dict[str, float] = {"seeds": arguments.seeds}
    for name, values in found.items():
        figures[f"mean/{name}"] = round(statistics.mean(values), 2)
        figures[f"sd/{name}"] = round(statistics.stdev(values), 2)
        print(f"{name:28} {figures[f'mean/{name}']:6.2f}  sd {figures[f'sd/{name}']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
