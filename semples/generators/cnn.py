"""CNN with class activation maps: a timm body, then a 1x1 convolution without bias, as CLIMS has it."""

from __future__ import annotations

from collections.abc import Iterator

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from semples.config import GeneratorConfig
from semples.errors import UserError, nearest


class Cnn(nn.Module):
    """CAM logits at 1/stride of the image; a class's score is the spatial mean of its map."""

    def __init__(self, config: GeneratorConfig, classes: int):
        super().__init__()
        if config.body not in timm.list_models(config.body):
            raise UserError(
                f"generator.body '{config.body}' is not a timm model{nearest(config.body, timm.list_models())}"
            )
        try:
            self.body = timm.create_model(
                config.body,
                pretrained=config.pretrained,
                features_only=True,
                output_stride=config.stride,
                out_indices=config.maps,
                **config.args,
            )
        except (TypeError, NotImplementedError, RuntimeError, AssertionError, OSError) as error:
            raise UserError(
                f"generator.body '{config.body}' cannot give maps at stride {config.stride}: {error}"
            ) from None
        self.heads = nn.ModuleList(nn.Conv2d(c, classes, 1, bias=False) for c in self.body.feature_info.channels())

    def forward(self, images: Tensor) -> Tensor:
        cams = [head(features) for head, features in zip(self.heads, self.body(images), strict=True)]
        size = cams[0].shape[2:]
        return sum(F.interpolate(c, size, mode="bilinear", align_corners=False) for c in cams[1:]) + cams[0]

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.multilabel_soft_margin_loss(self(images).mean((2, 3)).float(), labels)

    def late_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()
