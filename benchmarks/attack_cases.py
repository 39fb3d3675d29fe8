"""The bad inputs of benchmarks/attack.py, generated from kinds: what is done to which input of which command.

A case runs in a folder of its own that holds copies of the parts of the world that it `needs` (see attack.py), after
`prepare` has spoilt something there. Everything in it must be refused in one sentence, unless `handled`: then the
command may also come through, because what is bad is no business of it or is put right.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from attack_case import DAMAGES, NO_FILES, Case, Prepare, change_json, put, replace
from attack_data import data_sets, folders_of_others, links, odd_images
from attack_values import numbers, options, other_words, sweep_values, words_of_a_command_line, yaml_files


def cases() -> list[Case]:
    """All of them, in a fixed order."""
    kinds = (
        numbers, words_of_a_command_line, options, yaml_files, sweep_values, files_in_place_of_others, damaged_runs,
        damaged_stores, store_places, folders_of_others, damaged_sweeps, data_sets, odd_images, links, other_words,
    )  # fmt: skip
    return [case for kind in kinds for case in kind()]


def files_in_place_of_others() -> Iterator[Case]:
    """What is no plain file, in the place of every file or folder that a command is given."""
    for by in (*NO_FILES, "empty", "random"):
        for words in (
            ("semples", "predict", "x", "--run", "run"), ("semples", "evaluate", "x", "masks"),
            ("semples", "evaluate", "masks", "x"), ("semples", "prompts", "x"), ("semples", "predict", "photo.png",
            "--run", "x"),
            ("semples", "store", "ls", "x"), ("semples", "store", "verify", "x"), ("semples", "store", "prune", "x",
            "--keep", "1"),
            ("semples", "data", "check", "x"), ("semples-tune", "status", "--out", "x"), ("semples-tune", "best",
            "--out", "x"),
            ("semples-tune", "export", "to", "--out", "x"), ("semples-tune", "ui", "--out", "x"),
        ):  # fmt: skip
            yield Case(f"path {by}", words, ("run", "photo.png", "masks"), replace("x", by))
        if by != "empty":  # which is a configuration: all defaults
            yield Case(f"path {by}", ("semples", "run", "x"), (), replace("x", by))
        yield Case(f"path {by}", ("semples-tune", "launch", "x"), (), replace("x", by))
    for long in ("x" * 300, "a/" * 3000, "a\nb", "\x1b[31m", "~nobody/x"):
        yield Case("path odd", ("semples", "run", long))
        yield Case("path odd", ("semples", "predict", long, "--run", "run"), ("run",))
        yield Case("path odd", ("semples-tune", "best", "--out", long))


def damaged_runs() -> Iterator[Case]:
    """Every file of a finished run, damaged, for every command that reads it."""
    readers = {
        "result.json": (("predict", "photo.png", "--run", "run"), ("prompts", "run"), ("evaluate", "masks", "masks",
        "--run", "run")),
        "config.yaml": (("predict", "photo.png", "--run", "run"), ("prompts", "run")),
        "network.safetensors": (("predict", "photo.png", "--run", "run"),),
        "prompts.safetensors": (("prompts", "run"),),
    }  # fmt: skip
    for file, commands in readers.items():
        for by in (*DAMAGES, *(by for by in NO_FILES if by != "device")):
            for words in commands:
                yield Case(
                    f"run's {file} {by}",
                    ("semples", *words),
                    ("run", "photo.png", "masks"),
                    replace(f"run/{file}", by),
                )
    for key, value in (
        ("classes", []), ("classes", "cat"), ("classes", 3), ("classes", [1]), ("classes", ["a"]), ("keys",
        {"masks": "../../x"}),
        ("keys", {"masks": "/x"}), ("keys", []), ("metrics", {"x": "y"}), ("metrics", None), ("selection", "luck"),
    ):  # fmt: skip
        change = change_json("run/result.json", key, value)
        yield Case("run's result", ("semples", "predict", "photo.png", "--run", "run"), ("run", "photo.png"), change)
    for key, value in (("segment", {"encoder": "none"}), ("segment", {"architecture": "FPN"}), ("clip", None)):

        def change_config(key: str = key, value: Any = value) -> None:
            path = Path("run/config.yaml")
            path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))

        yield Case(
            "run's config", ("semples", "predict", "photo.png", "--run", "run"), ("run", "photo.png"), change_config
        )


def damaged_stores() -> Iterator[Case]:
    """A damaged manifest is the trouble of one result alone: every command goes on with the others."""
    bad: dict[str, Prepare] = {by: _in_store(replace, by) for by in (*DAMAGES, "missing", "folder", "pipe")}
    for key, value in (
        ("files", {}), ("files", {"../x": "0" * 64}), ("files", {"/x": "0" * 64}), ("files", []), ("bytes", "1"),
        ("bytes", -1),
        ("seconds", None), ("seconds", 1e999), ("stage", 3), ("metrics", {"pseudo_miou": 99.0}), ("format", 99),
        ("curves", 3),
    ):  # fmt: skip
        bad[f"{key} {value}"] = _in_store(change_json, key, value)
    for name, prepare in bad.items():
        for words in (("ls", "s"), ("du", "s"), ("verify", "s"), ("prune", "s", "--keep", "1")):
            yield Case(f"manifest {name}", ("semples", "store", *words), ("store",), prepare, handled=True)
        words = ("semples", "run", "tiny.yaml", "--out", "new", "--store", "s", "--quota", "1")
        yield Case(f"manifest {name}", words, ("store", "tiny.yaml"), prepare, handled=True)


def _in_store(change: Callable[..., Prepare], *how: Any) -> Prepare:
    """Spoil the manifest of one result of the store `s`."""

    def prepare() -> None:
        shutil.move("store", "s")
        victim = min(path.name for path in Path("s").iterdir() if len(path.name) == 32)
        change(f"s/{victim}/result.json", *how)()

    return prepare


def store_places() -> Iterator[Case]:
    """Places that are no store."""
    for place in (
        "~nobody-of-this-name/x", "://", "nosuch://x", "ftp://127.0.0.1:1/x", "dir://x", "reference://x",
        "github://x", "s3://", "http://",
        "zip://x",
        "memory://", "file://", "cached://x", "sftp://127.0.0.1:1/x", "x://y://z", "https://127.0.0.1:1/x",
    ):  # fmt: skip
        for words in (("store", "ls", place), ("run", "tiny.yaml", "--store", place)):
            handled = place.startswith(("http", "memory", "s3", "cached", "dir"))
            yield Case("store place", ("semples", *words), ("tiny.yaml",), handled=handled and words[0] != "run")


def damaged_sweeps() -> Iterator[Case]:
    """Every file of a sweep, damaged, for every command that reads it."""
    readers = ("status", "best", "export to", "confirm --seeds 2 --top 1", "launch sweep-tiny.yaml --trials 3")
    for file in ("sweep.yaml", "study.db"):
        for by in ("empty", "cut", "random", "text", "zeros", "list", "latin", "missing", "folder", "pipe"):
            for reader in readers:
                if (by, file, reader.split()[0]) in (("missing", "study.db", "launch"),):
                    continue
                words = ("semples-tune", *reader.split(), "--out", "sweeps")
                prepare = replace(f"sweeps/tiny/{file}", by)
                yield Case(f"{file} {by}", words, ("sweeps", "sweep-tiny.yaml"), prepare)
    yield Case("study.db missing", ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps"),
               ("sweeps", "sweep-tiny.yaml"), replace("sweeps/tiny/study.db", "missing"))  # fmt: skip
    for by in (*DAMAGES, "folder"):
        for file in ("result.json", "config.yaml"):
            prepare = _of_trials(file, by)
            for reader in ("best", "export to"):
                words = ("semples-tune", *reader.split(), "--out", "sweeps")
                yield Case(f"trial's {file} {by}", words, ("sweeps",), prepare)
    for by in ("random", "text", "folder"):
        # MLflow may be away as long as it likes: the sweep goes on, and what is to be written waits
        words = ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps")
        prepare = replace("sweeps/mlflow.db", by)
        yield Case(f"mlflow.db {by}", words, ("sweeps", "sweep-tiny.yaml"), prepare, handled=True)
    words = ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps")
    yield Case("best.yaml by hand", words, ("sweeps", "sweep-tiny.yaml"), put("sweeps/tiny/best.yaml", "mine"))


def _of_trials(file: str, by: str) -> Prepare:
    def prepare() -> None:
        for path in Path("sweeps/tiny/trials").iterdir():
            replace(f"{path}/{file}", by)()

    return prepare
