"""What must hold before a trial starts."""

from __future__ import annotations

import torch

from semples import generators
from semples.clip import load_clip
from semples.data import load_data
from semples.stages import segment
from tune.space import Sweep


def check(sweep: Sweep) -> None:
    """Load and build everything once that every trial needs. Raises UserError for the first thing that fails.

    What fails here would fail in all trials: data, CLIP, generator, network, and the longest prompt of the space.
    """
    base = sweep.base_config()
    data = load_data(base.data)
    for split in (data.train, data.holdout, data.test):
        split.image(0)
    clip = load_clip(base.clip)
    length = sweep.space.get("prompts.length")
    longest = max(length.ends) if length else base.prompts.length
    with torch.no_grad():
        clip.embed_prompts(clip.initial_prompts((1, longest), base.prompts.init))
    generators.build(base.generator.model_copy(update={"pretrained": False}), data.num_classes)
    segment.build_network(base.segment.model_copy(update={"pretrained": False}), data.num_classes)
