"""The default configuration on the embedded world over seeds: the table "What it does on scenes" of the README.

    python benchmarks/scenes.py [--seeds 3] [--store DIR] [--json FILE]

For each seed: a whole run, the same segmentation network trained on the true masks (the bound), and the background that
the learned prompts of each class are nearest to. All figures are of images that were never used to choose. About two
minutes a seed on one core; finished stages are kept in --store.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from semples.clip import load_clip
from semples.config import load as load_config
from semples.config import with_changes
from semples.data import load_data, scenes
from semples.pipeline import run
from semples.stages.prompts import load_prompts
from semples.stages.segment import train_on
from semples.store import Store
from semples.training import prepare, seed_stream

STEPS = {
    "classify_cam": ("CAM after classify", "classify/cam_miou"),
    "match_cam": ("CAM after match", "match/cam_miou"),
    "refine_cam": ("CAM after refine", "refine/cam_miou"),
    "heatmaps": ("heatmaps, all scales and flip", "heatmaps/cam_miou"),
    "masks": ("pseudo masks (background 0.5, CRF)", "pseudo_miou"),
    "segment": ("segmentation network, test set", "seg_miou"),
}


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmark-store"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {
        name: [] for name in (*STEPS, "segment_true_masks", "right_companions", "seconds")
    }
    for seed in range(arguments.seeds):
        config = with_changes(load_config(None), {"seed": seed}, "benchmark")
        start = time.perf_counter()
        result = run(config, Store(arguments.store), lambda event: None)
        config, data = result.config, load_data(result.config.data)
        for name, (_, metric) in STEPS.items():
            figures[name].append(result.metrics[metric])
        figures["seconds"].append(sum(result.seconds.values()))

        prepare(config.runtime)
        seed_stream(seed, "segment")
        _, bound = train_on(data.train.mask, config, data, lambda epoch, epochs, **values: None)
        figures["segment_true_masks"].append(bound["seg_miou"])

        clip = load_clip(config.clip)
        with torch.no_grad():
            u = clip.embed_prompts(load_prompts(result.folders["prompts"])).mean(1)
        nearest = clip.nearest_names(u, scenes.GROUNDS)
        right = [name == scenes.COMPANIONS[c] for name, c in zip(nearest, data.classes, strict=True)]
        figures["right_companions"].append(float(sum(right)))
        took = time.perf_counter() - start
        pairs = ", ".join(f"{c}: {name}" for c, name in zip(data.classes, nearest, strict=True))
        print(f"seed {seed} ({took:.0f} s)  prompts nearest to  {pairs}", file=sys.stderr, flush=True)

    print(f"| mIoU in points, {arguments.seeds} seeds | mean | spread (min - max) |\n|---|---|---|")
    labels = {name: label for name, (label, _) in STEPS.items()}
    labels["segment_true_masks"] = "the same network trained on true masks"
    for name, label in labels.items():
        values = figures[name]
        print(f"| {label} | {statistics.mean(values):.1f} | {min(values):.1f} - {max(values):.1f} |")
    right_text = ", ".join(f"{n:.0f}" for n in figures["right_companions"])
    print(f"\nclasses whose prompts are nearest to their companion, of {len(scenes.CLASSES)}: {right_text}")
    print(f"seconds a run on one core: {statistics.mean(figures['seconds']):.0f}")
    if arguments.json:
        flat = {name: statistics.mean(values) for name, values in figures.items()}
        flat |= {f"{name}_min": min(values) for name, values in figures.items()}
        flat |= {f"{name}_max": max(values) for name, values in figures.items()}
        flat["match_minus_classify"] = flat["match_cam"] - flat["classify_cam"]
        arguments.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
