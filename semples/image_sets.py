"""The sets of images that are treated apart: what judges comes first, the others only where they are wanted."""

from __future__ import annotations

from typing import Literal

# holdout: chooses. measured: the training images that have a true mask, on which figures are reported. rest: the other
# training images.
ImageSet = Literal["holdout", "measured", "rest"]


def judging(selection: str) -> ImageSet:
    """The images on which masks are judged: under "oracle" those on which figures are reported."""
    return "measured" if selection == "oracle" else "holdout"
