"""What a gate before the networks costs and saves: the figures of `gate` in the README.

    python benchmarks/gate.py [--draws 4000] [--json FILE]

Draws sweeps of 12, 24 and 36 trials, without repetition and in any order, from the configurations of the recorded
table (tune/replays/scenes.json) of which the network was trained, all measured, none interpolated. Each sweep runs
through the scheduler of a launch once without a gate and once with it: with the gate, a trial whose pseudo masks are
not among the best share so far, by the masks that choose, trains no network. The winner is the trial with the best
network on the masks that choose; what is compared is its mIoU on the test set, which chose nothing.

cost/N/SHARE: mIoU (%) of the winner with the gate less that without, mean over the draws, with its 95% interval;
saved/N/SHARE: share of the networks that were not trained; same/N/SHARE: how often the winner is the same trial.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import TrialScheduler

from semples.statistics import spread
from tune.messages import StageDone, encode
from tune.replay import TABLE, Table
from tune.scheduler import MilestoneStopping
from tune.stopping import Rule, rules

LENGTHS, SHARES = (12, 24, 36), (0.75, 0.5, 1 / 3, 0.25)
MASKS, NETWORK = "masks", "segment"


def passes(at: Mapping[str, Rule], trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the trials, the first of them the default, that train a network. at: the rule at every milestone."""
    scheduler = MilestoneStopping(at, {})
    through = []
    for number, row in enumerate(trials):
        done = encode(StageDone(MASKS, {}, (), 0.0, False, row["milestones"][MASKS][0]))
        if scheduler.on_trial_result(None, SimpleNamespace(config={"number": number}), done) == TrialScheduler.CONTINUE:
            through.append(row)
    return through


def winner(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """The best network on the masks that choose."""
    return max(trials, key=lambda row: row["milestones"][NETWORK][0])


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table(TABLE, {"objective": "seg_miou"})
    rows = [row for row in table.rows if NETWORK in row["milestones"]]
    random, figures = np.random.default_rng(0), {"networks": float(len(rows))}
    print(f"{len(rows)} configurations with a network; cost in mIoU (%), chosen by holdout")
    for length in LENGTHS:
        draws = [[rows[i] for i in random.permutation(len(rows))[:length]] for _ in range(arguments.draws)]
        for share in SHARES:
            at = rules(table.sweep.changed(gate=share))
            through = [passes(at, trials) for trials in draws]
            pairs = [(winner(few), winner(trials)) for few, trials in zip(through, draws, strict=True)]
            cost = spread([few["milestones"][NETWORK][1] - all_["milestones"][NETWORK][1] for few, all_ in pairs])
            name, saved = f"{length}/{share:.2f}", 1 - np.mean([len(few) / length for few in through])
            figures |= {
                f"cost/{name}": round(cost.mean, 3),
                f"cost_low/{name}": round(cost.low, 3),
                f"cost_high/{name}": round(cost.high, 3),
                f"saved/{name}": round(float(saved), 3),
                f"same/{name}": round(float(np.mean([few is all_ for few, all_ in pairs])), 3),
            }
            print(
                f"{length} trials, gate {share:.2f}: {cost.mean:+.2f} ({cost.low:+.2f} to {cost.high:+.2f}), "
                f"{saved:.0%} of the networks saved, the same winner in {figures[f'same/{name}']:.1%}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
