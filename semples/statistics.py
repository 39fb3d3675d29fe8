"""What repeated measurements say: mean, range and the interval of the mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of one figure over seeds, and the interval of the mean (Student's t); `low` and `high`
    are infinite with a single seed."""

    mean: float
    minimum: float
    maximum: float
    low: float
    high: float


def spread(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """Describe one figure over seeds, or the differences between two, seed by seed (which makes them paired)."""
    n, mean, share = len(values), statistics.mean(values), (1 + confidence) / 2
    half = math.inf if n == 1 else float(student.ppf(share, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Spread(mean, min(values), max(values), mean - half, mean + half)
