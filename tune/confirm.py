"""The finalists again, over seeds: is the best trial better than the default configuration, or was it lucky?

A trial is one seed, and the best of many is the luckiest of them too. So the leading trials and the default run again
with seeds that no trial had, and a winner is named only where that can hardly be luck.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from semples.config import Config, with_changes
from semples.errors import UserError, cut
from semples.formats import Format, json_object
from semples.pipeline.graph import reporting
from semples.run_folder import read_run
from semples.secrets import pass_on
from tune.cluster import joined, watched
from tune.driver import catch_up
from tune.messages import Usage
from tune.mlflow_writer import Store
from tune.needs import trained_by
from tune.objectives import Direction, choosing
from tune.outside import compute_all, is_there
from tune.parts import HEADLINES
from tune.places import trial_folder
from tune.records import run_of
from tune.study import load_study, ranked
from tune.sweep_file import Sweep
from tune.sweep_folder import tracking_uri
from tune.tracking import open_trackers
from tune.verdict import DEFAULT, Verdict, judge

CONFIRM = "confirm"  # folder of the runs; with .json, the verdict
FORMAT = Format((dict,))  # confirm.json of version 0.1.0 lacks the stamp only


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


def confirm(
    sweep: Sweep, folder: Path, top: int, seeds: int, address: str | None, on_run: Callable[[str, int, str], None]
) -> Verdict:
    """Run the finalists with `seeds` seeds that the sweep did not use, and judge them; the same call goes on where an
    earlier one was interrupted.

    on_run: called with (finalist, seed, "" or what went wrong) when a run is done. A finalist of which a run fails is
    out. Writes confirm.json into the folder. Raises UserError if nothing is left to compare.
    """
    objective = next(one for one in sweep.objectives if one.stage)
    earlier = _read(folder) if (folder / f"{CONFIRM}.json").exists() else None
    configs = finalists(sweep, folder, top)
    first = sweep.base_config().seed + 1
    again = {
        (name, seed): (
            with_changes(config, {"seed": seed}, "confirm"),
            folder / CONFIRM / name.replace(" ", "-") / str(seed),
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
    until = reporting(sweep.base_config(), sweep.last_stage) or sweep.last_stage

    def ended(which: tuple[str, int], problem: str) -> None:
        on_run(*which, problem)
        if problem:
            failed[which[0]] = f"{which[0]} with seed {which[1]}: {problem}"

    pass_on(sweep.store, "store")
    left = {which: run for which, run in again.items() if not is_there(*run)}
    for which in again:
        if which not in left:
            ended(which, "")
    if left:
        with joined(sweep.resources, address) as logs, watched(lambda: None, logs):
            compute_all(sweep, folder, left, "run", until, ended)
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
    verdict = judge(metric, values, objective.direction, looks)
    temporary = folder / f".{CONFIRM}.json"
    record = {**FORMAT.stamp(), "metric": metric, "direction": objective.direction, "seeds": seeds, "looks": looks}
    record |= {"selection": sweep.selection, "values": values}
    temporary.write_text(
        json.dumps({**record, "winner": verdict.winner, "sentence": verdict.sentence}, indent=2) + "\n"
    )
    temporary.replace(folder / f"{CONFIRM}.json")
    _track(sweep, folder, verdict)
    return verdict


class _Record(BaseModel):
    """What confirm.json holds that a verdict is made of."""

    model_config = ConfigDict(allow_inf_nan=False)

    metric: str
    direction: Direction = "maximize"
    looks: int = Field(default=1, ge=1)
    values: dict[str, Annotated[list[tuple[float, float]], Field(min_length=1)]]


def read_verdict(folder: Path) -> Verdict:
    """The verdict that a confirmation left in the folder of a sweep. Raises UserError where there is none, or a damaged
    or newer one."""
    found = _read(folder)
    return judge(found.metric, found.values, found.direction, found.looks)


def _read(folder: Path) -> _Record:
    path = folder / f"{CONFIRM}.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with semples-tune confirm")
    try:
        found = _Record.model_validate(FORMAT.read(json_object(path.read_bytes()), str(path)))
        if DEFAULT not in found.values or len({len(pairs) for pairs in found.values.values()}) != 1:
            raise ValueError("values")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({cut(str(error))}); delete it and run semples-tune confirm again") from None
    return found


def _track(sweep: Sweep, folder: Path, verdict: Verdict) -> None:
    """The verdict as a run of MLflow below that of the sweep."""
    tracker, above = open_trackers(folder, sweep.trackers), run_of(load_study(folder, sweep))
    tags = {"kind": "confirm", "selection": sweep.selection, "verdict": verdict.sentence}
    key = f"{above}-confirm-{int(time.time())}"
    tracker.start(key, f"{sweep.name}-confirm", above, {}, tags)
    means = {f"{name}/{verdict.metric}": s.mean for name, s in verdict.reported.items()}
    lows = {f"{name}/over_default_low": s.low for name, s in verdict.over_default.items() if math.isfinite(s.low)}
    tracker.log(key, [means | lows])
    tracker.attach(key, Path(f"{CONFIRM}.json"))
    tracker.end(key, "COMPLETE")
    catch_up(Store(tracking_uri(sweep, folder.parent), folder), folder)
