"""Seconds that a process really ran: those in which it was stopped (SIGSTOP, a frozen container) are left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TICK = 1.0  # seconds between two looks
STALL = 5.0  # seconds without a look after which the process did not run, if it also took next to no CPU time


class Stopwatch:
    """Counts from its making on; made by `running`."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._start = self._last = time.perf_counter()
        self._cpu = time.process_time()
        self._stalled = 0.0

    def look(self) -> None:
        """Notice a stall; to be called every TICK seconds."""
        with self._looking:
            now, cpu = time.perf_counter(), time.process_time()
            gap = now - self._last
            if gap > STALL and cpu - self._cpu < 0.1 * gap:
                self._stalled += gap - TICK
            self._last, self._cpu = now, cpu

    @property
    def seconds(self) -> float:
        """Seconds until now without the stalls."""
        self.look()
        return self._last - self._start - self._stalled

    @property
    def stalled(self) -> float:
        """Seconds of the stalls."""
        self.look()
        return self._stalled


@contextmanager
def running() -> Iterator[Stopwatch]:
    """A stopwatch that a thread looks after."""
    watch, end = Stopwatch(), threading.Event()

    def tick() -> None:
        while not end.wait(TICK):
            watch.look()

    thread = threading.Thread(target=tick, name="stopwatch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        end.set()
        thread.join()
