"""Memory, time and disk at the sizes of real data: what "Sizes" in the README rests on.

    python benchmarks/sizes.py [--only paper|many] [--images 2000] [--json FILE]

paper: the networks of the paper (WeakTr on DeiT-S, CLIP ViT-B/32, DeepLabV3+ on ResNet-101) with random weights run the
whole method on 8 drawn images of 224 x 224, one epoch a stage.
many: the small networks of the scenes run the whole method on drawn photographs of 500 x 375, one epoch a stage, a
quarter of the images first and then all: memory must not grow with their number. One iteration of the dense CRF instead
of ten, which costs time and not memory.

Each run is a process of its own, whose peak memory is measured with all its children. CPU only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from semples.config import PRESETS, load
from semples.data import scenes
from semples.data.png_archive import encode_mask
from semples.pipeline.run import run
from semples.store import Store

STAGES = ("classify", "match", "prompts", "refine", "segment")
ONE_EPOCH = {f"{stage}.{key}": value for stage in STAGES for key, value in (("epochs", 1), ("warmup", 0))}
SMALL = 30  # images with masks that choose, and as many that test


def draw_folder(root: Path, images: int, test: int, h: int, w: int, annotated: int, classes: int) -> None:
    """Write drawn scenes of h x w pixels as a plain folder of JPEG images; the first `annotated` and the test images
    have masks."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["image,labels,split"]
    rng = np.random.default_rng(0)
    for i in range(images + test):
        name = scenes.CLASSES[i % classes]
        image, mask = scenes.draw_scene(rng, [name], [scenes.COMPANIONS[name]], h, w)
        Image.fromarray(image).save(root / "images" / f"{i:06d}.jpg", quality=90)
        if i < annotated or i >= images:
            encode_mask(mask).save(root / "masks" / f"{i:06d}.png")
        lines.append(f"{i:06d},{name},{'test' if i >= images else 'train'}")
    (root / "labels.csv").write_text("\n".join(lines))
    (root / "classes.txt").write_text("\n".join(scenes.CLASSES[:classes]))


def paper(folder: Path) -> dict[str, Any]:
    """8 training images, and the least that chooses and tests."""
    draw_folder(folder / "data", images=10, test=2, h=224, w=224, annotated=10, classes=3)
    tree = yaml.safe_load((PRESETS / "voc.yaml").read_text())
    tree["data"] = {"kind": "folder", "root": str(folder / "data"), "holdout": 2}
    changes = {
        **ONE_EPOCH,
        **{"clip.pretrained": "", "generator.pretrained": False, "segment.pretrained": False, "segment.size": 224},
        **{"classify.warmup": 0, "classify.batch": 8, "match.batch": 8, "prompts.batch": 8, "refine.batch": 8},
        **{"segment.batch": 8, "runtime.workers": 0, "runtime.threads": 2, "runtime.precision": "float32"},
    }
    return {"tree": tree, "changes": changes}


def many(folder: Path, images: int) -> dict[str, Any]:
    """Photographs of VOC's usual size; masks of a few measure."""
    draw_folder(folder / "data", images=images, test=SMALL, h=375, w=500, annotated=2 * SMALL, classes=8)
    tree = {"data": {"kind": "folder", "root": str(folder / "data"), "holdout": SMALL}}
    changes = {**ONE_EPOCH, "heatmaps.scales": [1.0], "masks.crf.iterations": 1, "runtime.threads": 2}
    return {"tree": tree, "changes": changes}


def measure(folder: Path, job: dict[str, Any], images: int) -> dict[str, float]:
    """Run in a process of its own: peak memory in GiB, seconds, and bytes of the heatmaps an image."""
    (folder / "config.yaml").write_text(yaml.safe_dump(job["tree"]))
    (folder / "changes.json").write_text(json.dumps(job["changes"]))
    start = time.perf_counter()
    child = subprocess.run([sys.executable, __file__, "--child", str(folder)], check=True, stdout=subprocess.PIPE)
    figures: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return {
        "peak_gib": figures["peak_kib"] / 2**20,
        "seconds": time.perf_counter() - start,
        "heatmap_kb_an_image": figures["heatmap_bytes"] / 1000 / images,
    }


def run_as_child(folder: Path) -> None:
    """What `measure` starts."""
    config = load(folder / "config.yaml", json.loads((folder / "changes.json").read_text()))
    result = run(config, Store(folder / "store"), lambda event: None)
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    made = [folder for name, folder in result.folders.items() if name.endswith("heatmaps")]  # of every set of images
    stored = sum(path.stat().st_size for folder in made for path in folder.iterdir())
    print(json.dumps({"peak_kib": peak, "heatmap_bytes": stored}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["paper", "many"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_as_child(arguments.child)
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if arguments.only != "many":
            got = measure(root / "paper", paper(root / "paper"), 10)
            print(f"paper's networks, 8 images of 224: {got['peak_gib']:.1f} GiB at most, {got['seconds']:.0f} s")
            figures |= {"paper_peak_gib": got["peak_gib"], "paper_seconds": got["seconds"]}
        if arguments.only != "paper":
            for name, count in (("quarter", arguments.images // 4), ("many", arguments.images)):
                got = measure(root / name, many(root / name, count), count)
                print(
                    f"{count} images of 500 x 375: {got['peak_gib']:.2f} GiB at most, {got['seconds']:.0f} s, "
                    f"heatmaps {got['heatmap_kb_an_image']:.1f} kB an image"
                )
                figures |= {f"{name}_{key}": value for key, value in got.items()}
            figures["memory_growth"] = figures["many_peak_gib"] / figures["quarter_peak_gib"]
            print(f"peak memory of all to that of a quarter: {figures['memory_growth']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
