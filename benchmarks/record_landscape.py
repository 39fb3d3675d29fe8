"""Measure a landscape (see landscape.py): the points of a sweep's space, group by group.

    python benchmarks/record_landscape.py NAME [--groups 12] [--seeds 1 2] [--store runs/landscapes]
    python benchmarks/record_landscape.py NAME --show

Points are a tree: 12 settings of what `match` reads, 2 of what `prompts` reads on each, 3 of what `refine` reads on
each of these, and 15 of the masks on each of those; every setting of the prompts trains one network. The first point
is the default; the others are scrambled Sobol sequences. With --seeds, the first refinement of every other group is
measured again with other seeds of the runs, so that the noise is known. Results of stages are stored meanwhile,
and every group is a file of its own: the same command goes on where it was stopped. About two hours on one core.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from landscape import FOLDER, POOLS, PRESENT, SCORES, read
from PIL import Image
from scipy.stats import qmc

from semples import by_image
from semples.config import with_changes
from semples.data import png_archive, scenes
from semples.data.dataset import Dataset
from semples.metrics import THRESHOLDS, areas, sweep_thresholds
from semples.pipeline.run import Event, run
from semples.stages.heatmaps import read_heatmaps
from semples.store import Store
from tune.columns import Space
from tune.needs import affecting
from tune.sweep_file import Sweep, load_sweep

TREE = {"match": 12, "prompts": 2, "refine": 3, "masks": 15}  # settings on each of the stage before
AGAIN = 3  # settings of the masks that are measured with other seeds
MILESTONES = ("classify", "match", "refine")  # of which the mIoU of all holdout images is kept

# parameters, which of the masks' settings they have, whether the network is trained
Point = tuple[dict[str, Any], int, bool]


def sequence(columns: int, count: int, seed: int) -> np.ndarray:
    """The first of a scrambled Sobol sequence: (count, columns) in [0, 1]."""
    return qmc.Sobol(columns, seed=seed).random(2 ** int(np.ceil(np.log2(count))))[:count]


def tree(sweep: Sweep) -> list[list[Point]]:
    """By group its points."""
    space = Space(sweep)
    known: set[str] = set()
    own = {}
    for stage, keys in affecting(sweep).items():
        if stage in TREE:
            own[stage] = space.columns(key for key in keys if key not in known)
            known |= {*keys}
    total, drawn = 1, {}
    for number, (stage, branches) in enumerate(TREE.items()):
        total *= branches
        drawn[stage] = sequence(len(own[stage]), total, number)
    default = space.row(sweep.default_parameters())
    groups: list[list[Point]] = []
    for at in itertools.product(*map(range, TREE.values())):
        unit, index, kept = np.zeros(len(default)), 0, []
        for (stage, branches), i in zip(TREE.items(), at, strict=True):
            index = index * branches + i
            # the default itself, and the default masks on every other refinement
            if index == 0 or (stage == "masks" and i == 0 and index // branches % 2 == 0):
                kept += own[stage]
            else:
                unit[own[stage]] = drawn[stage][index]
        row = space.of_unit(unit[None])
        row[0, kept] = default[kept]
        parameters = space.parameters(space.settled(row)[0])
        _, prompt, refinement, late = at
        if at[1:] == (0, 0, 0):
            groups.append([])
        trains = refinement == 0 and late == (at[0] + prompt) % TREE["masks"]
        groups[-1].append((parameters, late, trains))
    return groups


def draw_noisy(root: Path) -> None:
    """The world of `noisy`, as a folder; see landscapes/noisy.yaml."""
    if (root / "labels.csv").exists():
        return
    data, rng = scenes.draw(80, 128, 96, 3), np.random.default_rng(3)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    lines = [["image", "labels", "split"]]
    for part, split in (("train", data.train), ("train", data.holdout), ("test", data.test)):
        for i, name in enumerate(split.names):
            Image.fromarray(split.image(i)).save(root / "images" / f"{name}.png")
            png_archive.encode_mask(split.mask(i)).save(root / "masks" / f"{name}.png")  # type: ignore[arg-type]
            labels = [k for k, there in enumerate(split.labels[i]) if there]
            if part == "train" and rng.random() < 1 / 12:
                others = [k for k in range(len(data.classes)) if k not in labels]
                labels = labels[1:] if len(labels) > 1 else [*labels, int(rng.choice(others))]
            lines.append([name, ";".join(data.classes[k] for k in labels), part])
    (root / "classes.txt").write_text("\n".join(data.classes) + "\n")
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def counts_of(areas: np.ndarray) -> np.ndarray:
    """(..., 3, K+1) -> pixels predicted as each class, and those of them that are right (..., K+1, 2)."""
    return np.moveaxis(areas[..., 1:, :], -2, -1).astype(np.uint16)


def only_present(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(..., K+1, 2) -> (..., 1 + PRESENT, 2): background and the classes that the image is labelled with."""
    kept = [0, *(1 + np.flatnonzero(labels))]
    result = np.zeros((*counts.shape[:-2], 1 + PRESENT, 2), np.uint16)
    result[..., : len(kept), :] = counts[..., kept, :]
    return result


def measure(sweep: Sweep, points: list[Point], store: Path, file: Path, seed: int) -> None:
    """Run the points and write what is kept of them. The first of a refinement also keeps its heatmaps."""
    rows: list[dict[str, Any]] = []
    masks, heatmaps, networks = [], [], []
    at = [int(np.abs(THRESHOLDS - score).argmin()) for score in SCORES]
    for number, (parameters, late, trains) in enumerate(points):
        config = with_changes(sweep.base_config(), {**parameters, "seed": seed}, "landscape")
        seconds: dict[str, float] = {}

        def report(event: Event, seconds: dict[str, float] = seconds) -> None:
            if event.metrics is not None:
                seconds[event.stage] = round(event.cpu_seconds, 2)

        with Store(store) as results:
            result = run(config, results, report, until="segment" if trains else "masks")
        data, judging = result.data, result.data.holdout
        of_images = by_image.read(result.folders["masks"])["holdout/pseudo_miou"]
        masks.append([only_present(counts_of(of), own) for of, own in zip(of_images, judging.labels, strict=True)])
        if late == 0:
            of_heatmaps = []
            stored = png_archive.Reader(result.folders["heatmaps"] / png_archive.FILE)
            for i, own in enumerate(judging.labels):
                image = [(judging.mask(i), *read_heatmaps(stored, judging, i))]
                counted = sweep_thresholds(image, data.num_classes)  # type: ignore[arg-type]
                of_heatmaps.append(only_present(counts_of(areas(counted.counts[at])), own))
            heatmaps.append(np.stack(of_heatmaps, 1))
        if trains:
            of_network = by_image.read(result.folders["segment"])
            networks.append([counts_of(of) for pool in ("holdout/seg_miou", "seg_miou") for of in of_network[pool]])
        milestones = {name: round(result.metrics[f"{name}/holdout/cam_miou"], 3) for name in MILESTONES}
        rows.append({"parameters": parameters, "seconds": seconds, "milestones": milestones, "seed": seed})
        rows[-1] |= {"late": late, "network": trains}
        shown = {key: round(value, 1) for key, value in result.metrics.items() if key.endswith(("do_miou", "g_miou"))}
        print(f"{file.name}: {number + 1} of {len(points)}, {sum(seconds.values()):.0f} s, {shown}", flush=True)
    if not (images := file.parent / "images.npz").exists():
        write_images(data, images)
    arrays = {"masks": np.array(masks), "heatmaps": np.array(heatmaps), "networks": np.array(networks)}
    text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    temporary = file.with_suffix(".part")
    with temporary.open("wb") as to:
        np.savez_compressed(to, rows=text, **arrays)
    temporary.replace(file)


def write_images(data: Dataset, file: Path) -> None:
    """The images: pool, image labels (N, K), and true pixels by class (N, K+1)."""
    pools, labels, truth = [], [], []
    for pool in POOLS:
        split = getattr(data, pool)
        for i in range(len(split)):
            pools.append(POOLS.index(pool))
            labels.append(split.labels[i])
            truth.append(np.bincount(split.mask(i).ravel(), minlength=256)[: data.num_classes + 1])
    np.savez_compressed(
        file,
        pools=np.array(pools, np.uint8),
        labels=np.array(labels),
        truth=np.array(truth, np.uint16),
        classes=np.array(data.classes),
    )


def record(name: str, groups: int, store: Path, seeds: list[int]) -> None:
    """Measure what is missing of a landscape."""
    if name == "noisy":
        draw_noisy(store / "noisy-data")
    sweep, folder = load_sweep(FOLDER / f"{name}.yaml"), FOLDER / name
    folder.mkdir(exist_ok=True)
    points, base = tree(sweep), sweep.base_config().seed
    for group in range(groups):
        if not (file := folder / f"{group:02}.npz").exists():
            measure(sweep, points[group], store / name, file, base)
    for seed in seeds:
        again = [p for of_group in points[::2] for p in of_group[:AGAIN]]
        if not (file := folder / f"seed-{seed}.npz").exists():
            measure(sweep, [(parameters, late, late == 0) for parameters, late, _ in again], store / name, file, seed)


def show(name: str) -> None:
    """Print what a landscape looks like."""
    found = read(name)
    first = [i for i, row in enumerate(found.rows) if row["seed"] == found.rows[-1]["seed"]]
    scores = found.of_masks(np.arange(found.sizes["holdout"]))[first]
    default = next(i for i, at in enumerate(first) if at in found.networks and found.rows[at]["late"] == 0)
    print(f"{name}: {len(first)} configurations, {len(found.networks)} networks")
    print(f"  mIoU (%) of the pseudo masks: default {scores[default]:.1f}, best {scores.max():.1f}")
    own = {at: found.of_network(at, np.arange(len(found.pool))) for at in first if at in found.networks}
    print(f"  of the networks: default {own[first[default]]:.1f}, best {max(own.values()):.1f}")
    seconds = {stage: np.median([row["seconds"][stage] for row in found.rows if stage in row["seconds"]])
               for stage in found.rows[first[default]]["seconds"]}  # fmt: skip
    print("  CPU seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(path.stem for path in FOLDER.glob("*.yaml")))
    parser.add_argument("--groups", type=int, default=TREE["match"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--store", type=Path, default=Path("runs/landscapes"))
    parser.add_argument("--show", action="store_true", help="only say what was measured")
    arguments = parser.parse_args()
    if not arguments.show:
        record(arguments.name, arguments.groups, arguments.store, arguments.seeds)
    show(arguments.name)


if __name__ == "__main__":
    main()
