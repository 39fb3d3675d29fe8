"""CNN with class activation maps: a timm backbone, then 1x1 convolutions without bias, as CLIMS has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from semples.errors import UserError
from semples.generators.backbone import create_backbone

if TYPE_CHECKING:
    from semples.config import CnnConfig


class Cnn(nn.Module):
    """CAM logits at 1/stride of the image (of the finest of `out_indices`); a class's score is its map's spatial mean.

    The backbone is `body` in the names of the weights in files.
    """

    def __init__(self, config: CnnConfig, classes: int, initial: bool):
        super().__init__()
        self.body = create_backbone(
            config.backbone,
            initial and config.pretrained,
            {"features_only": True, "output_stride": config.stride, "out_indices": config.out_indices},
            config.args,
        )
        if not isinstance(self.body, timm.models.FeatureListNet | timm.models.FeatureDictNet):
            raise UserError(
                f"generator.backbone '{config.backbone}' is no CNN; generator.kind=weaktr takes transformers"
            )
        self.heads = nn.ModuleList(nn.Conv2d(c, classes, 1, bias=False) for c in self.body.feature_info.channels())

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body(images))

    def cams(self, features: tuple[Tensor, ...]) -> Tensor:
        cams = [head(x) for head, x in zip(self.heads, features, strict=True)]
        size = cams[0].shape[2:]
        return sum(F.interpolate(c, size, mode="bilinear", align_corners=False) for c in cams[1:]) + cams[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.cams(self.features(images))

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.multilabel_soft_margin_loss(self(images).mean((2, 3)).float(), labels)

    def refinement_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()
