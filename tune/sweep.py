"""Launch a sweep, or go on with it: the same call does both."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from pydantic import ValidationError
from ray import tune as ray_tune

from semples.config import dump, to_dict, with_changes
from semples.errors import UserError, cut
from semples.output import headline, read_run
from semples.preflight import check
from tune.cluster import Lives, joined, watched
from tune.mlflow_writer import Store, Writer, entries, unwritten, written
from tune.searcher import StudySearcher
from tune.space import OBJECTIVES, Sweep
from tune.stopping import MilestoneStopping
from tune.study import (
    STUDY,
    effort,
    finished,
    is_default,
    load_study,
    open_study,
    passed_milestones,
    ranked,
    study_exists,
    succeeded,
    warm_starts,
)
from tune.tracking import RUN, RUN_0_1, Tracker, default_uri, new_key, run_of
from tune.trial import STORE, SWEEP_FILE, run_trial, trial_folder

log = logging.getLogger(__name__)

BEST = "best.yaml"
DONE = "all of its trials have run"
RETRIES = 3  # of a trial whose process or node died
# between launches of one sweep
MAY_CHANGE = ("trials", "budget", "wall", "parallel", "resources", "sampler", "mlflow", "store", "store_gb")

Notice = Callable[[int, dict[str, Any]], None]


def load_launched(folder: Path) -> Sweep:
    """The sweep file of a sweep folder, as it was launched."""
    try:
        return Sweep.model_validate(yaml.safe_load((folder / SWEEP_FILE).read_text()))
    except FileNotFoundError:
        raise UserError(f"{folder}: no sweep here; launch one, or name its folder with --out and --name") from None
    except (ValidationError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / SWEEP_FILE} was changed by hand and cannot be read: {reason}") from None


def check_same(sweep: Sweep, folder: Path) -> None:
    """Raise UserError if the folder holds another sweep than this one."""
    if not (folder / SWEEP_FILE).exists():
        if "://" in sweep.study and study_exists(folder, sweep):
            raise UserError(f"study {sweep.study} already holds a sweep '{folder.name}'; launch with another --name")
        return
    launched = load_launched(folder)
    old, new = launched.model_dump(), sweep.model_dump()
    for key in new:
        if key not in (*MAY_CHANGE, "preset", "base") and old[key] != new[key]:
            raise UserError(f"{folder} holds a sweep with another '{key}'; launch this one with another --name")
    if launched.base_config() != sweep.base_config():
        raise UserError(
            f"{folder} was launched with another base configuration (base, preset, resources or defaults changed since "
            "then); launch with another --name"
        )


def _record(sweep: Sweep, folder: Path) -> None:
    """Write the sweep into its folder, with every value of its base, so that it stays what it was."""
    store = store_place(sweep, folder) if sweep.store else ""  # wherever later commands are given
    resolved = sweep.model_copy(update={"preset": "", "base": to_dict(sweep.base_config()), "store": store})
    temporary = folder / f".{SWEEP_FILE}"
    temporary.write_text(yaml.safe_dump(resolved.model_dump(mode="json", exclude_none=True), sort_keys=False))
    temporary.replace(folder / SWEEP_FILE)


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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one launch at a time may write into a sweep folder."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: this sweep is being run by another process; stop that one first") from None
        yield


def launch(sweep: Sweep, out: Path, address: str | None, notice: Notice) -> str:
    """Run the trials that the sweep still lacks, in `out`/NAME; finished ones are never repeated.

    notice: see tune.searcher.StudySearcher. Ctrl-C and SIGTERM end it in order.
    Returns why it ended, "" if it was kept from going on. Raises UserError if none of its trials could run.
    """
    folder = (out / sweep.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        check_same(sweep, folder)
        store = Store(tracking_uri(sweep, out), folder)
        missing = trials_to_go(sweep, folder)
        if missing <= 0:
            catch_up(store, folder)
            return DONE
        base = sweep.base_config()
        lengths = sweep.space["prompts.length"].ends if "prompts.length" in sweep.space else (base.prompts.length,)
        check(with_changes(base, {"prompts.length": max(lengths)}, "space"))
        warm_starts(sweep)  # raises before anything is written
        key = _run_key(sweep, folder, store)
        with joined(sweep.resources, address) as logs, Writer(store, folder) as writer:  # before anything is written
            _record(sweep, folder)
            study, tracker = open_study(folder, sweep), Tracker(folder)
            _open_run(sweep, study, tracker, key)

            def start_run(number: int, parameters: dict[str, Any]) -> str:
                config = to_dict(with_changes(base, parameters, "suggestion"))
                tags = {"kind": "trial", "trial": str(number), "selection": sweep.selection}
                return tracker.start(f"{key}-{number:04d}", f"{sweep.name}-{number:04d}", key, config, tags)

            searcher = StudySearcher(study, sweep, tracker, start_run, notice)

            def give_up() -> None:
                searcher.stop()
                tracker.end(key, "STOPPED")
                _say_what_waits(store, writer.close(3))  # Ray does not wait much longer

            ended_before, locked = len(finished(study)), False
            # Ray ends in order on SIGINT alone
            signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
            try:
                with watched(give_up, logs):
                    _fit(sweep, study, searcher, to_dict(base), folder, missing, notice)
            except Exception as error:
                if (cause := _of_study(error)) is None:
                    raise
                locked = True
                give_up()
                why = cut(str(cause.__cause__ or cause), 200)
                raise UserError(
                    f"study {sweep.study or folder / STUDY} cannot be used any more: {why}; the sweep was stopped, and "
                    "the same command goes on from there"
                ) from None
            finally:
                if not locked:
                    searcher.stop()
                    trials = finished(study)
                    why = DONE if len(trials) - ended_before >= missing else ""
                    why = why or ("" if searcher.unfinished else searcher.exhausted)
                    tracker.log(key, [{"trials": float(len(trials)), **effort(trials), **best_figures(study, sweep)}])
                    if write_best(folder, study, sweep):
                        tracker.attach(key, Path(BEST))
                    tracker.end(key, "COMPLETE" if why and not searcher.failing else "STOPPED")
                    _say_what_waits(store, writer.close())
    if searcher.failing:
        raise UserError(f"{searcher.exhausted} ({folder / 'trials'}/*/error.txt); the same command tries again")
    if why and not succeeded(study):
        reasons = [trial.user_attrs.get("reason") for trial in finished(study)]
        raise UserError(f"no trial came through; {reasons[-1] if reasons else why} ({folder / 'trials'}/*/error.txt)")
    return why


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
    tags = {"kind": "sweep", "selection": sweep.selection, "objective": ", ".join(sweep.objective)}
    tracker.start(key, sweep.name, "", sweep.model_dump(mode="json", exclude_none=True), tags)
    study.set_user_attr(RUN, key)
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
    if study and key and (written(folder) or RUN_0_1 in study.user_attrs) and not store.holds(key):
        raise UserError(f"MLflow store {store.uri} does not hold this sweep; go on in the store it began in")
    begun = (e["run"] for _, e in entries(folder) if e.get("what") == "start" and not e.get("parent"))
    return key or next(begun, "") or new_key()


def catch_up(store: Store, folder: Path) -> None:
    """Write what MLflow missed in earlier launches."""
    if unwritten(folder):
        with Writer(store, folder) as writer:
            _say_what_waits(store, writer.close())


def _say_what_waits(store: Store, number: int) -> None:
    if number:
        log.warning(
            "MLflow store %s still lacks %d entries of this sweep; the same command writes them when it is there again",
            store.uri,
            number,
        )


def best_figures(study: optuna.Study, sweep: Sweep) -> dict[str, float]:
    """Objectives and both mIoUs of the best complete trial, as `best_...`; empty if there is none."""
    for trial in ranked(study, sweep)[:1]:
        reported = {k: v for k, v in trial.user_attrs["metrics"].items() if k in OBJECTIVES}
        chosen = {f"objective/{name}": value for name, value in zip(sweep.objective, trial.values, strict=True)}
        return {f"best_{name}": value for name, value in {**chosen, **reported}.items()}
    return {}


def write_best(folder: Path, study: optuna.Study, sweep: Sweep) -> Path | None:
    """Write best.yaml, the resolved configuration of the best complete trial; None if there is no such trial."""
    if not (best := ranked(study, sweep)[:1]):
        return None
    path = folder / BEST
    path.write_text(describe(folder, best[0].number))
    return path


def describe(folder: Path, number: int) -> str:
    """The resolved configuration of a complete trial as YAML, its figures above it."""
    config, result = read_run(trial_folder(folder, number))
    return dump(config, f"trial {number} of sweep '{folder.name}'\n{headline(result['metrics'], config)}")


def store_place(sweep: Sweep, folder: Path) -> str:
    """Folder or URL of the stage results that the trials of a sweep share."""
    if "://" in sweep.store:
        return sweep.store
    return str(Path(sweep.store).expanduser().resolve() if sweep.store else folder / STORE)


def tracking_uri(sweep: Sweep, out: Path) -> str:
    """Where the sweep is tracked: its own `mlflow` key, the environment, or a SQLite file in `out`."""
    return sweep.mlflow or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(out.resolve())


def _fit(
    sweep: Sweep,
    study: optuna.Study,
    searcher: StudySearcher,
    base: dict[str, Any],
    folder: Path,
    missing: float,
    notice: Notice,
) -> None:
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            run_trial,
            base=base,
            folder=str(folder),
            objective=sweep.objective,
            until=sweep.last_stage,
            store=store_place(sweep, folder),
            quota=sweep.store_gb,
        ),
        ray_tune.PlacementGroupFactory([{"CPU": sweep.resources.cpu, "GPU": sweep.resources.gpu}]),
    )
    scratch = folder / "ray"
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            num_samples=-1 if math.isinf(missing) else int(missing),
            search_alg=searcher,
            scheduler=MilestoneStopping(
                sweep.early_stopping,
                sweep.last_stage,
                passed_milestones(study),
                lambda number: is_default(study, sweep, number),
            ),
            max_concurrent_trials=sweep.parallel or None,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Lives(notice)],
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)
