"""The folder of a sweep: what it says of itself, where its things are, and who may write into it.

Whoever only reads goes by `sweep.yaml`, not by what the folder is called at the time, and leaves every byte as it was.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

import optuna
from pydantic import ValidationError

from semples import strict_yaml
from semples.config import dump, read_yaml, reason
from semples.errors import UserError, cut
from semples.folders import claim, overlap
from semples.lease import local_folder
from semples.run_folder import headline, read_run
from semples.secrets import conceal, reveal
from tune.parts import HEADLINES
from tune.places import BEST, STORE, SWEEP_FILE, trial_folder
from tune.records import reported_later, trial_record
from tune.storage import choose, place_of
from tune.study import load_study, ranked, study_exists
from tune.sweep_file import FORMAT, Sweep, make_sweep
from tune.tracking import EXPERIMENT, default_uri

SERIES = "series of sweeps"  # kind of the folder that sweeps are in
LOCK = ".lock"
RUNNER = ".runner"  # process and host of the launch that has the lock, once it has begun
# between launches of one sweep
MAY_CHANGE = (
    "name", "trials", "budget", "time_limit", "stop_when", "parallel", "resources", "sampler", "trackers",
    "mlflow", "store", "store_gb", "reuse", "report", "gate", "confirm",
)  # fmt: skip


def without_secrets(sweep: Sweep) -> Sweep:
    """The sweep with URLs that may be shown and written; `reveal` gives the whole ones back."""
    return sweep.model_copy(update={key: conceal(getattr(sweep, key)) for key in ("study", "mlflow", "store")})


def load_launched(folder: Path) -> Sweep:
    """The sweep file of a sweep folder, as it was launched."""
    path = folder / SWEEP_FILE
    if not os.path.lexists(path):
        raise UserError(f"{folder}: no sweep here; launch one, or name its folder with --out and --name")
    tree = FORMAT.read(read_yaml(path), str(path))
    try:
        sweep = without_secrets(make_sweep(tree))
        return sweep.model_copy(update={"study": sweep.study or "sqlite"})  # as version 0.1.0 meant it
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{path}: damaged or changed by hand ({key}: {reason(error)}); put back what was there"
        ) from None


def holds_sweep(folder: Path) -> bool:
    """Whether a folder holds the file of a launched sweep."""
    try:
        load_launched(folder)
    except UserError:
        return False
    return True


def check_same(sweep: Sweep, folder: Path) -> Sweep:
    """The sweep under the name that it was launched with, if the folder holds it, and with the study that it has or
    will have. Raises UserError if the folder holds another one, or what is left of one."""
    if not os.path.lexists(folder / SWEEP_FILE):
        sweep = sweep.model_copy(update={"study": sweep.study or choose(folder)})
        if "://" in sweep.study and study_exists(folder, sweep):
            raise UserError(f"study {sweep.study} already holds a sweep '{sweep.name}'; launch with another --name")
        if study_exists(folder, sweep) or next((folder / "trials").glob("*"), None):
            raise UserError(
                f"{folder}: its {SWEEP_FILE} is gone, but not its study or trials/; put it back, or launch with "
                "another --name"
            )
        return sweep
    launched = load_launched(folder)
    sweep = sweep.model_copy(update={"study": sweep.study or launched.study})
    old, new = launched.model_dump(), sweep.model_dump()
    for key in new:
        if key not in (*MAY_CHANGE, "preset", "base") and old[key] != new[key]:
            raise UserError(f"{folder} holds a sweep with another '{key}'; launch this one with another --name")
    if launched.base != sweep.base:
        raise UserError(
            f"{folder} was launched with another base configuration (base, preset, resources or defaults changed since "
            "then); launch with another --name"
        )
    same = sweep.model_copy(update={"name": launched.name})
    if study_exists(folder, same):
        searched = {key for trial in load_study(folder, same).get_trials(deepcopy=False) for key in trial.params}
        if gone := searched - {*same.space}:
            raise UserError(
                f"{folder}: its trials searched '{cut(min(gone))}', which has another name now; launch with another "
                "--name, and with warm_start to begin with the best of them"
            )
    elif next((folder / "trials").glob("*"), None):
        raise UserError(
            f"{folder}: its study is gone ({place_of(folder, same)}), but not its trials/, which a new one would "
            "write over; put it back, or launch with another --name"
        )
    return same


def claim_folders(sweep: Sweep, out: Path, folder: Path) -> None:
    """Make the folder of sweeps and that of this one, or take them where they say that they are. Raises UserError where
    they hold somebody's files or the data, or the store does."""
    root: str = sweep.base["data"].get("root", "")
    store = local_folder(store_place(sweep, folder))
    if root and store and overlap(store, Path(root)):
        raise UserError(f"store {store}: overlaps the data in {root}; choose another folder")
    claim(out, SERIES, apart_from=root, adopt=any(map(holds_sweep, (p.parent for p in out.glob(f"*/{SWEEP_FILE}")))))
    claim(folder, "sweep", (BEST,), apart_from=root, adopt=holds_sweep(folder))


@contextmanager
def alone(folder: Path) -> Iterator[Callable[[], None]]:
    """Only one launch at a time may write into a sweep folder. Yields what lets others know that it has begun, see
    `runner`."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise UserError(f"{folder / LOCK}: cannot be used as a lock ({error.strerror}); take it away") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: this sweep is being run by another process; stop that one first") from None

        def sign() -> None:
            _replace(folder, RUNNER, f"{os.getpid()} {socket.gethostname()}\n")

        if (folder / RUNNER).exists():
            _replace(folder, RUNNER, "")  # of an earlier launch

        yield sign
    finally:
        os.close(lock)


def runner(folder: Path) -> tuple[int, str] | None:
    """Process and host of the launch that runs the sweep in a folder, None where none does, or has not begun."""
    with suppress(OSError), (folder / LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            said = (folder / RUNNER).read_text().split()
            return (int(said[0]), said[1]) if len(said) == 2 else None
    return None


def record(sweep: Sweep, folder: Path) -> None:
    """Write the sweep into its folder, so that it stays what it was."""
    store = store_place(sweep, folder) if sweep.store else ""  # wherever later commands are given
    recorded = sweep.model_copy(update={"store": store})
    if os.path.lexists(folder / SWEEP_FILE) and load_launched(folder) == recorded:
        return  # as it may have been written by an earlier version
    _replace(
        folder, SWEEP_FILE, strict_yaml.dumps(FORMAT.stamp() | recorded.model_dump(mode="json", exclude_none=True))
    )


def write_best(folder: Path, study: optuna.Study, sweep: Sweep) -> bool:
    """Write best.yaml, the resolved configuration of the best complete trial; whether there is such a trial. Raises
    UserError where somebody changed it."""
    best = ranked(study, sweep)[:1]
    for trial in best:
        _replace(folder, BEST, trial_config_yaml(folder, trial.number))
    return bool(best)


def _replace(folder: Path, name: str, text: str) -> None:
    with claim(folder, "sweep").publishing() as new:
        (new / name).write_text(text)


def trial_config_yaml(folder: Path, number: int) -> str:
    """The resolved configuration of a complete trial as YAML, its figures above it."""
    config, result = read_run(trial_folder(folder, number))
    return dump(config, f"trial {number} of sweep '{folder.name}'\n{headline(result['metrics'], config)}")


def best_figures(study: optuna.Study, sweep: Sweep) -> dict[str, float]:
    """Objectives and both mIoUs of the best complete trial, as `best_...`; empty if there is none."""
    for trial in ranked(study, sweep)[:1]:
        metrics = trial_record(trial, reported_later(study)).metrics
        reported = {k: v for k, v in metrics.items() if k in HEADLINES}
        return {f"best_{name}": v for name, v in {**sweep.by_objective(trial.values), **reported}.items()}
    return {}


def store_place(sweep: Sweep, folder: Path) -> str:
    """Folder or URL, without its secrets, of the stage results that the trials of a sweep share."""
    if "://" in sweep.store:
        return sweep.store
    return str(Path(sweep.store).expanduser().resolve() if sweep.store else folder / STORE)


def tracking_uri(sweep: Sweep, out: Path) -> str:
    """Where the sweep is tracked, secrets and all: its own `mlflow` key, the environment, or a SQLite file in `out`."""
    return reveal(sweep.mlflow, "mlflow") or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(out.resolve())


def moved(out: Path) -> str:
    """What to say where the SQLite file of these sweeps looks for artifacts in another place than beside it, because
    `out` was moved; else ""."""
    out = out.resolve()
    here, file = out / "mlartifacts", out / "mlflow.db"
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        for (location,) in database.execute(query, (EXPERIMENT,)):
            if location != here.as_uri() and location.startswith("file:"):
                place = unquote(urlsplit(location).path)
                lead = f"mkdir -p {quote(str(Path(place).parent))} && ln -s {quote(str(here))} {quote(place)}"
                return f"{out} was moved, and MLflow looks for galleries and files in {place}; lead it here: {lead}"
    return ""
