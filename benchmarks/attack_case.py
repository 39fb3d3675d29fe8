"""A bad input of benchmarks/attack.py, and how its files are spoilt."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Prepare = Callable[[], object]

SAMPLE_SWEEP: dict[str, Any] = {"space": {"masks.background": {"float": [0.3, 0.7]}}}


@dataclass(frozen=True)
class Case:
    """One bad input: what it is, the words of the command, the parts that it needs, and how they are spoilt."""

    kind: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    prepare: Prepare = lambda: None
    handled: bool = False


def put(path: str, content: bytes | str) -> Prepare:
    """Write a file."""

    def prepare() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


SWEEP: dict[str, Any] = {
    "name": "bad", "selection": "holdout", "objective": "pseudo_miou", "trials": 2,
    "space": {"masks.background": {"float": [0.3, 0.7]}},
}  # fmt: skip


def replace(path: str, by: str) -> Prepare:
    """Put something else in the place of a file."""

    def prepare() -> None:
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.read_bytes() if file.is_file() else b""
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        if by == "folder":
            file.mkdir()
        elif by == "pipe":
            os.mkfifo(file)
        elif by == "device":
            file.symlink_to("/dev/zero")
        elif by == "loop":
            file.symlink_to(file.name)
        elif by == "dangling":
            file.symlink_to("nothing")
        elif by != "missing":
            file.write_bytes(DAMAGES[by](whole))

    return prepare


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"", "cut": lambda whole: whole[: len(whole) // 2],
    "random": lambda whole: random.Random(0).randbytes(500),
    "text": lambda whole: b"hello\n", "zeros": lambda whole: bytes(len(whole) or 99), "list": lambda whole: b"[]",
    "null": lambda whole: b"null", "object": lambda whole: b"{}", "deep": lambda whole: b"[" * 100_000,
    "latin": lambda whole: b"\xe9\xff", "infinite": lambda whole: b'{"metrics": {"x": Infinity}}',
}  # fmt: skip

NO_FILES = ("missing", "folder", "pipe", "device", "loop", "dangling")


def change_json(path: str, key: str, value: Any) -> Prepare:
    def prepare() -> None:
        Path(path).write_text(json.dumps({**json.loads(Path(path).read_text()), key: value}))

    return prepare


def marked(folder: str, kind: str, form: int = 1) -> Prepare:
    return put(f"{folder}/.semples-tune", "\n" + json.dumps({"kind": kind, "format": form, "written_by": "9.9"}))
