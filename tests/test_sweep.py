"""Whole sweeps under Ray on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import TINY
from mlflow import MlflowClient

from semples.config import FORMAT, parse
from semples.folders import MARKER
from semples.run_folder import read_run
from tune.records import trial_record
from tune.study import is_default, load_study, ranked
from tune.sweep_folder import load_launched
from tune.tracking import EXPERIMENT, PARENT
from tune.verdict import read_verdict

pytestmark = pytest.mark.ray

SWEEP = {
    "name": "tiny", "selection": "holdout", "objective": "seg_miou", "trials": 4, "parallel": 2, "base": TINY,
    "early_stopping": "none", "gate": 1, "report": "all",
    "space": {"masks.background": {"float": [0.3, 0.7]}, "refine.lambda_r": {"float": [0.01, 1.0], "log": True}},
}  # fmt: skip


def sweep_file(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return path


def program(name: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / name), *(str(w) for w in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_until_there(path: Path) -> None:
    wait_until(path.exists)


def study_of(out: Path) -> optuna.Study:
    return load_study(out / "tiny", load_launched(out / "tiny"))


def trial_runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], filter_string="tags.kind = 'trial'"))


def sweep_run(uri: str) -> Any:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], filter_string="tags.kind = 'sweep'")
    return run


def test_a_preset_that_is_edited_or_deleted_while_a_sweep_runs_changes_nothing_in_it(tmp_path: Path) -> None:
    preset, out, log = tmp_path / "mine.yaml", tmp_path / "sweeps", tmp_path / "log"
    preset.write_text(yaml.safe_dump({**TINY, "match": {"epochs": 1, "lambda_b": 2.5}}))
    path = sweep_file(
        tmp_path, preset=str(preset), base={}, objective="pseudo_miou", trials=3, parallel=1, early_stopping="median"
    )
    command = [str(Path(sys.executable).parent / "semples-tune"), "launch", str(path), "--out", str(out)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    wait_until_there(out / "tiny" / "sweep.yaml")
    preset.write_text(yaml.safe_dump({**TINY, "match": {"epochs": 1, "lambda_b": 0.5}}))
    wait_until_there(out / "tiny" / "trials" / "0000")
    preset.unlink()
    processes: set[int] = set()
    while process.poll() is None:
        processes |= {*trial_processes()}
        time.sleep(0.2)
    assert process.returncode == 0, log.read_text()
    assert len(processes) == 1  # trials follow each other in it, so libraries are imported once
    folders = sorted((out / "tiny" / "trials").iterdir())
    assert len(folders) == 3 and all(read_run(folder)[0].match.lambda_b == 2.5 for folder in folders)
    sweep = load_launched(out / "tiny")
    assert is_default(study_of(out), sweep, 0) and not is_default(study_of(out), sweep, 1)
    assert program("semples-tune", "status", "tiny", "--out", out).returncode == 0


def test_a_sweep_from_launch_to_export(tmp_path: Path) -> None:
    out = tmp_path / "sweeps"
    done = program("semples-tune", "launch", sweep_file(tmp_path), "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 COMPLETE" in done.stdout and "best.yaml" in done.stdout and "semples-tune ui" in done.stdout

    study = study_of(out)
    suggested = [t.params for t in study.get_trials()]
    assert suggested[0] == {"masks.background": 0.5, "refine.lambda_r": 1.0}
    best = ranked(study, load_launched(out / "tiny"))[0]

    # MLflow: one sweep run, one child run a trial, with both figures, curves, configuration and gallery
    uri = f"sqlite:///{out / 'mlflow.db'}"
    parent, runs = sweep_run(uri), trial_runs(uri)
    assert parent.data.tags["state"] == "COMPLETE" and parent.data.tags["selection"] == "holdout"
    assert len(runs) == 4 and {r.data.tags[PARENT] for r in runs} == {parent.info.run_id}
    client = MlflowClient(uri)
    for run in runs:
        assert run.data.tags["state"] == "COMPLETE"
        assert {"pseudo_miou", "seg_miou", "match/loss", "segment/loss", "refine/holdout/cam_miou"} <= set(
            run.data.metrics
        )
        assert run.data.params["match.lambda_b"] == "1.0"
        assert run.data.metrics["seconds_computed"] > 0
        files = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "result.json", "gallery.png"} <= files

    # no stage was computed twice, and what that saved is told
    keys = [json.loads((out / f"tiny/trials/{t.number:04d}/result.json").read_text())["keys"] for t in study.trials]
    computed = [trial_record(t).stages[s].reused for t in study.trials for s in trial_record(t).stages].count(False)
    assert computed == len({key for of_trial in keys for key in of_trial.values()})
    assert parent.data.metrics["seconds_saved"] > 0 and "saved by stored stages" in done.stdout

    # the best configuration repeats its trial, bit for bit, with a store of its own
    again = program("semples", "run", out / "tiny" / "best.yaml", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    metrics = json.loads((tmp_path / "again" / "result.json").read_text())["metrics"]
    assert metrics == trial_record(best).metrics

    exported = program("semples-tune", "export", tmp_path / "export", "--out", out)
    assert exported.returncode == 0, exported.stderr
    weights = (tmp_path / "export" / "network.safetensors").read_bytes()
    assert weights == (tmp_path / "again" / "network.safetensors").read_bytes()

    # so can any other complete trial be taken
    last = ranked(study, load_launched(out / "tiny"))[-1]
    taken = program("semples-tune", "best", "--trial", last.number, "--out", out)
    assert (
        parse(FORMAT.read(yaml.safe_load(taken.stdout), "best"), "best")
        == read_run(out / f"tiny/trials/{last.number:04d}")[0]
    )
    none = program("semples-tune", "export", tmp_path / "none", "--trial", 99, "--out", out)
    assert none.returncode == 2 and "trial 99 is not among the complete ones" in none.stderr

    # the same command repeats nothing; --trials can be raised
    same = program("semples-tune", "launch", sweep_file(tmp_path), "--out", out)
    assert same.returncode == 0 and "trial   0  classify" not in same.stdout
    more = program("semples-tune", "launch", sweep_file(tmp_path), "--out", out, "--trials", 5)
    assert more.returncode == 0 and "5 COMPLETE" in more.stdout
    assert [t.params for t in study_of(out).get_trials()][:4] == suggested
    other = program("semples-tune", "launch", sweep_file(tmp_path, seed=7), "--out", out)
    assert other.returncode == 2 and "holds a sweep with another 'seed'" in other.stderr
    assert "5 COMPLETE" in program("semples-tune", "status", "--out", out).stdout
    best_yaml = program("semples-tune", "best", "--out", out).stdout
    assert yaml.safe_load(best_yaml)["selection"] == "holdout"


def test_a_sweep_for_pseudo_masks_trains_no_network_and_sweeps_share_a_store(tmp_path: Path) -> None:
    out = tmp_path / "sweeps"
    file = sweep_file(tmp_path, objective="pseudo_miou", trials=2, store="shared", store_gb=1.0)
    assert program("semples-tune", "launch", file, "--out", out, cwd=tmp_path).returncode == 0
    assert (tmp_path / "shared").is_dir()  # of this folder, not of a trial's
    # which ends with the finalists over seeds
    words = ("--out", out, "--name", "again", "confirm.top=1", "confirm.seeds=2")
    again = program("semples-tune", "launch", file, *words, cwd=tmp_path)
    assert again.returncode == 0 and "0.0 minutes of compute" in again.stdout, again.stderr
    verdict = read_verdict(out / "again")
    assert verdict.sentence in again.stdout and {of.count(", seed ") for of in again.stdout.splitlines()} == {0, 1}
    written = json.loads((out / "again" / "confirm.json").read_text())
    assert again.stdout.count("default, seed ") == 2 and len(written["image_errors"]) == 1
    # the command for it repeats nothing
    confirmed = program("semples-tune", "confirm", "--out", out, "--top", 1, "--seeds", 2)
    assert confirmed.returncode == 0, confirmed.stderr
    assert "pseudo_miou over 2 seeds (chosen on holdout masks)" in " ".join(confirmed.stdout.split())
    assert verdict.sentence in confirmed.stdout and read_verdict(out / "again") == verdict
    exported = program("semples-tune", "export", tmp_path / "export", "--out", out)
    assert exported.returncode == 0, exported.stderr
    assert {path.name for path in (tmp_path / "export").iterdir()} == {
        MARKER, "config.yaml", "result.json", "gallery.png", "generator.safetensors", "prompts.safetensors",
    }  # fmt: skip


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_in_order_and_goes_on(tmp_path: Path, stop: signal.Signals) -> None:
    out, log = tmp_path / "sweeps", tmp_path / "log"
    # long enough in segment to be interrupted there
    path = sweep_file(tmp_path, trials=3, base={**TINY, "segment": {"epochs": 20}})
    launch = [str(Path(sys.executable).parent / "semples-tune"), "launch", str(path), "--out", str(out)]
    with log.open("wb") as file:
        process = subprocess.Popen(launch, stdout=file, stderr=file)
    wait_for("trial   0  masks", log, process)
    time.sleep(1)
    process.send_signal(stop)
    start = time.monotonic()
    assert process.wait(60) == 130, log.read_text()
    assert time.monotonic() - start < 15
    assert "the same command goes on from here" in log.read_text()
    uri = f"sqlite:///{out / 'mlflow.db'}"
    assert {r.data.tags["state"] for r in trial_runs(uri)} <= {"STOPPED", "COMPLETE"}

    done = subprocess.run(launch, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 COMPLETE" in done.stdout and "(stored)" in done.stdout
    assert re.search(r"^trial   0  masks     holdout mIoU [\d.]+ \(", done.stdout, re.M)
    assert len(re.findall(r"^trial   \d  COMPLETE  .* computed \d+ s, saved \d+ s$", done.stdout, re.M)) >= 1
    assert [r.data.tags["state"] for r in trial_runs(uri)] == ["COMPLETE"] * 3
    assert sorted(r.data.tags["trial"] for r in trial_runs(uri)) == ["0", "1", "2"]


def stage_processes() -> list[int]:
    """Processes in which stages are being computed."""
    return trial_processes(b"ray::compute_stage")


def trial_processes(named: bytes = b"ray::ImplicitFunc") -> list[int]:
    """Processes in which trials wait for their stages."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and named in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # ended while we looked
    return found


@pytest.mark.parametrize("process", ["trial", "stage"])
def test_a_trial_whose_process_dies_or_that_of_its_stage_is_retried_in_the_same_run(
    tmp_path: Path, process: str
) -> None:
    out, log = tmp_path / "sweeps", tmp_path / "log"
    path = sweep_file(tmp_path, trials=1, parallel=1, base={**TINY, "segment": {"epochs": 20}})
    launch = [str(Path(sys.executable).parent / "semples-tune"), "launch", str(path), "--out", str(out)]
    with log.open("wb") as file:
        driver = subprocess.Popen(launch, stdout=file, stderr=file)
    wait_for("trial   0  masks", log, driver)
    while not (victims := {"trial": trial_processes, "stage": stage_processes}[process]()):
        time.sleep(0.1)
    os.kill(victims[0], signal.SIGKILL)
    assert driver.wait(200) == 0, log.read_text()
    assert "1 COMPLETE" in log.read_text()
    assert "its process or node died" in log.read_text()
    # of a stage nothing else is done again
    assert log.read_text().count("trial   0  masks") == (2 if process == "trial" else 1)
    (run,) = trial_runs(f"sqlite:///{out / 'mlflow.db'}")
    assert run.data.tags["state"] == "COMPLETE"


def test_a_failing_trial_is_failed_with_its_reason_and_the_sweep_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "sweeps"
    space = {"classify.lr": {"choice": [0.002, 1e30]}}
    path = sweep_file(tmp_path, trials=5, space=space, base={**TINY, "classify": {"epochs": 3}})
    done = program("semples-tune", "launch", path, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    failed = [t for t in study_of(out).get_trials() if trial_record(t).state == "FAILED"]
    assert failed and all("lower classify.lr" in trial_record(t).reason for t in failed)
    assert all(t.params == {"classify.lr": 0.002} for t in ranked(study_of(out), load_launched(out / "tiny")))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two Ray nodes of one CPU each on this machine, as `ray start` makes them; the address of the head."""
    port, ray, token = free_port(), str(Path(sys.executable).parent / "ray"), tmp_path / "token"
    token.write_text("a token of the cluster")
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    common = ["--num-cpus=1", "--disable-usage-stats", "--block", "--object-store-memory=200000000"]
    head = [ray, "start", "--head", f"--port={port}", "--include-dashboard=false", *common]
    nodes = []
    with (tmp_path / "ray.log").open("wb") as log:
        try:
            options: dict[str, Any] = {"stdout": log, "stderr": log, "env": environment, "start_new_session": True}
            nodes.append(subprocess.Popen(head, **options))
            time.sleep(8)
            nodes.append(subprocess.Popen([ray, "start", f"--address=127.0.0.1:{port}", *common], **options))
            time.sleep(6)
            assert all(node.poll() is None for node in nodes), (tmp_path / "ray.log").read_text()
            yield f"127.0.0.1:{port}"
        finally:
            for node in reversed(nodes):
                os.killpg(node.pid, signal.SIGKILL)
                node.wait(30)


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
             "--artifacts-destination", str(tmp_path / "server-artifacts")]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "mlflow", *words], stdout=log, stderr=log, env=environment,
                                  start_new_session=True)  # fmt: skip
        try:
            end = time.monotonic() + 90
            while time.monotonic() < end:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def test_a_sweep_on_a_cluster_of_two_nodes_with_an_mlflow_server(
    tmp_path: Path, cluster: str, mlflow_server: str
) -> None:
    out = tmp_path / "shared"
    words = ["launch", sweep_file(tmp_path), "--out", out, "--address", cluster, f"mlflow={mlflow_server}"]
    # without the cluster's token, and with another, nothing begins
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    (tmp_path / "home").mkdir()
    (tmp_path / "other").write_text("a token of somebody else")
    for given, answer in (({}, "no token of this cluster"), ({"RAY_AUTH_TOKEN_PATH": "other"}, "refuses the token")):
        refused = program("semples-tune", *words, cwd=tmp_path, env={**others, "HOME": str(tmp_path / "home"), **given})
        assert refused.returncode == 2 and answer in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
    assert not (out / "tiny" / "study.db").exists()

    done = program("semples-tune", *words, env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 COMPLETE" in done.stdout and mlflow_server in done.stdout
    runs = trial_runs(mlflow_server)
    assert sorted(r.data.tags["trial"] for r in runs) == ["0", "1", "2", "3"]
    assert {r.data.tags["state"] for r in runs} == {"COMPLETE"}
    assert len({node for r in runs for node in r.data.tags["node"].split(", ")}) == 2  # both nodes computed stages
    assert not (out / "mlflow.db").exists()
