"""What must hold before the first stage starts: a mistake shows now and not after hours."""

from __future__ import annotations

import logging

import torch

from semples import generators
from semples.clip import load_clip
from semples.config import Config
from semples.data import load_data
from semples.data.contradictions import compare_before_run
from semples.errors import UserError
from semples.stages import segment
from semples.training import LabelledImages

logger = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Load or build once what the stages will need. Raises UserError for the first thing that fails.

    Data, one image of each split, some of the masks against the labels, augmentation, CLIP, a prompt of the configured
    length, mask generator and network with the weights that they begin with (which are downloaded now, where they have
    to be).
    """
    data = load_data(config.data, config.selection)
    for split in (data.train, data.holdout, data.test):
        if len(split):
            split.image(0)
    problems, remarks = compare_before_run(data)
    if problems:
        raise UserError(f"data: {problems[0]} (`semples data check` looks at all of them)")
    for remark in (*data.doubts, *remarks):
        logger.warning("data: %s", remark)
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
    generators.build(config.generator, data.num_classes, initial=True)
    segment.build_network(config.segment, data.num_classes, initial=True)
