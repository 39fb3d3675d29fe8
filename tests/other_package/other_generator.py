"""The smallest mask generator: a few convolutions, whose last layer alone is trained after classify."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from semples.config import OtherGenerator


class Patchwise(nn.Module):
    def __init__(self, config: OtherGenerator, classes: int, initial: bool):
        super().__init__()
        width = config.args.get("width", 16)
        self.body = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.ReLU())
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.body(images),)

    def cams(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.head(features[0])

    def forward(self, images: Tensor) -> Tensor:
        return self.cams(self.features(images))

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.multilabel_soft_margin_loss(self(images).mean((2, 3)), labels)

    def refinement_parameters(self) -> Iterator[nn.Parameter]:
        return self.head.parameters()
