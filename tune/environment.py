"""What Ray, Optuna and MLflow are told while they work for a sweep; afterwards the process is as it was."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

# what the user has set stays; Ray and MLflow read some of these when they are imported
VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as here
    # pages of Ray's state, of which tune.cluster says a sentence
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Raylet is terminated|memory pressure|worker died",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # a call of the writer fails soon, and the entry is tried again later
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
LOUD = ("mlflow", "ray.tune")  # loggers of which what matters is said in a sentence of ours


@contextmanager
def variables() -> Iterator[None]:
    """The environment variables, set; they stand around the import of Ray and MLflow."""
    added = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Log levels under which the libraries do not speak in between."""
    levels = {name: logging.getLogger(name).level for name in LOUD}
    verbosity = optuna.logging.get_verbosity()
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, on which alone Ray ends in order, and so does SIGHUP, of a terminal that is
    closed, unless it is ignored (nohup). In a thread, which gets no signals, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    closed = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    ends = [signal.SIGTERM, *closed]
    before = {one: signal.signal(one, lambda *_: os.kill(os.getpid(), signal.SIGINT)) for one in ends}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
