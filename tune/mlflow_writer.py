"""Takes the queue of a sweep's folder to MLflow: in a thread of the driver, in order, whenever MLflow is there.

How far it came is in a file beside the queue. Whoever is killed in between does the last entry again, which changes
nothing: runs are found by their key, and metrics, tags and files are written over themselves.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from semples.errors import UserError, cut
from semples.secrets import hint, redact
from tune.tracking import EXPERIMENT, KEY, PARENT, QUEUE

log = logging.getLogger(__name__)

WRITTEN = "mlflow.written"  # file: bytes of the queue that MLflow has
LOCK = ".mlflow.lock"
PAUSES = (1.0, 30.0)  # seconds after a failure: at first, at most
LOOK_EVERY = 0.5  # seconds
# answers to what MLflow will never take: a run that somebody deleted, a parameter that has another value by now
HOPELESS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
RUN_KEY = re.compile("[0-9A-Za-z-]{1,80}")


class HopelessError(Exception):
    """An entry that MLflow will never take."""


class Store:
    """One MLflow store, to which entries of a queue are applied."""

    def __init__(self, uri: str, folder: Path):
        self._whole, self._folder = uri, folder
        self.uri = redact(uri)
        self._runs: dict[str, str] = {}
        self._experiment = ""

    def check(self) -> None:
        """Raise UserError where the store cannot be used."""
        try:
            self._open()
        except UserError:
            raise
        except Exception as error:  # a driver that is missing, a server that is away, a word that is no address
            reason, advice = redact(cut(str(error), 200)), hint(self.uri, "mlflow")
            raise UserError(f"MLflow store {self.uri} cannot be used: {reason}{advice}") from None

    def holds(self, key: str) -> bool:
        """Whether there is a run of that key."""
        return self._find(key) is not None

    def apply(self, entry: dict[str, Any]) -> None:
        """Write an entry, see tune.tracking.Tracker. Raises what MLflow raises."""
        self._open()
        what, key, when = entry["what"], entry["run"], entry["time"]
        tags = [RunTag(name, str(value)[:5000]) for name, value in entry.get("tags", {}).items()]
        # MLflow allows 6,000 characters in a value, 100 parameters and 1,000 metrics in a call
        params = [Param(name, value[:6000]) for name, value in entry.get("parameters", [])]
        metrics = [Metric(name, value, when, step) for name, value, step in entry.get("metrics", [])]
        files = [file for name in entry.get("files", []) if (file := self._own_file(name))]
        run = self._find(key) or (self._start(entry) if what == "start" else None)
        if run is None:
            raise HopelessError("somebody deleted it")
        try:
            for first in range(0, len(params), 100):
                self._client.log_batch(run, params=params[first : first + 100])
            for first in range(0, len(metrics), 1000):
                self._client.log_batch(run, metrics=metrics[first : first + 1000])
            if tags:
                self._client.log_batch(run, tags=tags)
            for file in files:
                self._client.log_artifact(run, str(file))
            if what == "reopen":
                self._client.update_run(run, status="RUNNING")
            if what == "end":
                self._client.set_terminated(run, entry["status"], when)
        except MlflowException as error:
            if error.error_code in HOPELESS:
                raise HopelessError(redact(cut(str(error), 200))) from None
            raise

    def _open(self) -> None:
        if self._experiment:
            return
        file = Path(self._whole.removeprefix("sqlite:///"))
        if self._whole.startswith("sqlite:///") and file.exists() and not file.is_file():
            raise UserError(f"MLflow store {file}: is no plain file; take it away")  # MLflow would try for minutes
        self._client = MlflowClient(self._whole)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            # with a file store artifacts would go to the current folder of whoever is first
            place = None if self.uri.startswith("http") else (self._folder.parent / "mlartifacts").as_uri()
            self._experiment = self._client.create_experiment(EXPERIMENT, artifact_location=place)
        elif found.lifecycle_stage != "active":
            raise UserError(f"MLflow store {self.uri}: the experiment '{EXPERIMENT}' was deleted; restore it there")
        else:
            self._experiment = found.experiment_id

    def _find(self, key: str) -> str | None:
        """The id of the run with that key; of version 0.1.0 the key is the id."""
        if key not in self._runs:
            found = self._client.search_runs([self._experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
            if found:
                self._runs[key] = found[0].info.run_id
            elif len(key) == 32:
                try:
                    self._runs[key] = self._client.get_run(key).info.run_id
                except MlflowException as error:
                    if error.error_code not in HOPELESS:
                        raise
        return self._runs.get(key)

    def _start(self, entry: dict[str, Any]) -> str:
        tags = {**entry["tags"], KEY: entry["run"]}
        if entry["parent"] and (parent := self._find(entry["parent"])):
            tags[PARENT] = parent
        created = self._client.create_run(self._experiment, entry["time"], tags, entry["name"])
        return self._runs.setdefault(entry["run"], str(created.info.run_id))

    def _own_file(self, name: str) -> Path | None:
        """A plain file of the sweep's folder, None where it is not there or somewhere else."""
        folder, path = self._folder.resolve(), self._folder / name
        inside = not os.path.isabs(name) and path.resolve() == folder / name
        return path if inside and path.is_file() else None


def entries(folder: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a queue from a byte on, each with the byte after it; what is no entry is left out."""
    try:
        with open(os.open(folder / QUEUE, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                with suppress(ValueError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and RUN_KEY.fullmatch(str(entry.get("run"))):
                        yield start, entry
    except FileNotFoundError:
        return


def written(folder: Path) -> int:
    """Bytes of the queue that MLflow has."""
    try:
        return max(0, int((folder / WRITTEN).read_text()))
    except (OSError, ValueError):
        return 0  # all of it once more


def unwritten(folder: Path) -> int:
    """Number of entries that MLflow still lacks."""
    return sum(1 for _ in entries(folder, written(folder)))


class Writer:
    """A thread that takes a queue to its store until it is closed. Of several at the same folder one works."""

    def __init__(self, store: Store, folder: Path):
        self._store, self._folder = store, folder
        self._position = written(folder)
        self._seen = {_content(entry) for end, entry in entries(folder) if end <= self._position}
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._moved = time.monotonic()  # when an entry was written
        self._thread = threading.Thread(target=self._work, name="MLflow writer", daemon=True)
        self._warned = False

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close(0)

    def close(self, patience: float = 10.0) -> int:
        """Stop, as soon as all is written or nothing was for `patience` seconds; the number of entries that MLflow
        still lacks."""
        self._moved = time.monotonic()
        self._closing.set()
        while self._thread.is_alive() and time.monotonic() - self._moved < patience:
            self._thread.join(0.1)
        self._given_up.set()
        return unwritten(self._folder)

    def catch_up(self) -> None:
        """Write all that is in the queue. Raises what MLflow raises."""
        for end, entry in entries(self._folder, self._position):
            content = _content(entry)
            if not content or content not in self._seen:
                self._apply(entry)
                self._seen.add(content)
            temporary = self._folder / f".{WRITTEN}"
            temporary.write_text(str(end))
            temporary.replace(self._folder / WRITTEN)
            self._position, self._moved = end, time.monotonic()
            if self._given_up.is_set():
                return

    def _apply(self, entry: dict[str, Any]) -> None:
        try:
            self._store.apply(entry)
        except HopelessError as error:
            log.warning("MLflow store %s does not take an entry of run %s: %s", self._store.uri, entry["run"], error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("%s holds what is no entry: %s", self._folder / QUEUE, cut(repr(error), 200))

    def _work(self) -> None:
        pause = PAUSES[0]
        with open(os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb") as lock:
            while not self._given_up.is_set():
                closing = self._closing.is_set()
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._position = max(self._position, written(self._folder))
                    self.catch_up()
                except BlockingIOError:  # another process writes
                    closing &= not unwritten(self._folder)
                except Exception as error:  # whatever a store raises that is away, locked or broken
                    self._warn(error)
                    (self._given_up if closing else self._closing).wait(pause)
                    pause = min(2 * pause, PAUSES[1])
                    continue
                pause = PAUSES[0]
                if closing:
                    return
                self._closing.wait(LOOK_EVERY)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            where, why = self._store.uri, redact(cut(str(error), 200))
            log.warning("MLflow store %s fails; the sweep goes on and what is to be written waits: %s", where, why)


def catch_up(store: Store, folder: Path) -> None:
    """Write what MLflow missed in earlier launches."""
    if unwritten(folder):
        with Writer(store, folder) as writer:
            say_what_waits(store, writer.close())


def say_what_waits(store: Store, number: int) -> None:
    """Warn of entries that MLflow still lacks, if there are any."""
    if number:
        log.warning(
            "MLflow store %s still lacks %d entries of this sweep; the same command writes them when it is there again",
            store.uri,
            number,
        )


def _content(entry: dict[str, Any]) -> bytes:
    """What tells metrics that are there already from new ones; empty for other entries, of which every one counts."""
    if entry.get("what") != "log":
        return b""
    return hashlib.sha256(json.dumps([entry["run"], entry.get("metrics")]).encode()).digest()
