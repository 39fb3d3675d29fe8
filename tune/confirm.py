"""The finalists again, over seeds: is the best trial better than the default configuration, or was it lucky?

A trial is one seed, and the best of many is the luckiest of them too. So the leading trials and the default run again
with seeds that no trial had, and a winner is named only where that can hardly be luck.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna

from semples import by_image
from semples.config import Config, with_changes
from semples.errors import UserError
from semples.metrics import bootstrap, resampled
from semples.pipeline.graph import reporting
from semples.run_folder import read_run
from semples.secrets import pass_on
from tune.cluster import joined, watched
from tune.messages import RunCallback, Usage
from tune.mlflow_writer import Store, catch_up
from tune.needs import trained_by
from tune.objectives import choosing
from tune.outside import compute_all, is_there
from tune.parts import HEADLINES
from tune.places import trial_folder
from tune.records import compute_seconds, run_of, trial_record, whole_seconds
from tune.study import load_study, ranked
from tune.sweep_file import Sweep
from tune.sweep_folder import tracking_uri
from tune.tracking import Tracker, open_trackers
from tune.verdict import DEFAULT, RECORD, Verdict, has_record, judge, read_record, write_record

Which = tuple[str, int]  # a finalist and a seed
RUNS = "confirm"  # their folder


def finalists(sweep: Sweep, folder: Path, top: int) -> dict[str, Config]:
    """The default configuration and the `top` best other trials, as they ran: each the best of those that trained what
    it trained, for two that differ in their masks alone are nearly one; others only where there are too few of these.
    Raises UserError if there are none."""
    study, default = load_study(folder, sweep), sweep.default_parameters()
    others = [t for t in ranked(study, sweep) if t.params != default]
    if not others:
        raise UserError(f"{folder}: no trial but the default is complete yet, so there is nothing to confirm")
    trained = trained_by(sweep)
    best = {tuple(t.params.get(key) for key in trained): t.number for t in reversed(others)}
    leading = sorted(others, key=lambda t: t.number not in best.values())[:top]
    own = {f"trial {t.number}": read_run(trial_folder(folder, t.number))[0] for t in leading}
    return {DEFAULT: sweep.base_config(), **own}


def confirm(sweep: Sweep, folder: Path, top: int, seeds: int, address: str | None, on_run: RunCallback) -> Verdict:
    """Run the finalists of a sweep over seeds, and judge them; see `judge_finalists`. Where all runs are there already,
    no Ray is started."""

    def compute(runs: Mapping[Which, tuple[Config, Path]], kind: str, until: str, ended: Callable[..., None]) -> None:
        with joined(sweep.resources, address) as logs, watched(lambda: None, logs):
            compute_all(sweep, folder, runs, kind, until, ended)

    verdict = judge_finalists(sweep, folder, top, seeds, compute, on_run)
    track(sweep, folder, verdict, open_trackers(folder, sweep.trackers))
    catch_up(Store(tracking_uri(sweep, folder.parent), folder), folder)
    return verdict


def judge_finalists(
    sweep: Sweep, folder: Path, top: int, seeds: int, compute: Callable[..., None], on_run: RunCallback
) -> Verdict:
    """Run the `top` best trials and the default with `seeds` seeds that the sweep did not use, and judge them; the same
    call goes on where an earlier one was interrupted.

    compute: does the runs, as tune.outside.compute_all. on_run: called with (finalist, seed, "" or what went wrong)
    when a run is done. A finalist of which a run fails is out. Writes confirm.json into the folder. Raises UserError if
    nothing is left to compare.
    """
    objective = next(one for one in sweep.objectives if one.stage)
    earlier = read_record(folder) if has_record(folder) else None
    configs = finalists(sweep, folder, top)
    first = sweep.base_config().seed + 1
    again = {
        (name, seed): (
            with_changes(config, {"seed": seed}, "confirm"),
            folder / RUNS / name.replace(" ", "-") / str(seed),
        )
        for name, config in configs.items()
        for seed in range(first, first + seeds)
    }
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}), and the runs of a confirmation are kept there; copy the "
            "sweep to where you may write"
        ) from None
    failed: dict[str, str] = {}

    def ended(which: Which, problem: str) -> None:
        on_run(*which, problem)
        if problem:
            failed[which[0]] = f"{which[0]} with seed {which[1]}: {problem}"

    pass_on(sweep.store, "store")
    left = {which: run for which, run in again.items() if not is_there(*run)}
    for which in again:
        if which not in left:
            ended(which, "")
    if left:
        compute(left, "run", reporting(sweep.base_config(), sweep.last_stage) or sweep.last_stage, ended)
    if DEFAULT in failed or len(failed) == len(configs) - 1:
        raise UserError(f"nothing is left to compare: {'; '.join(failed.values())}")
    results = {which: read_run(place)[1] for which, (_, place) in again.items() if which[0] not in failed}
    # without a mask nothing but the proxy is known
    annotated = all(any(name in of["metrics"] for name in HEADLINES) for of in results.values())
    metric = objective.metric if annotated else f"{sweep.selection}/{objective.metric}"
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in configs if name not in failed}
    for (name, _), of in results.items():
        usage = Usage(sum(of.get("seconds", {}).values()))
        chosen, reported = (
            objective.value(choosing(of["metrics"], how), usage)
            for how in (sweep.selection, "oracle" if annotated else sweep.selection)
        )
        values[name].append((chosen, reported))
    looks = earlier.looks + (earlier.values != values) if earlier else 1
    places = {name: [place for (of, _), (_, place) in again.items() if of == name] for name in values}
    image_errors = _over_images(places, metric)
    verdict = judge(metric, values, objective.direction, looks, image_errors)
    write_record(folder, verdict, objective.direction, sweep.selection, values, image_errors)
    return verdict


def _over_images(places: Mapping[str, Sequence[Path]], metric: str) -> dict[str, float]:
    """By finalist the standard error over images of its difference to the default, mean over the seeds; only where the
    runs kept what single images say of the metric."""
    found = {name: [by_image.read(place).get(metric) for place in of] for name, of in places.items()}
    kept = {name: np.stack(of) for name, of in found.items() if all(one is not None and len(one) > 1 for one in of)}  # type: ignore[arg-type]
    if DEFAULT not in kept:
        return {}
    samples = bootstrap(kept[DEFAULT].shape[1])
    means = {name: resampled(of, samples).mean(0) for name, of in kept.items()}
    return {name: float((mean - means[DEFAULT]).std(ddof=1)) for name, mean in means.items() if name != DEFAULT}


def seeds_within(study: optuna.Study, sweep: Sweep) -> int:
    """How many seeds the confirmation at the end of a sweep has: fewer than asked for, but two at least, where its
    budget leaves no more."""
    if sweep.confirm is None:
        raise ValueError("the sweep has no confirmation")
    if not sweep.budget:
        return sweep.confirm.seeds
    records = [*map(trial_record, study.get_trials(deepcopy=False))]
    of_a_seed = (sweep.confirm.top + 1) * whole_seconds(records)
    fit = (sweep.budget - compute_seconds(records)[0]) / of_a_seed if of_a_seed else math.inf
    return int(max(2, min(sweep.confirm.seeds, fit)))


def has_verdict(study: optuna.Study, sweep: Sweep, folder: Path) -> bool:
    """Whether the confirmation at the end of a sweep is done, for the trials that there are now. One that there is
    nothing for is."""
    if sweep.confirm is None or len(ranked(study, sweep)) < 2:
        return True
    if not has_record(folder):
        return False
    known = read_record(folder).values
    return {*known} == {*finalists(sweep, folder, sweep.confirm.top)} and (
        len(known[DEFAULT]) >= seeds_within(study, sweep)
    )


def track(sweep: Sweep, folder: Path, verdict: Verdict, tracker: Tracker) -> None:
    """The verdict as a run of MLflow below that of the sweep."""
    above = run_of(load_study(folder, sweep))
    tags = {"kind": "confirm", "selection": sweep.selection, "verdict": verdict.sentence}
    key = f"{above}-confirm-{int(time.time())}"
    tracker.start(key, f"{sweep.name}-confirm", above, {}, tags)
    means = {f"{name}/{verdict.metric}": s.mean for name, s in verdict.reported.items()}
    lows = {f"{name}/over_default_low": s.low for name, s in verdict.over_default.items() if math.isfinite(s.low)}
    tracker.log(key, [means | lows])
    tracker.attach(key, Path(RECORD))
    tracker.end(key, "COMPLETE")
