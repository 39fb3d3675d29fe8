"""Is a finalist better than the default configuration? What their runs over seeds say, and how sure that is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import brentq
from scipy.stats import chi2, norm

from semples.errors import UserError, cut
from semples.formats import Format, json_object
from semples.statistics import Spread, spread
from tune.objectives import Direction

DEFAULT = "default"
RECORD = "confirm.json"
FORMAT = Format((dict,))  # that of version 0.1.0 lacks the stamp only
Values = Mapping[str, Sequence[tuple[float, float]]]  # by finalist, for each seed: what chooses, what is reported
ERROR = 0.05  # probability of naming a winner where no finalist is better, however often one looks
SPENDS = 0.6  # share of what is left of it that a look may spend


@dataclass(frozen=True)
class Verdict:
    """metric: that was compared, mIoU in percent. chosen: by finalist its spread on what chooses; reported: on what is
    reported. over_default: paired differences of the reported figures to the default's, with an interval of which the
    lower ends hold for all finalists together; over_others: of the leader's to each of the others'. leader: the best by
    what chooses. winner: the best by what chooses of the finalists whose interval to the default is above 0, else "".
    looks: how often these finalists were judged, this time included."""

    metric: str
    chosen: dict[str, Spread]
    reported: dict[str, Spread]
    over_default: dict[str, Spread]
    over_others: dict[str, Spread]
    leader: str
    winner: str
    looks: int = 1

    @property
    def sentence(self) -> str:
        """What can be said of it."""
        if self.winner:
            behind = "" if self.winner == self.leader else f"; {self.leader} leads by what chooses"
            return f"{self.winner} wins: {self._over(self.winner)}{behind}"
        if self.leader == DEFAULT:
            return "no winner: over these seeds no finalist is better than the default configuration"
        if self.over_default[self.leader].high < 0:
            said = self._over(self.leader)
            return f"no winner: {self.leader} leads by what chooses, and what is reported says {said}"
        said = self._over(self.leader)
        return f"no winner: {self.leader} leads with {said}, which includes 0; take more --seeds to know"

    def _over(self, name: str) -> str:
        d = self.over_default[name]
        proxy = " by CLIP, which may be wrong: there were no masks" if self.metric.startswith("proxy/") else ""
        return f"{d.mean:+.1f} points over the default, {d.low:+.1f} to {d.high:+.1f}{proxy}"


def judge(
    metric: str,
    values: Values,
    direction: Direction = "maximize",
    looks: int = 1,
    image_errors: Mapping[str, float] = {},
) -> Verdict:
    """Compare finalists, DEFAULT among them, by (what chooses, what is reported), one pair a seed, in the same order.
    Differences are above 0 where a finalist is better.

    A seed may do something to all of them alike; the rest of the variance is taken to be the same for all, and is
    learned from all. image_errors: by finalist the standard error over images of its difference to the default, where
    that is known; it is added to that over seeds. That no finalist is above the default is tested for all of them
    together (Dunnett's test, one-sided), and whoever looks again, with more seeds, has less of ERROR left to spend.
    """
    chosen = {name: [a for a, _ in pairs] for name, pairs in values.items()}
    reported = {name: [b for _, b in pairs] for name, pairs in values.items()}
    sign = 1 if direction == "maximize" else -1

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: sign * sum(chosen[name]), default="")

    leader, (limit, error) = best([*values]), _over_seeds([*reported.values()], spent_at(looks))

    def differences(of: str, to: str) -> Spread:
        found = spread([sign * (a - b) for a, b in zip(reported[of], reported[to], strict=True)])
        half = limit * math.hypot(error, *(image_errors.get(name, 0.0) for name in (of, to)))
        return Spread(found.mean, found.minimum, found.maximum, found.mean - half, found.mean + half)

    over_default = {name: differences(name, DEFAULT) for name in values if name != DEFAULT}
    return Verdict(
        metric,
        {name: spread(v) for name, v in chosen.items()},
        {name: spread(v) for name, v in reported.items()},
        over_default,
        {name: differences(leader, name) for name in values if name != leader},
        leader,
        best([name for name, over in over_default.items() if over.low > 0]),
        looks,
    )


def spent_at(look: int) -> float:
    """Error that the first look, the second, ... may make; all that there may ever be make less than ERROR together."""
    return ERROR * SPENDS * (1 - SPENDS) ** (look - 1)


def _over_seeds(values: Sequence[Sequence[float]], level: float) -> tuple[float, float]:
    """By how many standard errors a difference between two means must be above 0, and this error over seeds. values: by
    configuration and seed; what a seed does to all of them alike is taken out of their variance (two-way layout without
    interaction)."""
    table = np.array(values)
    configurations, seeds = table.shape
    freedom = (configurations - 1) * (seeds - 1)
    if not freedom:
        return math.inf, math.inf
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    return dunnett(configurations - 1, freedom, level), math.sqrt(2 * float((rest**2).sum()) / freedom / seeds)


@lru_cache
def dunnett(compared: int, freedom: int, level: float) -> float:
    """What the largest of so many t statistics, each of a mean against the same control, exceeds with probability
    `level` where none is above the control; all means are of equally many values (Dunnett, 1955)."""
    shares = (np.arange(4000) + 0.5) / 4000
    deviations = np.sqrt(chi2.ppf(shares, freedom) / freedom)[:, None]
    control, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def above(limit: float) -> float:
        below = norm.cdf(math.sqrt(2) * limit * deviations + control) ** compared
        return 1 - float((below @ weights).mean()) - level

    return float(brentq(above, 0, 1e5))


class Record(BaseModel):
    """What confirm.json holds that a verdict is made of."""

    model_config = ConfigDict(allow_inf_nan=False)

    metric: str
    direction: Direction = "maximize"
    looks: int = Field(default=1, ge=1)
    image_errors: dict[str, Annotated[float, Field(ge=0)]] = {}
    values: dict[str, Annotated[list[tuple[float, float]], Field(min_length=1)]]


def has_record(folder: Path) -> bool:
    """Whether finalists of the sweep in a folder were judged."""
    return os.path.lexists(folder / RECORD)


def read_record(folder: Path) -> Record:
    """What a confirmation left in the folder of a sweep. Raises UserError where there is none, or a damaged or newer
    one."""
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with semples-tune confirm")
    try:
        found = Record.model_validate(FORMAT.read(json_object(path.read_bytes()), str(path)))
        if DEFAULT not in found.values or len({len(pairs) for pairs in found.values.values()}) != 1:
            raise ValueError("values")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({cut(str(error))}); delete it and run semples-tune confirm again") from None
    return found


def read_verdict(folder: Path) -> Verdict:
    """The verdict of a confirmation, see `read_record`."""
    found = read_record(folder)
    return judge(found.metric, found.values, found.direction, found.looks, found.image_errors)


def write_record(
    folder: Path,
    verdict: Verdict,
    direction: Direction,
    selection: str,
    values: Values,
    image_errors: Mapping[str, float],
) -> None:
    """Write what finalists were judged by, and the verdict."""
    seeds = len(values[DEFAULT])
    record = {**FORMAT.stamp(), "metric": verdict.metric, "direction": direction, "seeds": seeds}
    record |= {"looks": verdict.looks, "selection": selection, "values": values, "image_errors": image_errors}
    temporary = folder / f".{RECORD}"
    temporary.write_text(
        json.dumps({**record, "winner": verdict.winner, "sentence": verdict.sentence}, indent=2) + "\n"
    )
    temporary.replace(folder / RECORD)
