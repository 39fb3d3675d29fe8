"""The bad inputs of benchmarks/attack.py, generated from kinds: what is done to which input of which command.

A case runs in a folder of its own that holds copies of the parts of the world that it `needs` (see attack.py), after
`prepare` has spoilt something there. Everything in it must be refused in one sentence, unless `handled`: then the
command may also come through, because what is bad is no business of it or is put right.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from semples.config import Config, flatten, to_dict
from semples.data.scenes import CLASSES

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


def cases() -> list[Case]:
    """All of them, in a fixed order."""
    kinds = (
        numbers, words_of_a_command_line, options, yaml_files, sweep_values, files_in_place_of_others, damaged_runs,
        damaged_stores, store_places, folders_of_others, damaged_sweeps, data_sets, odd_images, links, other_words,
    )  # fmt: skip
    return [case for kind in kinds for case in kind()]


# ------------------------------------------------------------------------------------------------ values
ABSURD = (".inf", "-.inf", ".nan", "true", "-1", "many", "[]", "{}", "null", "1" + "0" * 30)
ANY_SIZE = ("lr", "lambda_b", "lambda_t", "lambda_r", "mask_eps")


def numbers() -> Iterator[Case]:
    """Every number of the configuration, with values that mean nothing."""
    for key, value in flatten(to_dict(Config())):
        if isinstance(value, bool) or not isinstance(value, int | float) or ".args." in key:
            continue
        for i, bad in enumerate(ABSURD):
            large = i == len(ABSURD) - 1
            if large and key.endswith(ANY_SIZE):
                continue
            # all of a part, and of the rest every third with its own offset: every key and every value is there
            if key.startswith(("data", "match", "masks", "runtime")) or (i + len(key)) % 3 == 0:
                yield Case("number", ("semples", "run", f"{key}={bad}"))


def words_of_a_command_line() -> Iterator[Case]:
    """KEY=VALUE words that are none, or name nothing."""
    bad = (
        "=", "x", "x=1", "match=1", "match.lr", "match.lr=", "match.lr=[", "match..lr=1", ".match=1", "match.lr.x=1",
        "data.kind=sun", "data.kind=[voc]", "generator.kind=sam", "generator.kind=", "selection=truth", "seed=a",
        "seed=1.5", "heatmaps.scales=[]", "heatmaps.scales=[.inf]", "heatmaps.scales=[100000]", "heatmaps.scales=3",
        f"heatmaps.scales={[1.0] * 999}", "segment.size=33", "segment.size=320000",
        "segment.args={decoder_channels: [-1]}",
        "segment.args={encoder_depth: .nan}", "segment.args=[1]", "generator.args={channels: [0]}",
        "generator.args={nonsense: 1}", "clip.model=", "clip.pretrained=.", "clip.model=ViT-B-32", "runtime.device=tpu",
        "runtime.threads=1000000000", "refine.warmup=.inf", "match.warmup=11", "prompts.length=60", "prompts.init=zero",
        "augment.randaugment=foo", "augment.size=31", "refine.start=masks", "generator.out_indices=[9]",
        "generator.out_indices=[1,1]",
        "data.train=1000000000", "data.classes=[a]", "masks.crf=3", "masks.crf.gt_prob=1", "segment.architecture=x" * 9,
        "segment.encoder=none", "data.kind=voc", "data.kind=coco", "data.kind=folder", f"{'k' * 5000}=1",
        f"match.lr={'9' * 5000}", "match.lr=!!python/name:os.system", "match.lr=&a [*a]", "match.lr=\x1b[31m",
        "generator.weights=/dev/zero", "generator.backbone=\x00",
    )  # fmt: skip
    for word in bad:
        yield Case("word", ("semples", "run", word.replace("\x00", "\\0")))
        if len(word) < 30 and "kind" not in word:
            yield Case("word", ("semples", "stages", word.replace("\x00", "\\0")))


def options() -> Iterator[Case]:
    """Every option that takes a number or a choice."""
    bad_counts = ("0", "-1", "nan", "1.5", "", "many")
    for command, option in (
        ("semples ablate", "--seeds"), ("semples prompts run", "--top"), ("semples scenes write new", "--train"),
        ("semples scenes write new", "--holdout"), ("semples scenes write new", "--test"),
        ("semples scenes pretrain", "--steps"), ("semples-tune confirm", "--top"), ("semples-tune confirm", "--seeds"),
        ("semples-tune replay", "--trials"), ("semples-tune replay", "--workers"), ("semples-tune launch scenes",
        "--trials"),
    ):  # fmt: skip
        for value in bad_counts:
            yield Case("option", (*command.split(), option, value))
    for value in ("nan", "inf", "0", "-1", "-inf", "", "much"):
        yield Case("option", ("semples", "run", "--quota", value))
    for value in ("nan", "-1", "", "inf", "all"):
        yield Case(
            "option", ("semples", "store", "prune", "run/store", "--keep", value), ("run",), handled=value == "inf"
        )
    for value in ("0s", "-1h", "5 minutes", "", "inf", "1e9h", "nan", "9" * 400):
        for option in ("--budget", "--time-limit"):
            yield Case("option", ("semples-tune", "launch", "scenes", option, value))
    for value in ("-1", "nan", str(2**32), "x"):
        yield Case("option", ("semples", "scenes", "write", "new", "--seed", value))
        yield Case("option", ("semples", "scenes", "pretrain", "--seed", value))
    for value in ("..", "a/b", "", " ", "a\nb", "-", "~", "x" * 500, "é"):
        yield Case("option", ("semples-tune", "launch", "scenes", "--name", value))
    for value in ("0", "-1", "99999", "nan", "x"):
        yield Case("option", ("semples-tune", "ui", "--port", value), ("sweeps",))
    for host in ("", "no such host", "999.1.1.1", "-"):
        yield Case("option", ("semples-tune", "ui", "--host", host), ("sweeps",))
    yield Case("option", ("semples", "scenes", "pretrain", "--only", "nothing"))
    for value in ("vok", "", "measured "):
        yield Case("option", ("semples-tune", "replay", "--profile", value))
    for value in ("-1", "99", "x", "1.5"):
        yield Case("option", ("semples-tune", "best", "--trial", value), ("sweeps",))
        yield Case("option", ("semples-tune", "export", "to", "--trial", value), ("sweeps",))
    for word in ("sampler=best", "trials=0", "study=x", "objective=speed", "budget=1", "nonsense=1", "=", "seed=-1"):
        yield Case("option", ("semples-tune", "replay", word), handled=word == "budget=1")
    for words in (
        ("run", "--none"),
        ("nothing",),
        ("predict",),
        ("store", "ls"),
        ("scenes", "write"),
        ("evaluate", "x"),
    ):
        yield Case("option", ("semples", *words))
    for words in (("launch",), ("export",), ("best", "--none"), ("nothing",)):
        yield Case("option", ("semples-tune", *words))


# ------------------------------------------------------------------------------------------------ YAML
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)
TEXTS: dict[str, bytes] = {
    "twice": b"match: {lr: 0.1}\nmatch: {lr: 0.2}", "twice inside": b"match: {lr: 0.1, lr: 0.2}", "bomb": BOMB.encode(),
    "circle": b"match: &a {lr: *a}", "deep": b"a: " + b"[" * 3000, "open": b"match: {", "list": b"- a\n- b",
    "word": b"hello", "number": b"7", "latin": "match: é".encode("latin-1"), "zeros": b"\0" * 99,
    "binary": random.Random(0).randbytes(99),
    "tab": b"match:\n\tlr: 1", "tag": b"!!python/object/apply:os.system ['touch executed']",
    "unknown": b"mtach: {lr: 1}",
    "dotted": b"match.lr: 0.1", "number key": b"1: 2", "null section": b"match:", "infinite": b"match: {lr: .inf}",
    "two documents": b"seed: 1\n---\nseed: 2", "escape": b'match: {"\x1b[31m": 1}', "date": b"seed: 2024-01-01",
}  # fmt: skip


def put(path: str, content: bytes | str) -> Prepare:
    """Write a file."""

    def prepare() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def yaml_files() -> Iterator[Case]:
    """Texts that are no configuration, in the place of every file that is read as one."""
    for name, text in TEXTS.items():
        for words in (
            ("semples", "run", "c.yaml"),
            ("semples", "stages", "c.yaml"),
            ("semples-tune", "launch", "c.yaml"),
        ):
            yield Case(f"yaml {name}", words, prepare=put("c.yaml", text))
        preset = yaml.safe_dump({**SWEEP, "preset": "p.yaml"})

        def both(text: bytes = text, preset: str = preset) -> None:
            put("p.yaml", text)()
            put("c.yaml", preset)()

        yield Case(f"yaml {name}", ("semples-tune", "launch", "c.yaml"), prepare=both)


SWEEP: dict[str, Any] = {
    "name": "bad", "selection": "holdout", "objective": "pseudo_miou", "trials": 2,
    "space": {"masks.background": {"float": [0.3, 0.7]}},
}  # fmt: skip


def sweep_values() -> Iterator[Case]:
    """Keys of a sweep file with values that mean nothing."""
    inf, nan = float("inf"), float("nan")
    bad: dict[str, list[Any]] = {
        "name": ["", "..", "a b", "a/b", 3, None, "x\n"],
        "selection": ["", "masks", None, 1],
        "objective": [[], "speed", ["seg_miou", "seg_miou"], ["seconds"], None, 3],
        "trials": [0, -1, inf, nan, 1.5, True, "ten", 10**12],
        "budget": [0, -1, inf, nan, True, "1x", "-3h", "9" * 400 + "s"],
        "time_limit": [0, inf, "5 m", [1]],
        "parallel": [-1, inf, True, 10**9],
        "sampler": ["best", None, 3],
        "early_stopping": ["soon", True],
        "seed": [-1, 2**32, nan, True],
        "resources": [{"cpu": inf}, {"cpu": 0}, {"cpu": 1.5}, {"cpu": True}, {"gpu": -1}, {"gpu": nan}, {"tpu": 1}, 3],
        "limits": [{"seconds": 0}, {"seconds": inf}, {"metres": 1}, {"seconds": True}, 3],
        "store_gb": [0, -1, inf, nan, True],
        "warm_start": ["nowhere", 3],
        "store": [3, "nosuch://x", "://"],
        "study": [3, "nosuch://x", "sqlite:////dev/null/study.db", "postgresql://"],
        "preset": ["none", 3, "."],
        "base": ["voc", 3, {"mtach": 1}, {"match": {"lr": inf}}, {"selection": "oracle"}, {"match": 3}],
        "mlflow": [3, "nosuch://x", "sqlite:////dev/null/study.db"],
        "space": [
            {}, None, 3, {"match.lambda_b": 3}, {"match.lambda_b": {}}, {"nonsense": {"int": [1, 2]}},
            {"seed": {"int": [0, 3]}}, {"data.train": {"int": [1, 600]}}, {"match": {"float": [1, 2]}},
            *({"match.lambda_b": {"float": ends}} for ends in ([1, inf], [nan, 2], [2, 1], [1], [1, 1], ["a", "b"],
            [True, 2])),
            {"match.lambda_b": {"float": [0, 4], "log": True}}, {"match.lambda_b": {"float": [0.5, 4], "step": 9}},
            {"match.lambda_b": {"float": [-1, 4]}}, {"match.lambda_b": {"float": [3, 4]}},
            {"prompts.count": {"int": [1, 4], "step": 2}}, {"prompts.count": {"int": [1, 400]}},
            {"prompts.count": {"int": [1, 4], "step": 0.5}}, {"prompts.count": {"int": [1, 4], "float": [1, 4]}},
            {"prompts.init": {"choice": []}}, {"prompts.init": {"choice": ["zero", "uniform"]}},
            {"masks.background": {"choice": [None, 0.5]}}, {"heatmaps.scales": {"choice": [[1.0]]}},
            {"masks.background": {"choice": ["0.5", "0.6"]}}, {"match.lambda_b": {"float": [0.5, 4], "when": {"x": 1}}},
        ],
    }  # fmt: skip
    for key, values in bad.items():
        for value in values:
            text = yaml.safe_dump({**SWEEP, key: value})
            yield Case(f"sweep {key}", ("semples-tune", "launch", "c.yaml"), prepare=put("c.yaml", text))
    for key in SWEEP:
        text = yaml.safe_dump({k: v for k, v in SWEEP.items() if k != key})
        yield Case("sweep lacks", ("semples-tune", "launch", "c.yaml"), prepare=put("c.yaml", text))


# ------------------------------------------------------------------------------------------------ files and folders
def _replace(path: str, by: str) -> Prepare:
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
            yield Case(f"path {by}", words, ("run", "photo.png", "masks"), _replace("x", by))
        if by != "empty":  # which is a configuration: all defaults
            yield Case(f"path {by}", ("semples", "run", "x"), (), _replace("x", by))
        yield Case(f"path {by}", ("semples-tune", "launch", "x"), (), _replace("x", by))
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
                    _replace(f"run/{file}", by),
                )
    for key, value in (
        ("classes", []), ("classes", "cat"), ("classes", 3), ("classes", [1]), ("classes", ["a"]), ("keys",
        {"masks": "../../x"}),
        ("keys", {"masks": "/x"}), ("keys", []), ("metrics", {"x": "y"}), ("metrics", None), ("selection", "luck"),
    ):  # fmt: skip
        change = _change_json("run/result.json", key, value)
        yield Case("run's result", ("semples", "predict", "photo.png", "--run", "run"), ("run", "photo.png"), change)
    for key, value in (("segment", {"encoder": "none"}), ("segment", {"architecture": "FPN"}), ("clip", None)):

        def change_config(key: str = key, value: Any = value) -> None:
            path = Path("run/config.yaml")
            path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))

        yield Case(
            "run's config", ("semples", "predict", "photo.png", "--run", "run"), ("run", "photo.png"), change_config
        )


def _change_json(path: str, key: str, value: Any) -> Prepare:
    def prepare() -> None:
        Path(path).write_text(json.dumps({**json.loads(Path(path).read_text()), key: value}))

    return prepare


def damaged_stores() -> Iterator[Case]:
    """A damaged manifest is the trouble of one result alone: every command goes on with the others."""
    bad: dict[str, Prepare] = {by: _in_store(_replace, by) for by in (*DAMAGES, "missing", "folder", "pipe")}
    for key, value in (
        ("files", {}), ("files", {"../x": "0" * 64}), ("files", {"/x": "0" * 64}), ("files", []), ("bytes", "1"),
        ("bytes", -1),
        ("seconds", None), ("seconds", 1e999), ("stage", 3), ("metrics", {"pseudo_miou": 99.0}), ("format", 99),
        ("curves", 3),
    ):  # fmt: skip
        bad[f"{key} {value}"] = _in_store(_change_json, key, value)
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


def folders_of_others() -> Iterator[Case]:
    """Every command that writes, into a folder that holds somebody's files, is no folder, or holds the data."""
    writers = {
        "run": ("semples", "run", "tiny.yaml", "--out"), "ablate": ("semples", "ablate", "tiny.yaml", "--out"),
        "predict": ("semples", "predict", "photo.png", "--run", "run", "--out"), "write": ("semples", "scenes",
        "write"),
        "pretrain": ("semples", "scenes", "pretrain", "--out"), "export": ("semples-tune", "export"),
        "store": ("semples", "run", "tiny.yaml", "--store"),
    }  # fmt: skip
    theirs: dict[str, Prepare] = {
        "photos": put("x/photo.jpg", "mine"), "masks": put("x/masks/photo.png", "mine"),
        "configuration": put("x/config.yaml", "seed: 1"), "file": put("x", "mine"), "link": _replace("x", "loop"),
        "dangling": _replace("x", "dangling"), "pipe": _replace("x", "pipe"), "other kind": _marked("x",
        "something else"),
        "bad marker": put("x/.semples-tune", "\nnonsense"), "newer marker": _marked("x", "run", 99),
    }  # fmt: skip
    needs = ("tiny.yaml", "photo.png", "run", "sweeps")
    for words in writers.values():
        for kind, prepare in theirs.items():
            yield Case(f"out {kind}", (*words, "x"), needs, prepare)
    for out in ("voc", "voc/new", ".", "voc/JPEGImages"):
        for words in (("run", "voc/config.yaml", "--out", out), ("run", "voc/config.yaml", "--store", out)):
            yield Case("out of the data", ("semples", *words), ("voc",))
        yield Case("out of the data", ("semples", "ablate", "voc/config.yaml", "--out", out), ("voc",))
    for name in (
        "masks/00.png",
        "result.json",
        "gallery.png",
        "masks/mine.png",
        "generator.safetensors",
        "config.yaml",
    ):
        words = ("semples", "run", "tiny.yaml", "--out", "run")
        yield Case("out changed by hand", words, ("run", "tiny.yaml"), put(f"run/{name}", "mine"))
    for file in ("mine.txt", "run", "nowhere/\0"[:8] + "x/y.json", "tiny.yaml"):
        words = ("semples", "ablate", "tiny.yaml", "--json", file)
        yield Case("json", words, ("run", "tiny.yaml", "mine.txt"), handled=file.startswith("nowhere"))


def _marked(folder: str, kind: str, form: int = 1) -> Prepare:
    return put(f"{folder}/.semples-tune", "\n" + json.dumps({"kind": kind, "format": form, "written_by": "9.9"}))


def damaged_sweeps() -> Iterator[Case]:
    """Every file of a sweep, damaged, for every command that reads it."""
    readers = ("status", "best", "export to", "confirm --seeds 2 --top 1", "launch sweep-tiny.yaml --trials 3")
    for file in ("sweep.yaml", "study.db"):
        for by in ("empty", "cut", "random", "text", "zeros", "list", "latin", "missing", "folder", "pipe"):
            for reader in readers:
                if (by, file, reader.split()[0]) in (("missing", "study.db", "launch"),):
                    continue
                words = ("semples-tune", *reader.split(), "--out", "sweeps")
                prepare = _replace(f"sweeps/tiny/{file}", by)
                yield Case(f"{file} {by}", words, ("sweeps", "sweep-tiny.yaml"), prepare)
    yield Case("study.db missing", ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps"),
               ("sweeps", "sweep-tiny.yaml"), _replace("sweeps/tiny/study.db", "missing"))  # fmt: skip
    for by in (*DAMAGES, "folder"):
        for file in ("result.json", "config.yaml"):
            prepare = _of_trials(file, by)
            for reader in ("best", "export to"):
                words = ("semples-tune", *reader.split(), "--out", "sweeps")
                yield Case(f"trial's {file} {by}", words, ("sweeps",), prepare)
    for by in ("random", "text", "folder"):
        # MLflow may be away as long as it likes: the sweep goes on, and what is to be written waits
        words = ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps")
        prepare = _replace("sweeps/mlflow.db", by)
        yield Case(f"mlflow.db {by}", words, ("sweeps", "sweep-tiny.yaml"), prepare, handled=True)
    words = ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps")
    yield Case("best.yaml by hand", words, ("sweeps", "sweep-tiny.yaml"), put("sweeps/tiny/best.yaml", "mine"))


def _of_trials(file: str, by: str) -> Prepare:
    def prepare() -> None:
        for path in Path("sweeps/tiny/trials").iterdir():
            _replace(f"{path}/{file}", by)()

    return prepare


# ------------------------------------------------------------------------------------------------ data
FIELDS = f"classes=[{', '.join(CLASSES)}]"


def data_sets() -> Iterator[Case]:
    """Data sets with something wrong in them, for `data check`; a sound one comes through."""
    for root, files in {
        "voc": ("cls_labels.npy", "ImageSets/Segmentation/val.txt", "ImageSets/Segmentation/train.txt"),
        "folder": ("labels.csv", "classes.txt"),
        "coco": ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
    }.items():
        words = ("semples", "data", "check", root, *([FIELDS] if root != "folder" else []), "holdout=8")
        for file in files:
            for by in (
                "empty",
                "cut",
                "random",
                "zeros",
                "list",
                "null",
                "deep",
                "latin",
                "folder",
                "pipe",
                "dangling",
            ):
                half = by == "cut" and file.endswith(".txt")  # half a list is a list
                yield Case(f"data {file} {by}", words, (root,), _replace(f"{root}/{file}", by), handled=half)
        for name, prepare in _spoilt_images(root).items():
            yield Case(f"data {name}", words, (root,), prepare)
        for word in (
            "holdout=0",
            "holdout=99999",
            "holdout=nan",
            "classes=[a, a]",
            "nonsense=1",
            "seed=-1",
            "classes=3",
        ):
            yield Case("data word", ("semples", "data", "check", root, word), (root,))
    yield Case("data executes", ("semples", "data", "check", "voc", FIELDS, "holdout=8"), ("voc",), _executing)


def _executing() -> None:
    """A table of labels that runs a command when it is unpickled the usual way."""

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch executed",)

    np.save("voc/cls_labels.npy", np.array({"x": Bad()}, dtype=object), allow_pickle=True)


def _spoilt_images(root: str) -> dict[str, Prepare]:
    """Ways to spoil an image or a mask that is read."""
    images = {"voc": "JPEGImages", "folder": "images", "coco": "train2014"}[root]
    found = {"images": images, "masks": {"voc": "SegmentationClass", "folder": "masks"}.get(root, "")}
    result: dict[str, Prepare] = {}
    for what, folder in found.items():
        for by in ("empty", "cut", "random", "pipe", "folder", "dangling", "deep image", "other size", "many"):
            if not folder or (what == "images" and by in ("many",)):
                continue

            def prepare(folder: str = folder, by: str = by) -> None:
                path = min(Path(root, folder).iterdir())
                if by == "deep image":
                    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(path)
                elif by == "other size":
                    Image.new("L", (7, 9)).save(path)
                elif by == "many":
                    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(path)
                else:
                    _replace(str(path), by)()

            result[f"{what} {by}"] = prepare
    return result


def odd_images() -> Iterator[Case]:
    """What `predict` and `evaluate` are given in place of an image or a mask."""
    for by in ("empty", "cut", "random", "text", "zeros", *NO_FILES):
        words = ("semples", "predict", "photo.png", "--run", "run")
        yield Case(f"image {by}", words, ("run", "photo.png"), _replace("photo.png", by))
        for folder in ("masks", "truth"):

            def prepare(folder: str = folder, by: str = by) -> None:
                shutil.copytree("masks", "truth")
                _replace(str(min(Path(folder).iterdir())), by)()

            yield Case(f"mask {by}", ("semples", "evaluate", "masks", "truth"), ("masks",), prepare,
                       handled=by == "missing" and folder == "masks")  # fmt: skip
    postscript = put("photo.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    yield Case("image executes", ("semples", "predict", "photo.png", "--run", "run"), ("run", "photo.png"), postscript)
    twice = ("semples", "predict", "photo.png", "run/gallery.png", "photo.png", "--run", "run")
    yield Case("image twice", twice, ("run", "photo.png"))


# ------------------------------------------------------------------------------------------------ links
def links() -> Iterator[Case]:
    """Links out of our folders to somebody's; what they lead to stays as it is."""
    mine = put("theirs/mine.txt", "mine")

    def link(path: str, to: str) -> Prepare:
        def prepare() -> None:
            mine()
            file = Path(path)
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            file.unlink(missing_ok=True)
            file.symlink_to(Path(to).resolve())

        return prepare

    again = ("semples", "run", "tiny.yaml", "--out", "run")
    for path, to in (
        ("run/masks", "theirs"),
        ("run/result.json", "theirs/mine.txt"),
        ("run/.semples-tune", "theirs/mine.txt"),
    ):
        yield Case("link", again, ("run", "tiny.yaml"), link(path, to))
    for folder in ("work", "holders", "uses", "leases"):
        yield Case("link", again, ("run", "tiny.yaml"), link(f"run/store/{folder}", "theirs"))
    words = ("semples-tune", "launch", "sweep-tiny.yaml", "--trials", "3", "--out", "sweeps")
    for path in ("tiny/.lock", "tiny/sweep.yaml", "tiny/best.yaml"):
        yield Case(
            "link", words, ("sweeps", "sweep-tiny.yaml"), link(f"sweeps/{path}", "theirs/mine.txt"), handled=True
        )
    for key in ("/x/theirs", "../../../theirs", "theirs"):

        def spoil(key: str = key) -> None:
            mine()
            for path in Path("sweeps/tiny/trials").glob("*/result.json"):
                content = json.loads(path.read_text())
                path.write_text(
                    json.dumps({**content, "keys": dict.fromkeys(content["keys"], key.replace("/x", os.getcwd()))})
                )

        yield Case("key that is a path", ("semples-tune", "export", "to", "--out", "sweeps"), ("sweeps",), spoil)


def other_words() -> Iterator[Case]:
    """Names that are nowhere, and what is asked too early."""
    for words in (("status", "none"), ("best", "none"), ("confirm", "none"), ("export", "to", "--name", "none")):
        for name in (words, tuple(word.replace("none", "../sweeps") for word in words)):
            yield Case("name", ("semples-tune", *name, "--out", "sweeps"), ("sweeps",), handled="../sweeps" in name)
    yield Case("why", ("semples", "stages", "tiny.yaml", "--why", "zz", "yy"), ("tiny.yaml",))
    yield Case("why", ("semples", "stages", "tiny.yaml", "--why", "", ""), ("tiny.yaml",))
    yield Case(
        "address",
        ("semples-tune", "launch", "sweep-tiny.yaml", "--address", "127.0.0.1:1"),
        ("sweep-tiny.yaml",),
        handled=True,
    )
