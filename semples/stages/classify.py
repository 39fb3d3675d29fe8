"""a. classify: the mask generator learns the image labels and so gets its first CAMs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from semples import generators
from semples.stages.heatmaps import score_cams
from semples.training import label_batches, train

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset
    from semples.log import Log


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes the generator's weights."""
    settings = config.classify
    generator = generators.build(config.generator, data.num_classes, initial=True).to(config.runtime.device)

    def losses(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": generator.label_loss(images, labels)}

    loader = label_batches(config, data, settings.batch)
    train("classify", generator, loader, settings, config.runtime, losses, out, log)
    generators.save(generator, out)
    return score_cams(generator, config, data)
