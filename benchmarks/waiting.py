"""What a store is asked by processes that wait for a stage which another one computes.

    python benchmarks/waiting.py [--waiters 100] [--seconds 200] [--json FILE]

Each of the waiters, threads with a store of their own, wants the same stage; a holder computes it for so many seconds.
Once the place is a URL, a file system in memory that counts its calls, and once a folder.

requests_per_s: all calls at the URL, those of signs of life too, after the first 110 seconds; early_per_s: in these.
delay_s: the longest time from the result to a waiter that has it, delay_mean_s the mean. folder_looks_per_s, the same
calls in the folder without the signs of life, which folder_signs_per_s counts.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
from figures import tell
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from semples.results import make_key
from semples.store import Store

SETTLED = 110.0  # seconds after which those that wait do not look more seldom any more
KEY = make_key(of="waiting")
asked: Counter[str] = Counter()


def count() -> None:
    """Note a call, as one of a thread that gives signs of life or of another."""
    asked["signs" if threading.current_thread().name == "signs of life" else "looks"] += 1


class Counted:
    """A file system of fsspec that counts its calls."""

    def ls(self, *args: Any, **kwargs: Any) -> Any:
        count()
        return super().ls(*args, **kwargs)  # type: ignore[misc]

    def cat_file(self, *args: Any, **kwargs: Any) -> Any:
        count()
        return super().cat_file(*args, **kwargs)  # type: ignore[misc]

    def pipe_file(self, *args: Any, **kwargs: Any) -> Any:
        count()
        return super().pipe_file(*args, **kwargs)  # type: ignore[misc]

    def rm_file(self, *args: Any, **kwargs: Any) -> Any:
        count()
        return super().rm_file(*args, **kwargs)  # type: ignore[misc]


class CountedMemory(Counted, MemoryFileSystem):
    """An object store."""

    protocol = "counted"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012


class CountedFolder(Counted, LocalFileSystem):
    """The files of this machine."""


fsspec.register_implementation("counted", CountedMemory, clobber=True)


def wait(waiters: int, seconds: float, folder: Path, url: str | None) -> tuple[dict[str, float], list[float]]:
    """Calls a second in the first SETTLED seconds (early), and then looks and signs; the delays after the result."""
    there = threading.Event()
    ended: list[float] = []

    def compute(out: Path) -> dict[str, Any]:
        (out / "data").write_text("x")
        there.wait()
        return {"metrics": {}, "curves": [], "seconds": 1.0}

    def ask(number: int) -> None:
        with Store(folder / (str(number) if url else "store"), url) as store:
            store.get_or_compute(KEY, compute)
            ended.append(time.monotonic())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(waiters + 1)]
    asked.clear()
    for thread in threads:
        thread.start()
    time.sleep(SETTLED)
    early = asked.total() / SETTLED
    asked.clear()
    time.sleep(seconds - SETTLED)
    rates = {kind: asked[kind] / (seconds - SETTLED) for kind in ("looks", "signs")}
    there.set()
    for thread in threads:
        thread.join()
    first = min(ended)  # the holder itself
    return {"early": early, **rates}, [end - first for end in sorted(ended)[1:]]


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiters", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        url, delays = wait(arguments.waiters, arguments.seconds, Path(scratch) / "url", "counted://store")
        fsspec.register_implementation("file", CountedFolder, clobber=True)
        folder, more = wait(arguments.waiters, arguments.seconds, Path(scratch) / "folder", None)
    figures = {
        "waiters": arguments.waiters, "seconds": arguments.seconds, "requests_per_s": url["looks"] + url["signs"],
        "early_per_s": url["early"], "delay_s": max(delays), "delay_mean_s": sum(delays) / len(delays),
        "folder_looks_per_s": folder["looks"], "folder_signs_per_s": folder["signs"], "folder_delay_s": max(more),
    }  # fmt: skip
    tell(figures, arguments.json)


if __name__ == "__main__":
    main()
