"""Arithmetic on batches of images and maps: normalising, min-max, other sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def channels(values: Sequence[float]) -> Tensor:
    """Three numbers as (1, 3, 1, 1), to be applied to a batch of images."""
    return torch.tensor(values).view(1, 3, 1, 1)


def normalise_pixels(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, h, w) -> float32, normalised with ImageNet's mean and deviation: 0 is the mean colour."""
    mean, std = channels(IMAGENET_MEAN).to(pixels.device), channels(IMAGENET_STD).to(pixels.device)
    return (pixels.float() / 255 - mean) / std


def minmax(maps: Tensor, eps: float) -> Tensor:
    """(C - min) / (max - min + eps) over each map of (..., h, w), in [0, 1). Source: SemPLeS."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + eps)


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear (B, C, h', w') -> (B, C, *size)."""
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def rescale(images: Tensor, scale: float) -> Tensor:
    """The same (B, C, h, w) at a scale, in whole pixels and at least one; what is at the end stays at the end."""
    # not by F.interpolate's scale_factor, which leaves out a part of the last pixel
    size = tuple(max(1, round(side * scale)) for side in images.shape[2:])
    return images if size == images.shape[2:] else enlarge(images, size)
