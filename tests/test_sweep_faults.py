"""Faults while a sweep runs: it ends with the results of an undisturbed one, and MLflow lacks nothing afterwards."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TINY
from mlflow import MlflowClient
from test_sweep import free_port, program, stage_processes, study_of, sweep_file, trial_runs, wait_for

from semples.manifest import read_manifest
from tune.mlflow_writer import unwritten
from tune.records import trial_record
from tune.stage_tasks import TOLD
from tune.study import ranked
from tune.sweep_folder import load_launched

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BACKGROUND = [0.3, 0.5, 0.7]
CHANGES: dict[str, Any] = {
    "objective": "pseudo_miou", "sampler": "grid", "trials": None, "parallel": 1, "report": "all",
    "base": {**TINY, "match": {"epochs": 8}}, "space": {"masks.background": {"choice": BACKGROUND}},
}  # fmt: skip


class Server:
    """An MLflow server that can be stopped, killed and started again."""

    def __init__(self, folder: Path):
        self.uri, self._folder = f"http://127.0.0.1:{free_port()}", folder
        self.start()

    def start(self) -> None:
        words = ["server", "--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2], "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}",
                 "--artifacts-destination", str(self._folder / "server-artifacts")]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "mlflow", *words]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        end = time.monotonic() + 90
        while time.monotonic() < end and not psutil.Process(self.process.pid).net_connections("tcp"):
            time.sleep(0.5)

    def send(self, which: signal.Signals) -> None:
        os.killpg(self.process.pid, which)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.send(signal.SIGKILL)


def results(out: Path) -> dict[str, Any]:
    """By parameters: values and metrics of every trial that came through."""
    trials = ranked(study_of(out), load_launched(out / "tiny"))
    return {json.dumps(t.params): (t.values, trial_record(t).metrics) for t in trials}


def recorded(uri: str) -> dict[str, Any]:
    """By background score: what MLflow has of a trial, but for times."""
    client, found = MlflowClient(uri), {}
    for run in trial_runs(uri):
        metrics = {k: v for k, v in run.data.metrics.items() if "seconds" not in k}
        curve = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "match/loss")]
        tags = {k: run.data.tags.get(k) for k in ("state", "milestone", "selection")}
        files = sorted(f.path for f in client.list_artifacts(run.info.run_id))
        parameters = {k: v for k, v in run.data.params.items() if not k.startswith("runtime.")}
        found[parameters["masks.background"]] = (run.info.status, metrics, curve, tags, files, parameters)
    return found


class Driver:
    """A launch whose calls are timed."""

    def __init__(self, folder: Path, *words: object):
        self.times, self.log = folder / "times", folder / "log"
        self.times.write_text("")
        command = [sys.executable, Path(__file__).with_name("timed_driver.py"), self.times, "launch", *words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)

    def wait_for(self, text: str) -> None:
        wait_for(text, self.log, self.process)

    def longest(self, what: str) -> float:
        told = [json.loads(line) for line in self.times.read_text().splitlines()]
        assert what == "late" or any(kind == what for kind, _ in told)
        return max((seconds for kind, seconds in told if kind == what), default=0.0)


def process_of_a_stage(store: Path) -> int:
    """A process that is in the midst of a stage: not between two, nor still importing what one needs."""
    end = time.monotonic() + 60
    while not any(b'"epoch": 1,' in told.read_bytes() for told in store.glob(f"work/*/{TOLD}")):
        assert time.monotonic() < end
        time.sleep(0.02)
    return stage_processes()[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = program("semples-tune", "launch", sweep_file(folder, **CHANGES), "--out", folder / "sweeps")
    assert done.returncode == 0, done.stdout + done.stderr
    return results(folder / "sweeps"), recorded(f"sqlite:///{folder / 'sweeps' / 'mlflow.db'}")


def test_a_sweep_goes_through_a_hanging_and_dead_mlflow_a_stopped_trial_a_killed_node_and_a_locked_study(
    tmp_path: Path, server: Server, undisturbed: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    out, file = tmp_path / "sweeps", sweep_file(tmp_path, **CHANGES, mlflow=server.uri)
    driver = Driver(tmp_path, file, "--out", out)
    driver.wait_for("trial   0  classify")
    server.send(signal.SIGSTOP)  # takes calls and never answers
    stage = process_of_a_stage(out / "tiny" / "store")
    os.kill(stage, signal.SIGSTOP)
    time.sleep(9)
    os.kill(stage, signal.SIGCONT)
    driver.wait_for("trial   0  COMPLETE")
    server.send(signal.SIGKILL)
    server.send(signal.SIGCONT)
    driver.wait_for("trial   1  masks")
    # for MLflow alone the driver never stood still
    assert driver.longest("searcher") <= 2 and driver.longest("mlflow") <= 2 and driver.longest("late") <= 2
    (node,) = [child for child in psutil.Process(driver.process.pid).children() if child.name() == "raylet"]
    node.kill()
    assert driver.process.wait(40) == 2
    said = [line for line in driver.log.read_text().splitlines() if not line.startswith(("trial ", "sweep "))]
    assert [line for line in said if line.startswith("error: ")] == [
        "error: Ray's node on this machine died; what was finished is kept, and the same command goes on from there"
    ]
    assert len([line for line in said if line.strip()]) <= 4, said  # with two sentences on MLflow
    assert unwritten(out / "tiny") > 20

    driver = Driver(tmp_path, file, "--out", out)  # begins without MLflow
    driver.wait_for("trial   2  classify")
    lock = sqlite3.connect(out / "tiny" / "study.db", isolation_level=None, timeout=60)
    lock.execute("BEGIN EXCLUSIVE")
    server.start()
    time.sleep(8)
    lock.rollback()
    assert driver.process.wait(200) == 0, driver.log.read_text()
    assert "Traceback" not in driver.log.read_text()
    assert driver.longest("mlflow") <= 2

    assert unwritten(out / "tiny") == 0
    assert results(out) == undisturbed[0] and recorded(server.uri) == undisturbed[1]
    # the time in which the trial was stopped is no compute
    stalls = [
        read_manifest(manifest.parent).get("stalled", 0.0)
        for manifest in (out / "tiny" / "store").glob("*/result.json")
    ]
    assert max(stalls) == pytest.approx(8, abs=2) and sorted(stalls)[-2] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_sweep_on_a_full_disk_stops_after_a_few_trials_and_goes_on_once_there_is_room(
    tmp_path: Path, small_disk: Path, undisturbed: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    out = tmp_path / "sweeps"
    # only a budget would end it, of which nothing is spent
    file = sweep_file(tmp_path, **CHANGES | {"sampler": "random", "budget": 10000}, store=str(small_disk / "store"))
    done = program("semples-tune", "launch", file, "--out", out)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stdout + done.stderr
    assert "5 trials in a row failed for one reason: " in done.stderr and "o space left" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(trial_runs(f"sqlite:///{out / 'mlflow.db'}")) == 5
    subprocess.run(["mount", "-o", "remount,size=500m", small_disk], check=True)
    done = program("semples-tune", "launch", file, "--out", out, "--trials", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(out) == undisturbed[0]
