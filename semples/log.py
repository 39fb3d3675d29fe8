"""How a stage tells of its progress."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """One point of a stage's curves, and its progress: epoch `epoch` of `epochs` is done."""

    def __call__(self, epoch: int, epochs: int, **values: float) -> None: ...
