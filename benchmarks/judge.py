"""What it costs to judge a trial that changes the pseudo masks alone: the images that judge, or all of them.

    python benchmarks/judge.py [--images 2000] [--judges 100] [--trials 24] [--whole 1] [--json FILE]

Drawn images of 500 x 375, of which some judge and, as on VOC, an eighth of the others have a true mask. Every trial has
a background score and CRF weights of its own, and makes heatmaps and masks of what judges; at the end the five best are
measured on the reported images. As version 0.1.0 had it, every trial made them of all images: that is done for --whole
of the trials, from their own store, and taken to cost the same for the others. CPU seconds of one process.

compute_ratio: what all trials cost as 0.1.0 had it, over what they cost now, with what the five best report.
judging_ratio: the same without that. equal_scores: share of the whole trials whose score is the same bit for bit.
About three quarters of an hour on one core.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from figures import tell
from sizes import ONE_EPOCH, draw_folder

from semples.config import Config, load, with_changes
from semples.pipeline.graph import reporting, training_masks
from semples.pipeline.run import Result, run
from semples.store import Store

BEST = 5
MASKED = 8  # one in so many of the images that do not judge has a true mask
QUICK = {**ONE_EPOCH, "augment.size": 64, "prompts.length": 8, "heatmaps.scales": [1.0], "runtime.threads": 1}


def timed(config: Config, place: Path, until: str) -> tuple[Result, float]:
    """A run up to a stage, and its CPU seconds."""
    with Store(place) as store:
        start = time.process_time()
        result = run(config, store, lambda event: None, until=until)
        return result, time.process_time() - start


def main() -> None:
    """Run the trials and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--judges", type=int, default=100)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--whole", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        masked = arguments.judges + (arguments.images - arguments.judges) // MASKED
        draw_folder(root / "data", arguments.images, test=2, h=375, w=500, annotated=masked, classes=8)
        data = {"data.kind": "folder", "data.root": str(root / "data"), "data.holdout": arguments.judges}
        base = load(None, {**QUICK, **data, "runtime.device": "cpu"})
        timed(base, root / "early", "refine")  # which all trials share
        shutil.copytree(root / "early", root / "whole")

        def changes() -> dict[str, Any]:
            ranges = {"background": (0.3, 0.7), "crf.gaussian_compat": (0, 10), "crf.bilateral_compat": (0, 10)}
            return {f"masks.{key}": float(rng.uniform(*ends)) for key, ends in ranges.items()}

        trials = [with_changes(base, changes(), "trial") for _ in range(arguments.trials)]
        scores, judging, whole, equal = [], 0.0, [], []
        for number, config in enumerate(trials):
            result, seconds = timed(config, root / "early", "masks")
            scores.append(result.metrics["holdout/pseudo_miou"])
            judging += seconds
            print(f"trial {number}: {scores[-1]:.2f} on the holdout, {seconds:.0f} s", flush=True)
        reported = 0.0
        for number in np.argsort(scores)[::-1][:BEST]:
            result, seconds = timed(trials[number], root / "early", reporting(base, "masks") or "masks")
            reported += seconds
            print(f"trial {number}: {result.metrics['pseudo_miou']:.2f} reported, {seconds:.0f} s", flush=True)
        for number, config in enumerate(trials[: arguments.whole]):
            result, seconds = timed(config, root / "whole", training_masks(config)[-1])
            whole.append(seconds)
            equal.append(result.metrics["holdout/pseudo_miou"] == scores[number])
            print(f"trial {number}: all images, {seconds:.0f} s", flush=True)
    # the heatmaps, which all trials share, are made by the first
    before = whole[0] + float(np.mean(whole[1:] or whole)) * (arguments.trials - 1)
    figures = {
        "trials": arguments.trials, "images": arguments.images, "judges": arguments.judges,
        "judging_s": judging, "reporting_s": reported, "as_0_1_0_s": before,
        "judging_ratio": before / judging, "compute_ratio": before / (judging + reported),
        "equal_scores": float(np.mean(equal)),
    }  # fmt: skip
    tell(figures, arguments.json)


if __name__ == "__main__":
    main()
