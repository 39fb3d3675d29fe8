"""What must hold before the first stage starts: a mistake shows now and not after hours."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from semples import generators
from semples.clip import load_clip
from semples.config import Config
from semples.data import load_data
from semples.data.contradictions import compare_before_run
from semples.errors import UserError, cut, is_lack_of_memory, quoted
from semples.pipeline.graph import graph
from semples.stages import segment
from semples.training import LabelledImages

GROWING = ("prompts.length",)  # keys of which a larger value may not fit where smaller ones do
RANGES = {"m": (0, 10), "n": (1, 20), "mstd": (0, 100), "mmax": (1, 10), "inc": (0, 1), "p": (0, 1)}
RAND = re.compile(rf"({'|'.join(sorted(RANGES, key=len, reverse=True))})([0-9]+(?:\.[0-9]+)?)")
logger = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Load or build once what the stages will need. Raises UserError for the first thing that fails.

    Stages of other packages, data, one image of each split, some of the masks against the labels, augmentation, CLIP, a
    prompt of the configured length, mask generator and network with the weights that they begin with (which are
    downloaded now, where they have to be) and two crops through each.
    """
    for stage in graph(config).values():
        stage.load()
    data = load_data(config.data, config.selection)
    for split in (data.train, data.holdout, data.test):
        if len(split):
            split.image(0)
    problems, remarks = compare_before_run(data)
    if problems:
        raise UserError(f"data: {problems[0]} (`semples data check` looks at all of them)")
    for remark in (*data.doubts, *remarks):
        logger.warning("data: %s", remark)
    _check_randaugment(config.augment.randaugment)
    try:
        LabelledImages(data.train, config.augment, only_crop_and_flip=False)
    except (AssertionError, ValueError, KeyError) as error:
        name = config.augment.randaugment
        raise UserError(
            f"augment.randaugment '{name}' is nothing that timm knows ({error}); see rand-m9-mstd0.5"
        ) from None
    clip = load_clip(config.clip)
    with torch.no_grad():
        clip.embed_prompts(clip.initial_prompts((1, config.prompts.length), config.prompts.init))
    generator = generators.build(config.generator, data.num_classes, initial=True).eval()
    network = segment.build_network(config.segment, data.num_classes, initial=True)
    crops, side = torch.zeros(2, 3, config.augment.size, config.augment.size), config.segment.size
    with _tried("generator", f"crops of augment.size {config.augment.size}"), torch.no_grad():
        cams = generator.cams(generator.features(crops))
        if cams.ndim != 4 or cams.shape[:2] != (2, data.num_classes):
            raise ValueError(f"its maps have the shape {tuple(cams.shape)}")
    with _tried("segment", f"crops of segment.size {side}"), torch.no_grad():
        scores = network(torch.zeros(2, 3, side, side))
        if not isinstance(scores, torch.Tensor) or scores.shape != (2, data.num_classes + 1, side, side):
            raise ValueError("its scores are not one map of the crop's size for each class")


@contextmanager
def _tried(section: str, what: str) -> Iterator[None]:
    """What a network raises is said with the keys that made it."""
    try:
        yield
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        raise UserError(
            f"{section}: the network of these settings cannot take {what} ({cut(str(error), 200)}); "
            f"change {section}.args"
        ) from None


def _check_randaugment(name: str) -> None:
    """timm passes over what it does not know in such a word, or fails on it in the midst of a training."""
    for part in name.split("-")[1:] if name.startswith("rand") else ():
        found = RAND.fullmatch(part)
        low, high = RANGES[found[1]] if found else (0, -1)
        if not found or not low <= float(found[2]) <= high:
            known = ", ".join(f"{letters} {low:g} to {high:g}" for letters, (low, high) in RANGES.items())
            raise UserError(f"augment.randaugment '{name}': {quoted(part)} is no part of a policy; parts are {known}")
