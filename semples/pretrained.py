"""Files of weights: those that ship with the package, and those that a configuration begins with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semples.config import ClipConfig, GeneratorConfig

PRETRAINED = Path(__file__).parent / "data" / "pretrained"
MINIATURE = "scenes-mini"  # model of CLIP
MINIATURE_WEIGHTS = PRETRAINED / f"{MINIATURE}.safetensors"
SCENES_VIT_WEIGHTS = PRETRAINED / "scenes-vit.safetensors"


def of_clip(config: ClipConfig) -> Path | None:
    """The local file that the weights of CLIP come from, or None if they come by tag, are random or missing."""
    if config.model == MINIATURE and config.pretrained == "scenes":
        return MINIATURE_WEIGHTS
    path = Path(config.pretrained)
    return path if config.pretrained and path.is_file() else None


def of_generator(config: GeneratorConfig) -> Path | None:
    """The local file of weights that a generator begins with, or None where there is none."""
    weights = getattr(config, "weights", "")
    path = Path(weights).expanduser() if weights else None
    if path is None and getattr(config, "backbone", "") == "scenes_vit" and getattr(config, "pretrained", False):
        path = SCENES_VIT_WEIGHTS
    return path if path and path.is_file() else None
