"""Seconds of compute are those in which the process ran."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from semples import stopwatch
from semples.stopwatch import Stopwatch, running

CHILD = """
import sys, time
from semples import stopwatch
stopwatch.TICK, stopwatch.STALL = 0.1, 0.5
with stopwatch.running() as watch:
    print("begun", flush=True)
    sys.stdin.readline()
    time.sleep(0.3)
print(watch.seconds, watch.stalled)
"""


def test_a_stopped_process_does_not_compute() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout and child.stdout.readline() == "begun\n"
    begun = time.monotonic()
    child.send_signal(signal.SIGSTOP)
    time.sleep(3)
    child.send_signal(signal.SIGCONT)
    child.stdin.write("\n")
    child.stdin.close()
    seconds, stalled = map(float, child.stdout.read().split())
    assert child.wait(30) == 0
    whole = time.monotonic() - begun
    assert stalled == pytest.approx(2.9, abs=0.6) and seconds < 2 and seconds + stalled <= whole + 0.1


def test_what_computes_without_letting_anybody_look_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 100.0, "cpu": 10.0}
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: clock["cpu"])
    watch = Stopwatch()
    clock |= {"wall": 190.0, "cpu": 99.0}  # a call that keeps the interpreter's lock for 90 seconds
    assert watch.seconds == 90 and watch.stalled == 0
    clock |= {"wall": 310.0, "cpu": 99.1}
    assert watch.seconds == 91 and watch.stalled == 119


def test_sleeping_counts() -> None:
    with running() as watch:
        time.sleep(0.2)
    assert watch.seconds >= 0.2 and watch.stalled == 0
