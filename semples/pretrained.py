"""Weights that ship with the package."""

from pathlib import Path

PRETRAINED = Path(__file__).parent / "data" / "pretrained"
MINIATURE_WEIGHTS = PRETRAINED / "scenes-mini.safetensors"
SCENES_VIT_WEIGHTS = PRETRAINED / "scenes-vit.safetensors"
