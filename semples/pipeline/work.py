"""A stage that is to be computed, what whoever computes it tells, and how that may fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semples.config import Config
from semples.data.dataset import Dataset


class LostError(Exception):
    """Whoever computed a stage is gone, for a reason that lies in no stage: it may be tried again."""


@dataclass(frozen=True)
class Epoch:
    """A stage computes, and epoch of epochs is done (0 when it begins), with these values."""

    stage: str
    epoch: int
    epochs: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A stage that is to be computed: of which run, from the results in which folders, into which folder."""

    stage: str
    config: Config
    inputs: Mapping[str, Path]
    out: Path


Compute = Callable[[Work, Dataset, Callable[[Epoch], None]], dict[str, Any]]  # as semples.pipeline.compute has it
