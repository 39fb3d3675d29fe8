"""How often a confirmation is right: winners that are named, of finalists that are better and of such that are not.

    python benchmarks/choice.py [--draws 4000] [--json FILE]

Runs are drawn: what a seed does to all configurations alike, and a deviation of each run. Three finalists and the
default are judged as `semples-tune confirm` judges them.

confirm_power: share of the draws with 5 seeds in which the finalist that is better by 1.5 standard deviations of a
difference between two runs is named the winner; confirm_power_two_sided: the same by separate two-sided t intervals of
paired differences with Bonferroni's correction, as version 0.1.0 did. confirm_false: share of the draws without a
better one in which a winner is named after 5, 10, 15 or 20 seeds. confirm_false_uneven: the same where one finalist's
runs deviate twice as much as the others'. About three minutes on one core.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from figures import tell

from semples.statistics import spread
from tune.verdict import DEFAULT, judge

FINALISTS, SEEDS, LOOKS, GAIN = 3, 5, 4, 1.5
NAMES = (DEFAULT, *(f"trial {number}" for number in range(1, FINALISTS + 1)))


def winner(runs: np.ndarray, look: int = 1) -> str:
    """runs: (configurations, seeds), the default's first."""
    return judge("m", {name: [(v, v) for v in of] for name, of in zip(NAMES, runs, strict=True)}, looks=look).winner


def ever(runs: np.ndarray) -> bool:
    """Whether a winner is named after 5 seeds, or 10, ..."""
    return any(winner(runs[:, : SEEDS * look], look) for look in range(1, LOOKS + 1))


def two_sided(runs: np.ndarray) -> bool:
    """Whether the first finalist wins as in version 0.1.0."""
    return spread((runs[1] - runs[0]).tolist(), 1 - 0.05 / FINALISTS).low > 0


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)

    def drawn(seeds: int, gain: float = 0.0, deviations: tuple[float, ...] = (1, 1, 1, 1)) -> np.ndarray:
        runs = rng.normal(0, np.array(deviations)[:, None], (1 + FINALISTS, seeds)) + rng.normal(0, 2, seeds)
        runs[1] += gain * math.sqrt(2)
        return runs

    better = [drawn(SEEDS, GAIN) for _ in range(arguments.draws)]
    alike = [drawn(SEEDS * LOOKS) for _ in range(arguments.draws)]
    uneven = [drawn(SEEDS * LOOKS, deviations=(1, 2, 1, 1)) for _ in range(arguments.draws)]
    figures = {
        "confirm_power": np.mean([winner(runs) == NAMES[1] for runs in better]),
        "confirm_power_two_sided": np.mean([two_sided(runs) for runs in better]),
        "confirm_false": np.mean([ever(runs) for runs in alike]),
        "confirm_false_uneven": np.mean([ever(runs) for runs in uneven]),
    }
    tell(figures, arguments.json)


if __name__ == "__main__":
    main()
