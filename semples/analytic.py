"""Keys that nobody need search: one result scores their values all at once, and the best is taken."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCORES = "scores.json"  # file of a result


@dataclass(frozen=True)
class Analytic:
    """key: of the configuration. scored_by: the stage whose result scores its values. when: values of other keys, which
    all must have one of theirs; with others the scores say nothing. low, high: the key's least and greatest value that
    is scored."""

    key: str
    scored_by: str
    when: Mapping[str, tuple[Any, ...]]
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """values: of a key, ascending. scores: mIoU in percent at each of them, the same up to the next one."""

    values: Sequence[float]
    scores: Sequence[float]

    def at(self, value: float) -> float:
        """The score of a value that is not below the least."""
        return self.scores[bisect_right(self.values, value) - 1]

    def best(self, values: Iterable[float]) -> float:
        """The one of these values that has the highest score, the first of several."""
        return max(values, key=self.at)


def write_scores(folder: Path, scores: Scores) -> None:
    """Write scores into the folder of a result."""
    content = {"values": [*scores.values], "miou": [*scores.scores]}
    (folder / SCORES).write_text(json.dumps(content) + "\n")


def read_scores(folder: Path) -> Scores:
    """The scores that the result in a folder has."""
    content = json.loads((folder / SCORES).read_text())
    return Scores(content["values"], content["miou"])
