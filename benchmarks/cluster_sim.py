"""How long a sweep takes on a cluster, in virtual time: stages as tasks that judge first, against version 0.1.0.

    python benchmarks/cluster_sim.py [--trials 64] [--gpus 8] [--cores 16] [--seeds 3] [--profile NAME] [--json FILE]

The real searcher and scheduler, on a replay's table (tune/replay.py) with the seconds of a VOC profile. Now: each stage
is a task that has a GPU and 8 CPUs, or one CPU a part where it uses none, while it is computed. As version 0.1.0 had
it: a trial has a GPU and 8 CPUs from its beginning to its end, makes heatmaps and masks of all 10,582 training images
before it is judged, with 8 processes for the masks, and its network's test-time CRF runs on one core. Both share stored
stages, have the same sampler and seeds, and as many trials.

makespan_ratio_pseudo, _seg: hours as 0.1.0 over hours now, mean over the seeds, by objective. makespan_ratio_gate: the
same for seg_miou where the gate lets the better half of the trials train a network. gpu_busy_*: share of the time that
GPUs were held, until no trial was left to begin; *_after_first: without the time in which all wait for the stage that
every trial shares. All seconds are the profile's, which says what was measured and what was estimated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from figures import tell

from tune.environment import quiet
from tune.replay import MASK, PROFILES, TABLE, VOC_IMAGES, Replay, StagePlan, Table, replay
from tune.values import Resources
from tune.virtual import Machines

RESOURCES = Resources(cpu=8, gpu=1)


class As010(Table):
    """The graph of 0.1.0: heatmaps and masks of all training images before a trial is judged."""

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        """The stages of a trial up to `last`, with those of all images in the place of those that judge."""
        images = sum(VOC_IMAGES.values())
        whole = {
            **seconds,
            "heatmaps": seconds["heatmaps"] / VOC_IMAGES[""] * images,
            "masks": images * MASK / RESOURCES.cpu,
        }
        return [plan for plan in super().plan(parameters, whole, last) if "_" not in plan.stage]


def table_of(kind: type[Table], objective: str, trials: int, seed: int, gate: float = 1.0) -> Table:
    """A table with the sweep's settings."""
    changes = {"objective": objective, "trials": trials, "seed": seed, "gate": gate, "parallel": 0}
    return kind(TABLE, {**changes, "early_stopping": "none"})


def main() -> None:
    """Replay and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--cores", type=int, default=16, help="of each GPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--profile", default="voc-h100", choices=[name for name in PROFILES if name != "measured"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    def before(objective: str, seed: int) -> Replay:
        table = table_of(As010, objective, arguments.trials, seed)
        return replay(table.sweep, table, arguments.gpus, arguments.profile)

    def now(objective: str, seed: int, gate: float = 1.0) -> tuple[Replay, Machines]:
        table = table_of(Table, objective, arguments.trials, seed, gate)
        sweep = table.sweep.changed(resources=RESOURCES.model_dump())
        machines = Machines(arguments.gpus, arguments.gpus * arguments.cores, RESOURCES)
        return replay(sweep, table, profile=arguments.profile, machines=machines), machines

    figures: dict[str, float] = {"trials": arguments.trials, "gpus": arguments.gpus, "cores": arguments.cores}
    with quiet():
        for name, objective, gate in (
            ("pseudo", "pseudo_miou", 1.0),
            ("seg", "seg_miou", 1.0),
            ("gate", "seg_miou", 0.5),
        ):
            hours, ratios, busy = [], [], []
            for seed in range(arguments.seeds):
                old, (new, machines) = before(objective, seed), now(objective, seed, gate)
                ends = [of.ends[-1].clock / 3600 for of in (old, new)]
                hours.append(ends)
                ratios.append(ends[0] / ends[1])
                first = min(end for _, end in new.computing)
                busy.append([machines.busy(since, new.begun) for since in (0.0, first)])
                print(
                    f"{name}, seed {seed}: {ends[0]:.2f} h as 0.1.0, {ends[1]:.2f} h now, GPUs {busy[-1][0]:.0%} busy"
                )
            figures |= {f"hours_{name}_as_0_1_0": np.mean(hours, 0)[0], f"hours_{name}": np.mean(hours, 0)[1]}
            figures |= {f"makespan_ratio_{name}": float(np.mean(ratios)), f"gpu_busy_{name}": np.mean(busy, 0)[0]}
            figures[f"gpu_busy_{name}_after_first"] = np.mean(busy, 0)[1]
    tell(figures, arguments.json)


if __name__ == "__main__":
    main()
