"""b. match: Segment-Label Matching. The cut-out must look like its label to CLIP, the rest must not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from semples import generators
from semples.clip import load_clip
from semples.losses import match_loss
from semples.stages.cutouts import embed_cutouts
from semples.stages.heatmaps import score_cams
from semples.training import label_batches, train

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset
    from semples.log import Log


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Starts from the weights of classify; writes the generator's weights."""
    settings = config.match
    generator = generators.load(config.generator, data.num_classes, inputs["classify"], config.runtime.device)
    clip = load_clip(config.clip, config.runtime.device)
    t = clip.embed_labels(data.classes)

    def losses(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        v_f, v_b, k = embed_cutouts(clip, generator, images, labels, settings.mask_eps)
        return {"loss": match_loss(v_f, v_b, t[k], settings.lambda_b)}

    loader = label_batches(config, data, settings.batch)
    train("match", generator, loader, settings, config.runtime, losses, out, log)
    generators.save(generator, out)
    return score_cams(generator, config, data)
