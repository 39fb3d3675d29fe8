"""The same function over many things, on several processors and in order: what stages do image by image.

By default on processes of this machine; whoever runs a stage elsewhere says with `using` where else, a cluster say.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Later = Callable[[], list[Any]]  # waits for the results of a part that was handed over, and gives them

WORTH = 20.0  # seconds of work below which nobody else is asked
PART = 5.0  # seconds of work that are handed over at a time


class Pool(Protocol):
    """Others that work. parts: how many they are given at a time. cpu_seconds: that they took so far, where the system
    does not count these as of this process or of one that it started."""

    parts: int
    cpu_seconds: float

    def handing_over(self, function: Callable[[T], R]) -> Callable[[list[T]], Later]:
        """What hands over a part of the things that the function is done with."""
        ...


_pool: ContextVar[Pool | None] = ContextVar("pool", default=None)


@contextmanager
def using(pool: Pool) -> Iterator[None]:
    """What `each` does meanwhile in this thread, it does there."""
    before = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(before)


def elsewhere() -> float:
    """CPU seconds of the pool that is in use."""
    pool = _pool.get()
    return pool.cpu_seconds if pool else 0.0


def each(function: Callable[[T], R], things: Iterable[T], count: int, workers: int = 0) -> Iterator[R]:
    """function(thing) of `count` things, in their order.

    Things are taken from the iterator as they are needed. Where no pool is in use, `workers` processes of this machine
    share the work, 0 = none besides this one. The first thing is done here, to know how long one takes. What is handed
    over and what comes back can be pickled, to a pool the function, too.
    """
    left = iter(things)
    for thing in islice(left, 1):
        start = time.perf_counter()
        first = function(thing)
        seconds = time.perf_counter() - start
        yield first
        worth, pool = seconds * (count - 1) >= WORTH, _pool.get()
        if worth and pool:
            yield from _shared(pool.handing_over(function), left, pool.parts, seconds, count)
        elif worth and workers:
            forked = multiprocessing.get_context("fork")  # so that they have the function as it is
            with ProcessPoolExecutor(workers, forked, _take, (function,)) as processes:
                yield from _shared(partial(_submit, processes), left, workers, seconds, count)
        else:
            yield from map(function, left)


def _shared(
    hand_over: Callable[[list[T]], Later], left: Iterator[T], parts: int, seconds: float, count: int
) -> Iterator[Any]:
    size = max(1, min(math.ceil(PART / max(seconds, 1e-9)), math.ceil((count - 1) / parts)))  # everybody has some
    begun: deque[Later] = deque()
    while part := list(islice(left, size)):
        begun.append(hand_over(part))
        if len(begun) > parts:
            yield from begun.popleft()()
    while begun:
        yield from begun.popleft()()


_own: list[Callable[[Any], Any]] = []  # in a process of the machine's own pool: its function


def _take(function: Callable[[Any], Any]) -> None:
    _own[:] = [function]


def _do(part: list[Any]) -> list[Any]:
    return [_own[0](thing) for thing in part]


def _submit(processes: ProcessPoolExecutor, part: list[Any]) -> Later:
    return processes.submit(_do, part).result
