"""What choosing without a mask is worth: sweeps with `selection: proxy` on images without a single mask, and where
their winner stands among its sweep's trials by the true masks, which only this benchmark knows.

    python benchmarks/proxy.py [--repeats 10] [--trials 12] [--store DIR] [--json FILE]

Random points of the space of `scenes` on a small world; repeats share eight prefixes, so that the early stages are
computed once. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import points

from semples.config import Config, with_changes
from semples.data import load_data, png_archive, voc
from semples.data.dataset import Dataset
from semples.metrics import confusion, miou
from semples.pipeline.graph import training_masks
from semples.pipeline.run import run
from semples.store import Store
from tune.sweep_file import find_sweep_file, load_sweep

PREFIXES = 8
SCENES = {"data.train": 160, "data.holdout": 48, "data.test": 16}


def without_masks(data: Dataset, root: Path) -> dict[str, Any]:
    """Write the data set in VOC's layout, take its masks away, and return the data section that reads it."""
    voc.write(data, root)
    shutil.rmtree(root / "SegmentationClass")
    section = {"kind": "voc", "root": str(root), "holdout": len(data.holdout), "classes": list(data.classes)}
    return {f"data.{key}": value for key, value in section.items()}


def judged(config: Config, store: Store, ground_truth: dict[str, np.ndarray], classes: int) -> tuple[float, float]:
    """What the proxy says of a trial's pseudo masks, and their mIoU over the training images by the true masks."""
    stages = training_masks(config)
    result = run(config, store, lambda event: None, until=stages[-1])
    made = png_archive.Reader(*(result.folders[name] / png_archive.FILE for name in stages if name in result.folders))
    names = load_data(config.data, config.selection).train.names
    counts = sum((confusion(ground_truth[name], made.read(name), classes) for name in names), np.zeros(1, np.int64))
    return result.metrics["proxy/pseudo_miou"], miou(np.asarray(counts))


def main() -> None:
    """Run the sweeps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--store", type=Path, default=Path("runs/proxy-store"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sweep = load_sweep(find_sweep_file("scenes"), SCENES)
    space, drawn = sweep.distributions(), load_data(sweep.base_config().data)
    ground_truth = {
        name: mask
        for split in (drawn.train, drawn.holdout)
        for i, name in enumerate(split.names)
        if (mask := split.mask(i)) is not None
    }
    late = {key: d for key, d in space.items() if key.startswith("masks.")}
    of_early = points({key: d for key, d in space.items() if key not in late}, 0)
    prefixes = [next(of_early) for _ in range(PREFIXES)]
    ranks, winners, means, bests = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, Store(arguments.store) as store:
        blind = {**without_masks(drawn, Path(folder) / "blind"), "selection": "proxy"}
        base = with_changes(sweep.base_config(), {"data.kind": "voc", **blind}, "benchmark")
        for repeat in range(arguments.repeats):
            draw, of_late = np.random.default_rng(repeat), points(late, 1000 + repeat)
            trials = []
            for _ in range(arguments.trials):
                changes = {**prefixes[draw.integers(PREFIXES)], **next(of_late)}
                trials.append(judged(with_changes(base, changes, "trial"), store, ground_truth, drawn.num_classes))
            proxy, true = np.array(trials).T
            winner = true[proxy.argmax()]
            ranks.append(1 + int((true > winner).sum()))
            winners.append(winner)
            means.append(true.mean())
            bests.append(true.max())
            print(f"sweep {repeat}: winner {winner:.1f}, rank {ranks[-1]} of {len(true)}", flush=True)
    middle = (arguments.trials + 1) / 2
    print(f"\n| {arguments.repeats} sweeps of {arguments.trials} trials without masks | by proxy | at random | best |")
    print("|---|---|---|---|")
    print(f"| rank of the chosen trial, mean | {np.mean(ranks):.1f} | {middle:.1f} | 1 |")
    print(f"| its mIoU, mean | {np.mean(winners):.1f} | {np.mean(means):.1f} | {np.mean(bests):.1f} |")
    figures = {
        "rank": float(np.mean(ranks)),
        "rank_random": middle,
        "miou": float(np.mean(winners)),
        "miou_random": float(np.mean(means)),
        "miou_best": float(np.mean(bests)),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
