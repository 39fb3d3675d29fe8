"""Launch a sweep, or go on with it: the same call does both."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from ray import tune as ray_tune

from semples.config import flatten, to_dict, with_changes
from semples.errors import UserError
from semples.preflight import GROWING, check
from semples.secrets import pass_on, reveal
from semples.store import open_store
from tune import examine
from tune.cluster import Lives, joined, watched
from tune.confirm import has_verdict, judge_finalists, seeds_within, track
from tune.environment import termination_interrupts
from tune.messages import RunCallback, TrialCallback
from tune.mlflow_writer import Store, Writer, catch_up, entries, say_what_waits, written
from tune.nodes import kinds_to_come, leave_out_unfit, others, room_to_come
from tune.outside import MAX_FAILURES, compute_all
from tune.parts import TRACKERS, find
from tune.places import BEST, STORE, SWEEP_FILE
from tune.records import compute_seconds, is_of_0_1, keep_run, run_of, trial_record
from tune.reporting import report_leaders
from tune.samplers import create_sampler
from tune.scheduler import scheduler_of
from tune.searcher import StudySearcher
from tune.stage_tasks import WAITING, slots
from tune.stopping import rules
from tune.storage import place_of, remark
from tune.storage import why as reason_of
from tune.study import finished, load_study, study_exists, succeeded, unreported
from tune.sweep_file import Sweep
from tune.sweep_folder import (
    alone,
    best_figures,
    check_same,
    claim_folders,
    moved,
    record,
    store_place,
    tracking_uri,
    without_secrets,
    write_best,
)
from tune.tracking import Tracker, new_key, open_trackers
from tune.trial import run_trial
from tune.warm_start import open_study, warm_starts

log = logging.getLogger(__name__)

DONE = "all of its trials have run"


def trials_to_go(sweep: Sweep, folder: Path) -> float:
    """Trials that the sweep lacks, infinite where only time ends it. Failed ones are made up for: what made them fail
    may have been put right. Interrupted ones are always ended, even where `trials` is lower than it was."""
    if sweep.trials is None:
        return math.inf
    if not study_exists(folder, sweep):
        return sweep.trials
    study = load_study(folder, sweep)
    interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return max(sweep.trials - len(succeeded(study)), len(interrupted))


def launch(
    sweep: Sweep, out: Path, address: str | None, on_event: TrialCallback, on_run: RunCallback = lambda *_: None
) -> str:
    """Run the trials that the sweep still lacks, in `out`/NAME; finished ones are never repeated.

    on_event: called with the number of a trial and what happened to it; on_run: see tune.confirm. Ctrl-C and SIGTERM
    end it in order.
    Returns why it ended, "" if it was kept from going on. Raises UserError if none of its trials could run.
    """
    folder = (out / sweep.name).resolve()
    sweep = without_secrets(sweep)
    # what these raise is raised before anything is written
    rules(sweep)
    create_sampler(sweep, sweep.seed)
    for tracker_of_others in sweep.trackers:
        find(TRACKERS, tracker_of_others, folder)
    claim_folders(sweep, out, folder)
    with alone(folder) as sign:
        asked, sweep = sweep.study, check_same(sweep, folder)
        for said in filter(None, (moved(out), remark(folder, sweep, asked))):
            log.warning("%s", said)
        store = Store(tracking_uri(sweep, out), folder)
        missing = trials_to_go(sweep, folder)
        if missing <= 0 and _nothing_left(sweep, folder):
            catch_up(store, folder)
            return DONE
        base = sweep.base_config()
        most = {key: max(sweep.space[key].bounds) for key in GROWING if key in sweep.space}
        check(with_changes(base, most, "space"))
        warm_starts(sweep)  # raises before anything is written
        key = _run_key(sweep, folder, store)
        pass_on(sweep.store, "store")
        # that the store is none, or cannot be written, is known now
        open_store(reveal(store_place(sweep, folder), "store"), folder / STORE, sweep.store_gb).close()
        with joined(sweep.resources, address) as logs, Writer(store, folder) as writer:  # before anything is written
            room = _room(sweep, folder, address)
            record(sweep, folder)
            sign()
            study, tracker = open_study(folder, sweep), open_trackers(folder, sweep.trackers)
            _open_run(sweep, study, tracker, key)

            def start_run(number: int, parameters: dict[str, Any]) -> str:
                config = dict(flatten(to_dict(with_changes(base, parameters, "suggestion"))))
                for name in sweep.decided(parameters):  # is known, and added, later
                    del config[name]
                tags = {"kind": "trial", "trial": str(number), "selection": sweep.selection, "reuse": sweep.reuse}
                own = f"{key}-{number:04d}"
                tracker.start(own, f"{sweep.name}-{number:04d}", key, config, tags)
                return own

            searcher = StudySearcher(study, sweep, tracker, start_run, on_event, room)

            def give_up() -> None:
                searcher.stop()
                tracker.end(key, "STOPPED")
                say_what_waits(store, writer.close(3))  # Ray does not wait much longer

            ended_before, locked, through = len(finished(study)), False, False

            def why_it_ended() -> str:
                done = DONE if len(finished(study)) - ended_before >= missing else ""
                return done or ("" if searcher.unfinished else searcher.exhausted)

            try:
                with watched(give_up, logs), termination_interrupts():
                    _fit(sweep, study, searcher, to_dict(base), folder, missing, on_event, logs)
                    if why_it_ended() and not searcher.failing:
                        report_leaders(study, sweep, folder, tracker, on_event)
                        _confirm(study, sweep, folder, tracker, on_run)
                    through = True
            except Exception as error:
                if (cause := _of_study(error)) is None:
                    raise
                locked = True
                give_up()
                raise UserError(
                    f"{place_of(folder, sweep)} cannot be used any more: {reason_of(cause)}; the sweep was stopped, "
                    "and the same command goes on from there"
                ) from None
            finally:
                if not locked:
                    searcher.stop()
                    why = why_it_ended()
                    computed, saved = compute_seconds(map(trial_record, trials := finished(study)))
                    figures = {"trials": float(len(trials)), "seconds_computed": computed, "seconds_saved": saved}
                    tracker.log(key, [{**figures, **best_figures(study, sweep)}])
                    try:
                        if write_best(folder, study, sweep):
                            tracker.attach(key, Path(BEST))
                    except UserError as error:  # somebody changed it meanwhile
                        log.warning("%s", error)
                    tracker.end(key, "COMPLETE" if why and through and not searcher.failing else "STOPPED")
                    say_what_waits(store, writer.close())
    if searcher.failing:
        raise UserError(f"{searcher.exhausted} ({folder / 'trials'}/*/error.txt); the same command tries again")
    if why and not succeeded(study):
        reasons = [trial_record(trial).reason for trial in finished(study)]
        raise UserError(f"no trial came through; {reasons[-1] if reasons else why} ({folder / 'trials'}/*/error.txt)")
    return why


def _room(sweep: Sweep, folder: Path, address: str | None) -> Callable[[], float]:
    """How many stages there is to be work for now. On a cluster its nodes are looked at first."""
    if address is None:
        return lambda: slots(sweep.resources)
    kinds = kinds_to_come(Path.home())
    leave_out_unfit(sweep, folder, kinds)
    return lambda: room_to_come(sweep.resources, slots(sweep.resources), kinds)


def _nothing_left(sweep: Sweep, folder: Path) -> bool:
    """Whether what comes after the trials is done."""
    study = load_study(folder, sweep)
    return not unreported(study, sweep) and has_verdict(study, sweep, folder)


def _confirm(study: optuna.Study, sweep: Sweep, folder: Path, tracker: Tracker, on_run: RunCallback) -> None:
    """The finalists over seeds; Ray is joined already."""
    if sweep.confirm is None or has_verdict(study, sweep, folder):
        return
    top, seeds = sweep.confirm.top, seeds_within(study, sweep)
    try:
        verdict = judge_finalists(sweep, folder, top, seeds, partial(compute_all, sweep, folder), on_run)
    except UserError as error:
        log.warning("no confirmation: %s", error)
        return
    track(sweep, folder, verdict, tracker)


def _of_study(error: BaseException | None) -> StorageInternalError | None:
    """The error of the study's storage for which Ray raised another one, None if it was not for that."""
    while error is not None and not isinstance(error, StorageInternalError):
        error = error.__cause__ or error.__context__
    return error


def _open_run(sweep: Sweep, study: optuna.Study, tracker: Tracker, key: str) -> None:
    """Begin the sweep's MLflow run, or go on with it."""
    if run_of(study):
        tracker.reopen(key)
        return
    objective = ", ".join(one.metric for one in sweep.objectives)
    tags = {"kind": "sweep", "selection": sweep.selection, "objective": objective}
    tracker.start(key, sweep.name, "", sweep.model_dump(mode="json", exclude_none=True), tags)
    keep_run(study, key)
    tracker.attach(key, Path(SWEEP_FILE))


def _run_key(sweep: Sweep, folder: Path, store: Store) -> str:
    """The key of the sweep's MLflow run, a new one if it has none. Raises UserError where a new sweep's store cannot be
    used, or that of an old one is another than it began in."""
    study = load_study(folder, sweep) if study_exists(folder, sweep) else None
    key = run_of(study) if study else ""
    try:
        store.check()
    except UserError:
        if not key:
            raise
        return key  # the writer says so, and goes on trying
    if study and key and (written(folder) or is_of_0_1(study)) and not store.holds(key):
        raise UserError(f"MLflow store {store.uri} does not hold this sweep; go on in the store it began in")
    begun = (e["run"] for _, e in entries(folder) if e.get("what") == "start" and not e.get("parent"))
    return key or next(begun, "") or new_key()


def _fit(
    sweep: Sweep,
    study: optuna.Study,
    searcher: StudySearcher,
    base: dict[str, Any],
    folder: Path,
    missing: float,
    on_event: TrialCallback,
    logs: str,
) -> None:
    """Run the missing trials."""
    if missing <= 0:
        return
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            run_trial,
            base=base,
            folder=str(folder),
            objectives=sweep.objectives,
            until=sweep.last_stage,
            report=sweep.report,
            store=store_place(sweep, folder),
            quota=sweep.store_gb,
            reuse=sweep.reuse,
            resources=sweep.resources,
            own={key: (of.scored_by, sweep.space[key]) for key, of in sweep.analytic.items()},
            code=examine.code(),
        ),
        lambda _: ray_tune.PlacementGroupFactory([{"memory": WAITING}], bundle_label_selector=[others(folder)]),
    )
    # Ray wants a place for snapshots, which are never read; on a cluster one that all nodes see
    scratch = tempfile.mkdtemp(prefix=".ray-", dir=logs or folder)
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            num_samples=-1 if math.isinf(missing) else int(missing),
            search_alg=searcher,
            scheduler=scheduler_of(sweep, study),
            max_concurrent_trials=sweep.parallel or None,  # else as many as the searcher gives
            trial_dirname_creator=lambda trial: trial.trial_id,
            reuse_actors=True,  # a new process would import torch first, some seconds each time
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Lives(on_event, folder)],
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)
