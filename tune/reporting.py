"""Which trials are measured on the images on which figures are reported. Those choose nothing, so a trial that is only
to be judged can do without them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import optuna

from semples.image_sets import judging
from semples.pipeline.graph import graph, reporting
from semples.pipeline.run import Result
from semples.run_folder import read_run
from tune.messages import Reported, TrialCallback
from tune.outside import compute_all
from tune.places import trial_files, trial_folder
from tune.records import keep_reported, run_of, trial_record
from tune.study import unreported
from tune.sweep_file import Sweep
from tune.tracking import Tracker
from tune.values import Report

log = logging.getLogger(__name__)

SHARE = 0.1  # of a trial's compute, what reporting may cost where nothing else is said


def goes_on(report: Report, until: str) -> Callable[[Result], str | None]:
    """Up to which stage a trial goes on that has come to `until`, the last stage that it is judged by."""

    def further(result: Result) -> str | None:
        stage = reporting(result.config, until)
        if stage is None or report == "leaders":
            return None
        return stage if report == "all" or _cost(result) <= SHARE * sum(result.seconds.values()) else None

    return further


def _cost(result: Result) -> float:
    """Seconds that the stages of the reported images will take, by what those of the images that judge took."""
    judges, reported = (
        len(result.data.treating(images).images) for images in (judging(result.config.selection), "measured")
    )
    of = {stage.of for stage in graph(result.config).values() if stage.images == "measured" and stage.of}
    return sum(result.seconds.get(name, 0.0) for name in of) * reported / judges


def report_leaders(study: optuna.Study, sweep: Sweep, folder: Path, tracker: Tracker, on_event: TrialCallback) -> None:
    """Measure the leading trials on the reported images, into their folders, the study and their runs; Ray is joined
    already. What fails is said, and tried again by the next launch."""
    trials = {trial.number: trial for trial in unreported(study, sweep)}
    stage = reporting(sweep.base_config(), sweep.last_stage)

    def ended(number: int, problem: str) -> None:
        if problem:
            log.warning("trial %d is not measured on the reported images: %s", number, problem)
            return
        known = trial_record(trials[number]).metrics
        metrics = {name: value for name, value in metrics_in(number).items() if name not in known}
        keep_reported(study, number, metrics)
        tracker.log(run_of(trials[number]), [metrics])
        tracker.attach(run_of(trials[number]), *trial_files(number))
        on_event(number, Reported(metrics))

    def metrics_in(number: int) -> dict[str, float]:
        metrics: dict[str, float] = read_run(trial_folder(folder, number))[1]["metrics"]
        return metrics

    if trials and stage:
        runs = {n: (read_run(trial_folder(folder, n))[0], trial_folder(folder, n)) for n in trials}
        compute_all(sweep, folder, runs, "trial", stage, ended)
