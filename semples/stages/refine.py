"""d. refine: Prompt-guided Semantic Refinement. The cut-out must not look like what the prompts describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semples import generators
from semples.clip import load_clip
from semples.losses import match_loss, refine_loss
from semples.stages.cutouts import embed_cutouts
from semples.stages.heatmaps import score_cams
from semples.stages.prompts import load_prompts
from semples.training import label_batches, train

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset
    from semples.log import Log


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Starts from the weights of `refine.start`, with the frozen prompts; writes the generator's weights."""
    settings = config.refine
    generator = generators.load(config.generator, data.num_classes, inputs[settings.start], config.runtime.device)
    clip = load_clip(config.clip, config.runtime.device)
    t = clip.embed_labels(data.classes)
    with torch.no_grad():
        u = clip.embed_prompts(load_prompts(inputs["prompts"]).to(config.runtime.device))

    def losses(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        v_f, v_b, k = embed_cutouts(clip, generator, images, labels, config.match.mask_eps)
        match = match_loss(v_f, v_b, t[k], config.match.lambda_b)
        refine = refine_loss(v_f, u[k])
        return {"loss": match + settings.lambda_r * refine, "match": match.detach(), "refine": refine.detach()}

    loader = label_batches(config, data, settings.batch)
    train("refine", generator, loader, settings, config.runtime, losses, out, log)
    generators.save(generator, out)
    return score_cams(generator, config, data)
