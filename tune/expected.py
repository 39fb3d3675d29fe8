"""What the best trial is expected to have on other images: the best of many by few images is also the luckiest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial

from semples import by_image
from semples.errors import UserError
from semples.metrics import bootstrap, resampled
from tune.parts import HEADLINES
from tune.places import trial_folder
from tune.sweep_file import Sweep

COMPARED = 50  # the best trials, of which another may have been the best by chance


@dataclass(frozen=True)
class Expected:
    """trial: the best one's number. value: the metric that it was chosen by, as expected on other images (mIoU in
    percent), which is lower than it was on those that chose. error: its standard error over images, in points."""

    trial: int
    value: float
    error: float


def expected_of_best(of_trials: np.ndarray) -> tuple[float, float]:
    """Areas of trials and images (T, N, 3, K+1), the best trial first -> the mIoU (%) that it is expected to have on
    other images, and its standard error.

    On every bootstrap sample of the images another trial may be the best. By how much it is better there than it is on
    average is luck, but not all of it, for the images are those that made it the best; on the images that the sample
    lacks it is worse than one may expect, for fewer images chose it. The .632 estimator weighs the two (Efron, 1983;
    for a choice among configurations Tsamardinos et al., 2018).
    """
    images = of_trials.shape[1]
    samples = bootstrap(images)
    inside, outside = resampled(of_trials, samples), resampled(of_trials, (samples == 0).astype(np.int64))
    observed = resampled(of_trials, np.ones((1, images), np.int64))[:, 0]
    best, each = inside.argmax(0), np.arange(len(samples))
    without_luck = observed[0] - (inside.max(0) - inside.mean(1)[best]).mean()
    # fewer images have another mIoU, whichever trial it is of; a sample that lacks none has none
    on_others = np.nanmean(outside[best, each]) + (observed - np.nanmean(outside, 1)).mean()
    return float(0.368 * without_luck + 0.632 * on_others), float(inside[0].std(ddof=1))


def expected(sweep: Sweep, folder: Path, leading: Sequence[FrozenTrial]) -> Expected | None:
    """What the best trial of the sweep in a folder is expected to have. leading: its complete trials, best first. None
    where that is not known: under "proxy", for several objectives or other metrics, of trials of earlier versions."""
    if len(sweep.objectives) > 1 or sweep.objectives[0].metric not in HEADLINES or sweep.selection == "proxy":
        return None
    metric = ("holdout/" if sweep.selection == "holdout" else "") + sweep.objectives[0].metric
    try:
        found = [by_image.read(trial_folder(folder, trial.number)).get(metric) for trial in leading[:COMPARED]]
    except UserError:  # of a damaged one nothing is known
        return None
    of_trials = [of for of in found if of is not None and len(of) > 1]
    if not of_trials or len(of_trials) < len(found):
        return None
    return Expected(leading[0].number, *expected_of_best(np.stack(of_trials)))
