"""c. prompts: Contrastive Prompt Learning. Prompts come to describe each class's co-occurring background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from semples import generators
from semples.clip import load_clip
from semples.losses import prompt_loss, similarity
from semples.stages.cutouts import embed_cutouts
from semples.training import label_batches, load_weights, save_weights, train

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset
    from semples.log import Log

WEIGHTS = "prompts.safetensors"


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """The generator of match stays as it is; writes the prompts' token embeddings (K, count, length, width)."""
    settings = config.prompts
    generator = generators.load(config.generator, data.num_classes, inputs["match"], config.runtime.device)
    generator.eval().requires_grad_(False)
    clip = load_clip(config.clip, config.runtime.device)
    t = clip.embed_labels(data.classes)
    shape = (data.num_classes, settings.count, settings.length)
    prompts = nn.Parameter(clip.initial_prompts(shape, settings.init).to(config.runtime.device))

    def losses(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            _, v_b, k = embed_cutouts(clip, generator, images, labels, settings.mask_eps)
        u = clip.embed_prompts(prompts)
        return {
            "loss": prompt_loss(v_b, u[k], t[k], settings.lambda_t, settings.label_term),
            "background_cosine": similarity(v_b, u[k]).mean().detach(),
            "label_cosine": similarity(t, u).mean().detach(),
        }

    loader = label_batches(config, data, settings.batch, only_crop_and_flip=True)
    means = train("prompts", nn.ParameterList([prompts]), loader, settings, config.runtime, losses, out, log)
    save_weights({"prompts": prompts.detach()}, out / WEIGHTS)
    return {name: means[name] for name in ("background_cosine", "label_cosine")}


def load_prompts(folder: Path, classes: int | None = None, width: int | None = None) -> Tensor:
    """The prompts that this stage left in its result folder, float32 (K, count, length, width).

    Raises UserError for a damaged file, and for one of other numbers of classes and width, if these are given.
    """
    return load_weights(folder / WEIGHTS, {"prompts": (classes, None, None, width)})["prompts"]
