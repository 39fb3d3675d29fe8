"""e. heatmaps: CAMs over scales and mirror images, at native size, of the classes that an image is labelled with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semples import generators
from semples.analytic import Scores, write_scores
from semples.data import png_archive
from semples.data.dataset import Dataset, Split
from semples.generators import Generator
from semples.image_sets import judging
from semples.images import enlarge, minmax, normalise_pixels, rescale
from semples.metrics import THRESHOLDS, Sweep, sweep_thresholds
from semples.training import autocast

if TYPE_CHECKING:
    from semples.config import Config, RuntimeConfig
    from semples.log import Log

MINMAX_EPS = 1e-8
PROXY_BACKGROUND = 0.5  # where no mask may choose the score
CHUNK, HELD = 64, 2**25  # images held at a time and their pixels; those of one size are computed together
PIXELS = 2**19  # computed at a time, or one image that has more

Heatmaps = tuple[int, np.ndarray, np.ndarray]
Member = tuple[int, np.ndarray]  # index and image


def compute_heatmaps(
    generator: Generator, split: Split, indices: Sequence[int], config: Config, scales: Sequence[float], flip: bool
) -> Iterator[Heatmaps]:
    """Yield (index, heatmaps uint8 (P, h, w) of the P present classes at native size, their indices int (P,)).

    Heatmap = sum of the up-sampled CAMs over scales and mirror images, min-max over the image (SemPLeS), times 255.
    """
    for held in _chunks(split, indices):
        by_size: dict[tuple[int, ...], list[Member]] = defaultdict(list)
        for i, image in held:
            by_size[image.shape[:2]].append((i, image))
        for members in (part for size, of_size in by_size.items() for part in _parts(size, of_size)):
            pixels = torch.from_numpy(np.stack([image for _, image in members])).permute(0, 3, 1, 2)
            x = normalise_pixels(pixels.to(config.runtime.device))
            shown = np.flatnonzero(split.labels[[i for i, _ in members]].any(0))  # the others are not worth enlarging
            total = _sum_of_views(generator, x, shown, config.runtime, scales, flip)
            maps = (255 * minmax(total, MINMAX_EPS)).round().byte().cpu().numpy()
            for (i, _), of_image in zip(members, maps, strict=True):
                yield i, of_image[split.labels[i][shown]], np.flatnonzero(split.labels[i])


def _sum_of_views(
    generator: Generator, x: Tensor, shown: np.ndarray, runtime: RuntimeConfig, scales: Sequence[float], flip: bool
) -> Tensor:
    """CAMs (N, S, h, w) of the S shown classes for normalised images x (N, 3, h, w), added over all views."""
    total = torch.zeros((len(x), len(shown), *x.shape[2:]), device=x.device)
    with torch.no_grad():
        for scale in scales:
            scaled = rescale(x, scale)
            for view in (scaled, scaled.flip(3)) if flip else (scaled,):
                with autocast(runtime):
                    cams = generator(view).float()[:, shown]
                cams = enlarge(cams, x.shape[2:])
                total += cams if view is scaled else cams.flip(3)
    return total


def _chunks(split: Split, indices: Sequence[int]) -> Iterator[list[Member]]:
    held: list[Member] = []
    for i in indices:
        image = split.image(i)
        if len(held) == CHUNK or sum(other[..., 0].size for _, other in (*held, (i, image))) > HELD:
            yield held
            held = []
        held.append((i, image))
    yield held


def _parts(size: tuple[int, ...], members: list[Member]) -> Iterator[list[Member]]:
    at_once = max(1, PIXELS // (size[0] * size[1]))
    for start in range(0, len(members), at_once):
        yield members[start : start + at_once]


def count_thresholds(split: Split, heatmaps: Iterable[Heatmaps], classes: int) -> Sweep:
    """Confusion at every background score, over the heatmaps whose image has a true mask."""

    def triples() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for i, maps, present in heatmaps:
            ground_truth = split.mask(i)
            if ground_truth is not None:
                yield ground_truth, maps, present

    return sweep_thresholds(triples(), classes)


def choose_threshold(config: Config, judged: Sweep) -> int:
    """Index of the background score that the selection rule chooses: of the best mIoU on the images that judge; under
    "proxy", which looks at no mask, that of PROXY_BACKGROUND."""
    return int(np.abs(THRESHOLDS - PROXY_BACKGROUND).argmin()) if config.selection == "proxy" else judged.best


def sweep_cams(generator: Generator, config: Config, data: Dataset) -> Sweep:
    """CAMs of a trained generator at one scale, on the treated images that have a true mask, at every background
    score."""
    generator.eval()
    split = data.images
    heatmaps = compute_heatmaps(generator, split, split.annotated, config, (1.0,), False)
    return count_thresholds(split, heatmaps, data.num_classes)


def score_cams(generator: Generator, config: Config, data: Dataset) -> dict[str, float]:
    """mIoU of these CAMs on the images that judge, and its background score: the milestone of the stages that train a
    generator. Not finite where there are no masks."""
    judge = data.treating(judging(config.selection))
    return _figures(config, judge, sweep := sweep_cams(generator, config, judge), sweep)


def reported_cam_miou(generator: Generator, config: Config, data: Dataset) -> float:
    """mIoU of these CAMs on the images on which figures are reported, at the background score that the others chose."""
    judged = sweep_cams(generator, config, data.treating(judging(config.selection)))
    return float(sweep_cams(generator, config, data.treating("measured")).miou[choose_threshold(config, judged)])


def _figures(config: Config, data: Dataset, sweep: Sweep, judged: Sweep) -> dict[str, float]:
    best = choose_threshold(config, judged)
    background = {"cam_miou_background": float(THRESHOLDS[best])} if sweep is judged else {}
    return {f"{data.prefix}cam_miou": float(sweep.miou[best]), **background}


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes one PNG for each image that is treated: the present classes' heatmaps one below the other. The background
    score of what is reported is chosen on the heatmaps that judge, `judged` among the inputs."""
    settings, split = config.heatmaps, data.images
    generator = generators.load(config.generator, data.num_classes, inputs["refine"], config.runtime.device)
    generator.eval()

    def written() -> Iterator[tuple[str, Image.Image]]:
        heatmaps = compute_heatmaps(generator, split, range(len(split)), config, settings.scales, settings.flip)
        for done, (i, maps, _) in enumerate(heatmaps, 1):
            if done % CHUNK == 0 or done == len(split):
                log(done, len(split))
            # grey: PNG predicts the pixels of a palette image by nothing, and takes half as much again
            yield split.names[i], Image.fromarray(maps.reshape(-1, maps.shape[-1]))

    png_archive.write(out / png_archive.FILE, written())
    if not split.annotated:
        return {}
    sweep = _sweep_stored(out, split, data.num_classes)
    if "judged" in inputs:
        judged = _sweep_stored(inputs["judged"], data.holdout, data.num_classes)
    else:
        judged = sweep
        if config.selection != "proxy":  # then no mask may choose
            write_scores(out, Scores(THRESHOLDS.tolist(), sweep.miou.tolist()))
    return _figures(config, data, sweep, judged)


def _sweep_stored(folder: Path, split: Split, classes: int) -> Sweep:
    stored = png_archive.Reader(folder / png_archive.FILE)
    return count_thresholds(split, ((i, *read_heatmaps(stored, split, i)) for i in split.annotated), classes)


def read_heatmaps(stored: png_archive.Reader, split: Split, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps uint8 (P, h, w) and their classes int (P,) of an image, from the file that this stage stored."""
    present = np.flatnonzero(split.labels[i])
    flat = stored.read(split.names[i])
    return flat.reshape(len(present), -1, flat.shape[1]), present
