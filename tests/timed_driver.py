"""The command `semples-tune`, timed.

`python timed_driver.py FILE WORD...` appends to FILE, as JSON lines, how long each call of Ray to the searcher took and
each entry for MLflow, and how late a thread woke up that sleeps for 0.1 s.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tune.commands.app import main
from tune.environment import variables
from tune.tracking import MlflowQueue

with variables():  # as the command itself imports what imports Ray
    from tune.searcher import StudySearcher

FILE = sys.argv.pop(1)


def tell(what: str, seconds: float) -> None:
    with open(FILE, "a") as file:
        file.write(json.dumps([what, seconds]) + "\n")


def timed(kind: type, name: str, what: str) -> None:
    call: Callable[..., Any] = getattr(kind, name)

    @functools.wraps(call)
    def measured(*words: Any, **named: Any) -> Any:
        start = time.monotonic()
        try:
            return call(*words, **named)
        finally:
            tell(what, time.monotonic() - start)

    setattr(kind, name, measured)


def beat() -> None:
    while True:
        start = time.monotonic()
        time.sleep(0.1)
        if (late := time.monotonic() - start - 0.1) > 0.2:
            tell("late", late)


for name in ("suggest", "on_trial_result", "on_trial_complete"):
    timed(StudySearcher, name, "searcher")
timed(MlflowQueue, "_append", "mlflow")
threading.Thread(target=beat, daemon=True).start()
main()
