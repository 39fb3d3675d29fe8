"""Bad inputs that are values: words of a command line, configurations, sweep files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import yaml
from attack_case import SWEEP, Case, put

from semples.config import Config, flatten, to_dict

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
