"""Sweeps that outlive the terminal in which they were launched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, Command
from optuna.trial import TrialState
from test_sweep import program, study_of, sweep_file, wait_for, wait_until

from semples.folders import claim
from tune.places import LOG
from tune.records import trial_record
from tune.sweep_file import load_sweep
from tune.sweep_folder import RUNNER, alone, record, runner


def runs_a_trial(out: Path) -> bool:
    return any(trial.state == TrialState.RUNNING for trial in study_of(out).get_trials())


LONG = {**TINY, "classify": {"epochs": 400}}


@pytest.mark.ray
def test_a_sweep_in_the_background_is_seen_stopped_and_gone_on_with(tmp_path: Path) -> None:
    out, file = tmp_path / "sweeps", sweep_file(tmp_path, trials=2, parallel=1, objective="pseudo_miou", base=LONG)
    done = program("semples-tune", "launch", file, "--out", out, "--detach")
    assert done.returncode == 0 and "runs in the background" in done.stdout, done.stdout + done.stderr
    assert (running := runner(out / "tiny")) and f"process {running[0]}" in done.stdout
    again = program("semples-tune", "launch", file, "--out", out, "--detach")
    assert again.returncode == 2 and "is running already" in again.stdout
    assert "sweep 'tiny': 2 trials" in program("semples-tune", "logs", "--out", out).stdout
    wait_until(lambda: runs_a_trial(out))
    stopped = program("semples-tune", "stop", "--out", out)
    assert stopped.returncode == 0 and "has ended" in stopped.stdout, stopped.stderr
    assert runner(out / "tiny") is None
    assert "interrupted; what was finished is kept" in (out / "tiny" / LOG).read_text()
    gone = program("semples-tune", "stop", "--out", out)
    assert gone.returncode == 2 and "is not running" in gone.stderr
    assert trial_record(study_of(out).get_trials()[0]).state.value == "RUNNING"


@pytest.mark.ray
def test_a_terminal_that_is_closed_ends_a_sweep_in_order(tmp_path: Path) -> None:
    out, log = tmp_path / "sweeps", tmp_path / "log"
    file = sweep_file(tmp_path, trials=2, parallel=1, objective="pseudo_miou", base=LONG)
    command = [Path(sys.executable).parent / "semples-tune", "launch", file, "--out", out]
    with log.open("wb") as screen:
        sweep = subprocess.Popen(command, stdout=screen, stderr=screen)
    wait_for("sweep 'tiny'", log, sweep)
    wait_until(lambda: runner(out / "tiny") is not None)
    wait_until(lambda: runs_a_trial(out))
    sweep.send_signal(signal.SIGHUP)
    assert sweep.wait(60) == 130, log.read_text()
    assert "interrupted; what was finished is kept" in log.read_text()


def test_who_runs_a_sweep_is_known_while_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    claim(folder, "sweep")
    assert runner(folder) is None
    with alone(folder) as sign:
        assert runner(folder) is None, "it has not begun yet"
        sign()
        assert runner(folder) == (os.getpid(), os.uname().nodename)
    assert runner(folder) is None
    with alone(folder):
        assert runner(folder) is None, "who ran it before does not"


def test_a_sweep_that_runs_elsewhere_is_stopped_there(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "sweeps" / "tiny"
    claim(folder, "sweep")
    record(load_sweep(sweep_file(tmp_path)), folder)
    with alone(folder):
        (folder / RUNNER).write_text("1 another-host\n")
        code, _, err = command("semples-tune", "stop", "--out", folder.parent)
    assert code == 2 and "this sweep runs on another-host; stop it there" in " ".join(err.split())


def test_what_was_not_launched_in_the_background_has_no_log(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "sweeps" / "tiny"
    claim(folder, "sweep")
    record(load_sweep(sweep_file(tmp_path)), folder)
    code, _, err = command("semples-tune", "logs", "--out", folder.parent)
    assert code == 2 and "was not launched with --detach" in " ".join(err.split())
    (folder / LOG).write_text("a line\n")
    code, out, _ = command("semples-tune", "logs", "--follow", "--out", folder.parent)
    assert code == 0 and out == "a line\n"


def test_what_cannot_begin_says_so_at_once(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, base={**TINY, "clip": {"pretrained": "none.pt"}})
    done = program("semples-tune", "launch", file, "--out", tmp_path / "sweeps", "--detach")
    assert done.returncode == 2 and "none.pt" in done.stdout + done.stderr
