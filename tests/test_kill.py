"""Processes are killed at random moments, again and again: nothing is computed twice, nothing half-written is read."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from semples.config import Config, with_changes
from semples.manifest import read_manifest
from semples.pipeline.run import run
from semples.store import WORK, Store

pytestmark = pytest.mark.slow
TTL = 2.0
ROUNDS, AT_ONCE, PROCESSES = 200, 4, 8
KILLS = 50


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semples.pipeline.run", "pytest"])
    yield context


def ask(root: Path, key: str) -> None:
    """Obtain a result that takes a moment; every computation leaves its process id."""

    def compute(out: Path) -> dict[str, Any]:
        with (root / f"{key}.computed").open("a") as file:
            file.write(f"{os.getpid()}\n")
        (out / "data.bin").write_text("half")
        time.sleep(1)
        (out / "data.bin").write_text(f"whole {key}")
        return {"metrics": {}, "curves": [], "seconds": 1.0}

    while not (root / f"{key}.go").exists():
        time.sleep(0.01)
    with Store(root / "store", ttl=TTL) as store:
        folder, _ = store.get_or_compute(key, compute)
        text = (folder / "data.bin").read_text()
    with (root / f"{key}.read").open("a") as file:
        file.write(f"{text}\n")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_when_whoever_computes_is_killed_one_other_takes_over(tmp_path: Path, context: Any) -> None:
    for first in range(0, ROUNDS, AT_ONCE):
        keys = [f"{i:032x}" for i in range(first, first + AT_ONCE)]
        asking: dict[str, list[BaseProcess]] = {
            key: [context.Process(target=ask, args=(tmp_path, key)) for _ in range(PROCESSES)] for key in keys
        }
        for process in (process for processes in asking.values() for process in processes):
            process.start()
        for key in keys:
            (tmp_path / f"{key}.go").touch()
        killed: dict[str, float] = {}
        end = time.monotonic() + 120
        while len(killed) < len(keys) and time.monotonic() < end:
            for key in keys:
                if key not in killed and (computing := lines(tmp_path / f"{key}.computed")):
                    os.kill(int(computing[0]), signal.SIGKILL)
                    killed[key] = time.monotonic()
            time.sleep(0.02)
        for key, processes in asking.items():
            for process in processes:
                process.join(60)
            assert time.monotonic() - killed[key] < 30
            assert len(lines(tmp_path / f"{key}.computed")) == 2, "once by the killed one, once by its heir"
            assert lines(tmp_path / f"{key}.read") == [f"whole {key}"] * (PROCESSES - 1)
    with Store(tmp_path / "store", ttl=TTL) as store:
        assert set(store.verify().values()) == {True} and len(store.entries()) == ROUNDS
        assert not list((store.root / WORK).glob("*"))


def go(config: Config, root: Path) -> None:
    with Store(root, ttl=0.5) as store:
        run(config, store, lambda event: None)


def outcome(config: Config, root: Path) -> dict[str, Any]:
    """Metrics, curves and digests of every stage."""
    with Store(root) as store:
        result = run(config, store, lambda event: None)
        assert len(result.reused) == len(result.folders), "finished before"
        manifests = {name: read_manifest(folder) for name, folder in result.folders.items()}
        assert set(store.verify().values()) == {True}
    return {name: [manifest[what] for what in ("metrics", "curves", "files")] for name, manifest in manifests.items()}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, tiny: Config, context: Any
) -> None:
    tiny = with_changes(tiny, {f"{stage}.epochs": 3 for stage in ("classify", "match", "prompts", "refine")}, "test")
    start = time.monotonic()
    calm = context.Process(target=go, args=(tiny, tmp_path / "calm"))
    calm.start()
    calm.join()
    length, chance, kills, finished = time.monotonic() - start, random.Random(0), 0, 0
    expected = outcome(tiny, tmp_path / "calm")
    while kills < KILLS:
        process = context.Process(target=go, args=(tiny, tmp_path / f"store{finished}"))
        process.start()
        process.join(chance.uniform(0, length / 2))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0
        assert outcome(tiny, tmp_path / f"store{finished}") == expected
        finished += 1
    process = context.Process(target=go, args=(tiny, tmp_path / f"store{finished}"))
    process.start()
    process.join()
    assert outcome(tiny, tmp_path / f"store{finished}") == expected


QUOTA_MB, RESULT_MB = 200, 5


def fill(root: Path, worker: int) -> None:
    """Trials that write 250 MB and read what they wrote."""

    def compute(out: Path) -> dict[str, Any]:
        (out / "data.bin").write_bytes(os.urandom(RESULT_MB * 10**6))
        return {"metrics": {}, "curves": [], "seconds": 1.0}

    for trial in range(10):
        with Store(root, quota=QUOTA_MB / 1000, ttl=TTL) as store:
            folders = [store.get_or_compute(f"{worker:08x}{trial:08x}{stage:016x}", compute)[0] for stage in range(5)]
            time.sleep(0.1)
            assert all(len((folder / "data.bin").read_bytes()) == RESULT_MB * 10**6 for folder in folders)


def test_the_quota_holds_while_a_sweep_writes_five_times_as_much(tmp_path: Path, context: Any) -> None:
    workers = [context.Process(target=fill, args=(tmp_path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    most = 0.0
    with Store(tmp_path, ttl=TTL) as store:
        while any(worker.is_alive() for worker in workers):
            most = max(most, sum(entry.manifest["bytes"] for entry in store.entries()) / 1e6)
            time.sleep(0.02)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert QUOTA_MB / 2 < most <= QUOTA_MB
        assert set(store.verify().values()) == {True}
