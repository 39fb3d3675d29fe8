"""What must hold before the first stage starts: a mistake shows now and not after hours."""

from __future__ import annotations

import torch

from semples import generators
from semples.clip import load_clip
from semples.config import Config
from semples.data import load_data
from semples.errors import UserError
from semples.stages import segment
from semples.training import LabelledImages


def check(config: Config) -> None:
    """Load or build once what the stages will need. Raises UserError for the first thing that fails.

    Data and one image of each split, augmentation, CLIP, a prompt of the configured length, mask generator and network
    with the weights that they begin with (which are downloaded now, where they have to be).
    """
    data = load_data(config.data, config.selection)
    for split in (data.train, data.holdout, data.test):
        if len(split):
            split.image(0)
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
