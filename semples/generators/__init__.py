"""Mask generators: an image in, one class activation map (CAM) a class out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semples.config import GeneratorConfig
from semples.generators.cnn import Cnn


class Generator(Protocol):
    """What a mask generator offers besides being a torch module."""

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w) -> CAM logits (B, K, h', w'), any range."""

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of the image labels (B, K) in {0, 1}: a scalar, mean over the batch."""

    def late_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the stages after classify train."""

    def eval(self) -> object:
        """Torch's switch from training to evaluation."""


GENERATORS = {"cnn": Cnn}


def build(config: GeneratorConfig, classes: int) -> Cnn:
    """A new generator for K classes. Raises UserError for an unknown body."""
    return GENERATORS[config.kind](config, classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


WEIGHTS = "generator.safetensors"


def load(config: GeneratorConfig, classes: int, folder: Path, device: str) -> Cnn:
    """The generator whose weights a stage left in its result folder, on the device and in training mode."""
    generator = build(config.model_copy(update={"pretrained": False}), classes)
    generator.load_state_dict(load_file(folder / WEIGHTS))
    return generator.to(device)


def save(generator: nn.Module, folder: Path) -> None:
    """Write the weights into a stage's result folder."""
    save_file({k: v.contiguous().cpu() for k, v in generator.state_dict().items()}, folder / WEIGHTS)


def soft_masks(cams: Tensor, size: tuple[int, int], eps: float) -> Tensor:
    """M = (C - min) / (max - min + eps) over each map after up-sampling: (B, P, h', w') -> (B, P, *size) in [0, 1).

    Source: SemPLeS; eps 1e-1 in match and refine, 1e-4 in prompts, 1e-8 for heatmaps.
    """
    cams = F.interpolate(cams, size, mode="bilinear", align_corners=False)
    low, high = cams.amin((2, 3), keepdim=True), cams.amax((2, 3), keepdim=True)
    return (cams - low) / (high - low + eps)
