"""A cluster in virtual time, for replays: what tasks ask for, and when they come to it."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

from semples.spread import PART
from tune.values import Resources


class Clock:
    """Virtual seconds, and what is to be done when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do it at this time, after all that is due at the same time already."""
        heapq.heappush(self._due, (when, next(self._order), what))

    def go_on(self) -> bool:
        """Do what is due next; False if there is nothing."""
        if not self._due:
            return False
        self.now, _, what = heapq.heappop(self._due)
        what()
        return True


class Machines:
    """GPUs and CPUs that tasks have to themselves while they run. Those that do not fit wait, and whichever fits goes
    first, in the order in which they came. held: from when to when how many GPUs were."""

    def __init__(self, gpus: int, cpus: int, resources: Resources):
        self.gpus, self.resources = gpus, resources
        self.held: list[tuple[float, float, float]] = []
        self._free = {"gpu": float(gpus), "cpu": float(cpus)}
        self._waiting: list[tuple[dict[str, float], Callable[[], None], int]] = []  # and how often

    @property
    def slots(self) -> int:
        """How many stages that use a GPU they have room for."""
        return int(self.gpus / self.resources.gpu)

    def busy(self, since: float, until: float) -> float:
        """Share of the time between for which the GPUs were held."""
        seconds = sum(gpus * max(0.0, min(end, until) - max(start, since)) for start, end, gpus in self.held)
        return seconds / (self.gpus * (until - since))

    def compute(self, clock: Clock, on_gpu: bool, alone: float, shared: float, done: Callable[[], None]) -> None:
        """A stage: so many seconds of its own, then so many CPU seconds in parts, which run wherever a CPU is free
        while the stage keeps its GPU. done: called when it is there."""
        of_stage = self.resources.of_stage(on_gpu)
        needs = {"gpu": of_stage["num_gpus"], "cpu": of_stage["num_cpus"]}
        of_part = {"gpu": 0.0, "cpu": self.resources.cpu_only}
        parts = left = math.ceil(shared / PART)

        def begin() -> None:
            since = clock.now

            def end(kept: dict[str, float]) -> None:
                self.held.append((since, clock.now, needs["gpu"]))
                self._give_back(kept)
                done()

            def end_part() -> None:
                nonlocal left
                left -= 1
                self._give_back(of_part)
                if left == 0:
                    end({"gpu": needs["gpu"]})

            def divide() -> None:
                self._give_back({"cpu": needs["cpu"]})  # which it does without while it waits
                self._take(of_part, lambda: clock.at(clock.now + shared / parts, end_part), parts)

            clock.at(clock.now + alone, divide if parts else lambda: end(needs))

        self._take(needs, begin)

    def _take(self, needs: dict[str, float], begin: Callable[[], None], times: int = 1) -> None:
        self._waiting.append((needs, begin, times))
        self._serve()

    def _give_back(self, needs: dict[str, float]) -> None:
        for name, amount in needs.items():
            self._free[name] += amount
        self._serve()

    def _serve(self) -> None:
        waiting, self._waiting = self._waiting, []
        for needs, begin, times in waiting:
            fit = min(int(self._free[name] / amount + 1e-9) for name, amount in needs.items() if amount)
            for _ in range(min(fit, times)):
                for name, amount in needs.items():
                    self._free[name] -= amount
                begin()
            if fit < times:
                self._waiting.append((needs, begin, times - fit))
