"""0: done. 2: something that the user can put right, said in one sentence. 130: interrupted, by Ctrl-C or SIGTERM, and
the same command goes on. 1: what should not happen. For every command of both programs; and an interrupt leaves marks
by which the next launch and MLflow know what was going on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, Command
from launches import Machine, sweep_of
from test_tracking import Mlflow

from semples.errors import UserError
from semples.guard import INTERRUPTED
from tune.mlflow_writer import unwritten
from tune.study import load_study
from tune.sweep_folder import load_launched

# of every command the call that does its work, and words with which it comes so far
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "semples run": ("semples.api.run_pipeline", ("tiny.yaml", "--out", "r")),
    "semples ablate": ("semples.ablation.ablate", ("tiny.yaml", "--seeds", "1", "--out", "a")),
    "semples stages": ("semples.pipeline.keys.key_parts", ("tiny.yaml",)),
    "semples predict": ("semples.api.read_run", ("x.png", "--run", "nowhere")),
    "semples prompts": ("semples.run_folder.read_run", ("nowhere",)),
    "semples evaluate": ("semples.data.files.read_mask", ("masks", "masks")),
    "semples data check": ("semples.data.check.recognise", ("masks",)),
    "semples scenes write": ("semples.data.voc.write", ("w", "--train", "9", "--holdout", "9", "--test", "9")),
    "semples scenes pretrain": ("semples.pretrain.train_clip", ("--only", "clip", "--steps", "1", "--out", "p")),
    "semples store ls": ("semples.store.Store.survey", ("store",)),
    "semples store du": ("semples.store.Store.survey", ("store",)),
    "semples store verify": ("semples.store.Store.verify", ("store",)),
    "semples store prune": ("semples.store.Store.prune", ("store", "--keep", "0")),
    "semples-tune launch": ("tune.driver.launch", ("s.yaml",)),
    "semples-tune status": ("tune.sweep_folder.load_launched", ("s",)),
    "semples-tune best": ("tune.sweep_folder.load_launched", ("s",)),
    "semples-tune confirm": ("tune.confirm.confirm", ("s",)),
    "semples-tune export": ("tune.sweep_folder.load_launched", ("to", "--name", "s")),
    "semples-tune replay": ("tune.replay.replay", ("--trials", "1")),
    "semples-tune ui": ("tune.sweep_folder.load_launched", ()),
}


@pytest.fixture
def place(command: Command, tmp_path: Path) -> Iterator[Path]:
    """A folder with something for every command to begin with; Ctrl-C is what Python makes of it."""
    from PIL import Image  # noqa: PLC0415

    from semples.store import Store  # noqa: PLC0415

    before = [(s, signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)]
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    Path("s.yaml").write_text(yaml.safe_dump(sweep_of().model_dump(mode="json", exclude_none=True)))
    Path("masks").mkdir()
    Image.new("L", (2, 2)).save("masks/a.png")
    Image.new("RGB", (2, 2)).save("x.png")
    Store(Path("store")).close()
    Path("sweeps/s").mkdir(parents=True)
    Path("sweeps/s/sweep.yaml").write_text(Path("s.yaml").read_text())
    yield tmp_path
    for which, handler in before:
        signal.signal(which, handler)


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*words: Any, **named: Any) -> Any:
        raise error

    return call


def signalled(which: signal.Signals) -> Callable[..., Any]:
    """What is killed in the middle of its work."""

    def call(*words: Any, **named: Any) -> Any:
        os.kill(os.getpid(), which)
        time.sleep(5)
        raise AssertionError("nobody heard it")

    return call


def codes(
    command: Command, monkeypatch: pytest.MonkeyPatch, action: Callable[..., Any], names: Iterable[str] = COMMANDS
) -> dict[str, tuple[int, str]]:
    """By command: exit code and what was said on stderr when its work does that."""
    found = {}
    for name in names:
        target, words = COMMANDS[name]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with monkeypatch.context() as patch:
            patch.setattr("semples.api.check", lambda config: None)  # imported now, and not first with the next one
            patch.setattr("semples.preflight.check", lambda config: None)
            patch.setattr(target, action)
            code, _, err = command(*name.split(), *words)
        found[name] = (code, err)
    return found


def test_what_a_user_can_put_right_is_2_and_one_sentence(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = codes(command, monkeypatch, raising(UserError("x: is wrong; mend it")))
    assert found == dict.fromkeys(COMMANDS, (2, "error: x: is wrong; mend it\n"))


def test_an_interrupt_is_130_and_says_that_the_same_command_goes_on(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = codes(command, monkeypatch, raising(KeyboardInterrupt()))
    said = "interrupted; what was finished is kept, the same command goes on from here\n"
    assert INTERRUPTED == 130 and found == dict.fromkeys(COMMANDS, (130, said))


def test_what_should_not_happen_is_1_and_names_a_file(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    found = codes(command, monkeypatch, raising(ZeroDivisionError("oh")))
    assert {code for code, _ in found.values()} == {1}
    assert all("this should not happen (ZeroDivisionError: oh)" in err for _, err in found.values())
    assert len(list((place / "state").rglob("*.log"))) == len(COMMANDS)


def test_both_signals_interrupt(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for which in (signal.SIGINT, signal.SIGTERM):
        found = codes(command, monkeypatch, signalled(which), ("semples run", "semples-tune launch", "semples-tune ui"))
        assert {code for code, _ in found.values()} == {130}, (which, found)


def test_words_that_no_command_knows_are_2(command: Command, place: Path) -> None:
    for words in (
        ["frobnicate"],
        ["run", "--frobnicate"],
        ["run", "--quota", "much"],
        ["run", "--quota", "-1"],
        ["predict"],
    ):
        code, out, err = command("semples", *words)
        assert code == 2 and err.startswith("error: ") and not out, words
    for words in (["frobnicate"], ["launch"], ["best", "--trial", "x"], ["confirm", "--seeds", "1"], ["replay", "x=1"]):
        code, out, err = command("semples-tune", *words)
        assert code == 2 and err.startswith("error: ") and not out, words


def test_what_was_done_is_0(command: Command, place: Path) -> None:
    for words in (["--help"], ["store", "ls", "store"], ["store", "verify", "store"], ["evaluate", "masks", "masks"]):
        assert command("semples", *words)[0] == 0, words
    assert command("semples-tune", "replay", "--trials", "1", "sampler=random")[0] == 0


def test_a_launch_that_was_kept_from_going_on_is_130_and_one_that_ended_is_0(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, mlflow = Machine(monkeypatch, mlflow=True), Mlflow()
    monkeypatch.setattr("tune.mlflow_writer.MlflowClient", mlflow)
    sweep = sweep_of(base=TINY, trials=3, study="journal")
    Path("s.yaml").write_text(yaml.safe_dump(sweep.model_dump(mode="json", exclude_none=True)))
    machine.left = 10  # Ctrl-C in the second trial, as Ray hands it on
    code, out, err = command("semples-tune", "launch", "s.yaml")
    assert code == 130 and "the same command goes on from here" in err and "ended: " not in out
    folder = Path("sweeps/s")
    study = load_study(folder, load_launched(folder))
    assert [t.state.name for t in study.get_trials()][:2] == ["COMPLETE", "RUNNING"]
    assert (folder / "best.yaml").exists() and unwritten(folder) == 0
    assert states(mlflow) == {
        "s": ("STOPPED", "KILLED"), "s-0000": ("COMPLETE", "FINISHED"), "s-0001": ("STOPPED", "KILLED"),
    }  # fmt: skip
    machine.left = 10**9
    code, out, err = command("semples-tune", "launch", "s.yaml")
    assert code == 0 and "ended: all of its trials have run" in out and err == ""
    assert {state for state, _ in states(mlflow).values()} == {"COMPLETE"} and len(states(mlflow)) == 4
    machine.diverges = 4.0
    code, _, err = command("semples-tune", "launch", "s.yaml", "--trials", 4)
    assert code == 0 and states(mlflow)["s-0003"] == ("FAILED", "FAILED"), "others came through"


def states(mlflow: Mlflow) -> dict[str, tuple[str, str]]:
    return {run["name"]: (run["tags"]["state"], run["status"]) for run in mlflow.runs.values()}


def test_a_launch_whose_trials_all_fail_for_one_reason_is_2(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    sweep = sweep_of(base={**TINY, "match.lr": 1e30}, trials=None, budget=1e6, sampler="random", study="journal")
    space = {"prompts.lambda_t": {"float": [0.01, 0.1]}}
    tree = {**sweep.model_dump(mode="json", exclude_none=True), "space": space}
    Path("s.yaml").write_text(yaml.safe_dump(tree))
    machine.diverges = 1.0  # the weight of all of them
    code, _, err = command("semples-tune", "launch", "s.yaml")
    assert code == 2 and "5 trials in a row failed for one reason: match diverged" in err
    assert "the same command tries again" in err and err.count("\n") == 1
