"""What every step of the method adds on the built-in world: the tables "What it does on scenes" of the README.

    python benchmarks/scenes.py [--seeds 5] [--store DIR] [--json FILE] [PRESET ...]

For each preset (default: scenes, which is the default configuration, and scenes-weaktr): the
ablation of `semples ablate`, and the background that each class's learned prompts are nearest to. All figures are of
images that were never used to choose. Finished stages are kept in --store. In the JSON file the figures of scenes
have the names that `semples ablate --json` gives them, those of another preset are preceded by its name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from semples import ablation
from semples.clip import load_clip
from semples.config import Config, find_config, load, with_changes
from semples.data import scenes
from semples.pipeline.run import run
from semples.stages.prompts import load_prompts
from semples.store import Store

PRESETS = ("scenes", "scenes-weaktr")


def companions(config: Config, store: Store) -> list[str]:
    """The background that is nearest to the prompts of each class, their mean where a class has several."""
    clip = load_clip(config.clip)
    result = run(config, store, lambda event: None, until="prompts")
    with torch.no_grad():
        u = clip.embed_prompts(load_prompts(result.folders["prompts"])).mean(1)
    return clip.nearest_names(u, scenes.GROUNDS)


def main() -> None:
    """Run the ablations and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS, metavar="PRESET")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=Path("runs/benchmark-store"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    store, flat = Store(arguments.store), {}
    for preset in arguments.presets:
        config = load(find_config(preset))
        start = time.perf_counter()
        values = ablation.ablate(config, range(arguments.seeds), store, lambda seed, event: None)
        figures = ablation.figures(values)
        print(f"\n{preset}\n\n{ablation.table(values, config.selection)}\n")
        right = []
        for seed in range(arguments.seeds):
            nearest = companions(with_changes(config, {"seed": seed}, "benchmark"), store)
            right.append(sum(n == scenes.COMPANIONS[c] for n, c in zip(nearest, scenes.CLASSES, strict=True)))
        print(f"classes whose prompts are nearest to their companion, of {len(scenes.CLASSES)}: {right}")
        figures["right_companions_min"] = min(right)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        flat |= {name if preset == PRESETS[0] else f"{preset}/{name}": value for name, value in figures.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
