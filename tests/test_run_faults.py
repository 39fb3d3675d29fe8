"""What happens while a run computes: results that vanish, disks that are full, errors of every kind."""

from __future__ import annotations

import errno
import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from conftest import TINY

from semples import guard
from semples.config import Config, parse, with_changes
from semples.errors import UserError
from semples.manifest import read_manifest
from semples.pipeline.compute import SECONDS
from semples.pipeline.run import Event, Result, run
from semples.preflight import check
from semples.stages import match
from semples.store import WORK, Store
from semples.training import CHECKPOINT


@pytest.fixture(scope="module")
def short() -> Config:
    return parse(TINY, "short")


@pytest.fixture(scope="module")
def calm(short: Config, tmp_path_factory: pytest.TempPathFactory) -> Result:
    with Store(tmp_path_factory.mktemp("calm")) as store:
        return run(short, store, lambda event: None, until="prompts")


def same(result: Result, calm: Result) -> bool:
    files = [[read_manifest(folder)["files"] for folder in of.folders.values()] for of in (result, calm)]
    return files[0] == files[1] and result.metrics == calm.metrics


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_a_file(folder: Path) -> None:
    (folder / "generator.safetensors").unlink()


def cut_a_file(folder: Path) -> None:
    path = folder / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("harm", [remove, remove_a_file, cut_a_file])
def test_a_result_that_is_lost_while_it_is_used_is_computed_again(
    short: Config, calm: Result, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    harmed: list[str] = []

    def report(event: Event) -> None:
        if event.stage == "classify" and event.metrics is not None and not harmed:
            (folder,) = (p for p in tmp_path.iterdir() if len(p.name) == 32)
            harm(folder)
            harmed.append(folder.name)

    with Store(tmp_path) as store:
        result = run(short, store, report, until="prompts")
        assert harmed and same(result, calm) and set(store.verify().values()) == {True}


def test_what_goes_wrong_for_other_reasons_is_not_tried_again(
    short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fails(*args: Any) -> Any:
        calls.append(1)
        raise RuntimeError("broken")

    monkeypatch.setattr(match, "train", fails)
    with Store(tmp_path) as store, pytest.raises(RuntimeError, match="broken"):
        run(short, store, lambda event: None, until="prompts")
    assert len(calls) == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("PytorchStreamWriter failed")])
def test_a_checkpoint_that_cannot_be_written_is_a_warning(
    short: Config, calm: Result, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def full(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with caplog.at_level(logging.WARNING), Store(tmp_path) as store:
        result = run(short, store, lambda event: None, until="prompts")
    assert same(result, calm)
    assert "match: the checkpoint cannot be written" in caplog.text and "the training goes on" in caplog.text
    assert not list(tmp_path.rglob("*checkpoint*"))


def test_a_full_disk_is_said_with_its_folder(short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = Path.write_bytes, [True]

    def fails(path: Path, content: bytes) -> int:
        if full and path.name == "generator.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with Store(tmp_path) as store:
        with pytest.raises(OSError, match="No space left") as error:
            run(short, store, lambda event: None, until="classify")
        assert str(tmp_path) in str(error.value.filename)
        full.clear()
        run(short, store, lambda event: None, until="classify")


def answer(action: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(lambda: action() and None)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", ["semples"])
        guard.guard(app)
    signal.signal(signal.SIGTERM, before)
    return int(end.value.code or 0), capsys.readouterr().err


def throw(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("x: is wrong; mend it"), 2, "error: x: is wrong; mend it\n"),
        (UserError("one", "two"), 2, "error: one\n       two\n"),
        (UserError("a\nb\x1b[31m" + "c" * 5000), 2, "error: a b [31mccc"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            2,
            "error: /x/y: No space left on device; make room;",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), 2, "error: /x: No such file; name one that is there;"),
        (OSError(errno.EIO, "Input/output error", "/x"), 2, "error: /x: Input/output error; check this disk;"),
        (MemoryError(), 2, "error: out of memory"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"), 2, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is kept"),
        (ValueError("a bug\nof ours"), 1, "error: this should not happen (ValueError: a bug of ours)"),
        (RecursionError("maximum"), 1, "error: this should not happen (RecursionError"),
        (OSError(errno.ECONNRESET, "reset"), 1, "error: this should not happen (ConnectionResetError"),
    ],
)
def test_every_error_is_one_sentence(
    error: BaseException, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    got, err = answer(throw(error), capsys)
    assert got == code and err.startswith(said) and "Traceback" not in err and len(err) < 1000
    assert err.count("\n") == max(1, len(error.args) if isinstance(error, UserError) else 1)
    logs = list(tmp_path.rglob("*.log"))
    assert len(logs) == (code == 1)
    if logs:
        assert str(logs[0]) in err and "Traceback" in logs[0].read_text() and logs[0].stat().st_mode & 0o077 == 0


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(lambda: None, capsys) == (0, "")


@pytest.mark.parametrize("content", ["", "soon", "nan nan", "-1 1", "1 -1", "inf 1", "1.5", "1 2 3"])
def test_what_an_attempt_left_behind_damaged_is_no_hindrance(
    short: Config, calm: Result, tmp_path: Path, content: str
) -> None:
    with Store(tmp_path) as store:
        key = next(folder.name for folder in calm.folders.values())
        work = tmp_path / WORK / f"{key}.1"
        (work / "folder").mkdir(parents=True)
        (work / SECONDS).write_text(content)
        parts = {name: {"x": 1} for name in ("memory", "random", "model", "optimizer", "factor")}
        torch.save({"history": [], **parts}, work / CHECKPOINT)
        assert same(run(short, store, lambda event: None, until="prompts"), calm)


def test_weights_that_are_no_numbers_are_no_result(
    short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)  # after the only step the loss is not asked again
    with Store(tmp_path) as store:
        with pytest.raises(UserError, match=r"classify: the weights are not finite .*; lower classify\.lr"):
            run(short, store, lambda event: None, until="classify")
        assert store.entries() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment.args": {"in_channels": 1}}, "segment: "),
        ({"segment.args": {"aux_params": {"classes": 3}}}, "segment: "),
        ({"segment.architecture": "PAN", "segment.args": {}}, "segment: "),
        ({"generator.args": {"in_chans": 1}}, "generator"),
        *(({"augment.randaugment": f"rand-{bad}"}, "is no part of a policy") for bad in ("mabc", "m99", "p2", "n1000")),
    ],
)
def test_a_network_that_takes_no_crops_is_said_before_anything_is_trained(
    short: Config, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(with_changes(short, changes, "test"))


@pytest.mark.parametrize(
    "policy", ["rand-m9-mstd0.5-inc1", "rand-m9-n3-p0.5", "rand-m9-mstd0.5-mmax8", "augmix-m5", ""]
)
def test_policies_that_timm_knows_are_taken(short: Config, policy: str) -> None:
    check(with_changes(short, {"augment.randaugment": policy}, "test"))
