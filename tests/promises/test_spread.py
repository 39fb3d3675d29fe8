"""Images on many processors: in order, not too many at a time, and only where it is worth it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from semples import spread


@pytest.mark.parametrize("workers", [0, 2])
def test_each_is_a_map_that_keeps_the_order(handed_over: None, workers: int) -> None:
    assert list(spread.each(abs, iter(range(-40, 0)), 40, workers)) == list(range(40, 0, -1))
    assert list(spread.each(abs, [], 0, workers)) == []
    assert list(spread.each(abs, [-1], 1, workers)) == [1]


class Slow:
    """A pool that does what it is handed when it is asked for it."""

    def __init__(self, parts: int = 3):
        self.parts, self.cpu_seconds = parts, 0.0
        self.sizes: list[int] = []
        self.waiting = self.most = 0

    def handing_over(self, function: Callable[[Any], Any]) -> Callable[[list[Any]], spread.Later]:
        def hand_over(part: list[Any]) -> spread.Later:
            self.sizes.append(len(part))
            self.waiting += 1
            self.most = max(self.most, self.waiting)

            def later() -> list[Any]:
                self.waiting -= 1
                self.cpu_seconds += 1.0
                return [function(thing) for thing in part]

            return later

        return hand_over


def test_only_so_many_things_are_taken_and_handed_over_at_a_time(handed_over: None) -> None:
    pool, taken = Slow(), []

    def things() -> Iterator[int]:
        for thing in range(100):
            taken.append(thing)
            yield thing

    with spread.using(pool):
        made = spread.each(str, things(), 100)
        assert next(made) == "0" and len(taken) == 1
        assert next(made) == "1" and len(taken) <= 6
        assert list(made) == [str(thing) for thing in range(2, 100)]
        assert spread.elsewhere() == pool.cpu_seconds == len(pool.sizes)
    assert pool.most == 4 and pool.waiting == 0 and spread.elsewhere() == 0.0


def test_little_work_is_done_at_once_and_much_in_parts_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(count: int, seconds: float, parts: int = 4) -> list[int]:
        clock, pool = [0.0], Slow(parts)
        monkeypatch.setattr(spread, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

        def takes(thing: int) -> int:
            clock[0] += seconds
            return thing

        with spread.using(pool):
            assert list(spread.each(takes, range(count), count)) == list(range(count))
        return pool.sizes

    assert sizes(20, 0.1) == [] and sizes(1000, 0.01) == []
    assert sizes(101, 0.5) == [10] * 10, "five seconds each"
    assert sizes(101, 0.5, parts=50) == [2] * 50, "and something for everybody"
    assert sizes(9, 60.0) == [1] * 8
