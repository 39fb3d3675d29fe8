"""YAML and values: what is written is what is meant, and nothing absurd passes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from semples import strict_yaml
from semples.config import Config, dump, flatten, keys, load, parse, to_dict, with_changes
from semples.errors import UserError
from tune.sweep_file import make_sweep

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(8)
)
TOWER = "a0: &a0 [1]\n" + "\n".join(f"a{i + 1}: &a{i + 1} [*a{i}]" for i in range(3000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("match: {lr: 1}\nmatch: {lr: 2}", "line 2: the key 'match' is there twice"),
        ("match: {lr: 1, lr: 2}", "the key 'lr' is there twice"),
        ("a: &a [*a]", "an alias names what it stands in"),
        ("a: &a {b: *a}", "an alias names what it stands in"),
        (BOMB, "with its aliases it has more than"),
        (TOWER, "with its aliases it has more than"),
        ("[" * 3000, "levels deep"),
        ("a: " + "{a: " * 2000, "levels deep"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("!!python/object/apply:os.system ['touch executed']", "not valid YAML"),
        ("a: !!timestamp 2001-99-99", "not valid YAML"),
        ("{[a]: 1}", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("- a", "expected 'key: value' lines"),
        ("1: 2", "expected 'key: value' lines"),
        ("match.lr: 0.1", "the key 'match.lr' must stand in its section, match: {lr: ...}"),
    ],
)
def test_what_is_not_strictly_yaml_is_one_short_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml") as error:
        load(path)
    assert message in str(error.value) and len(str(error.value)) < 400 and "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_numbers_are_numbers_and_words_are_words() -> None:
    text = "[1e-4, 2E3, 1., .5, 010, 0x1F, 1_000, 1:30, 2024-01-01, yes, off, 1e, 1.2.3, '1e-4', ~, +5]"
    assert strict_yaml.loads(text, "") == [
        1e-4, 2000.0, 1.0, 0.5, 10, 31, 1000, "1:30", "2024-01-01", True, False, "1e", "1.2.3", "1e-4", None, 5,
    ]  # fmt: skip


@pytest.mark.parametrize("flat", [True, False])
def test_what_is_written_reads_the_same_here_and_elsewhere(flat: bool) -> None:
    words = ["1e-4", "010", "2024-01-01", "1:30", "yes", "0x1f", "1_0", "null", "a: b", "# c", "\u00e9", "", ".inf"]
    tree = {"words": words, "numbers": [1e-4, 1e-300, 3, -0.0, 1e30], "of": {"a": {"b": True}}}
    text = strict_yaml.dumps(tree, flat)
    assert strict_yaml.loads(text, "") == tree == yaml.safe_load(text)


def test_merged_and_repeated_anchors_are_allowed() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: [*x, *x]"
    found = strict_yaml.loads(text, "")
    assert found["y"] == {"a": 3, "b": 2} and found["z"] == [{"a": 1, "b": 2}] * 2


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing", "latin", "large"])
def test_a_file_that_is_no_text_is_named_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "latin":
        path.write_bytes("a: \u00e9".encode("latin-1"))
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(strict_yaml.MOST_BYTES + 1)
    with pytest.raises(UserError, match=str(path)):
        load(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 7\n")
    assert load(path).seed == 7


NUMBERS = [
    key
    for key, value in flatten(to_dict(Config()))
    if isinstance(value, int | float) and not isinstance(value, bool) and ".args." not in key
]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, True, 10**30, -1, "many"])
@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_absurd(key: str, value: Any) -> None:
    """Of every number of the configuration; what the method takes without harm, however large, is taken."""
    if value == 10**30 and key.rsplit(".", maxsplit=1)[-1] in HARMLESS:
        with_changes(Config(), {key: value}, "x")
        return
    with pytest.raises(UserError, match=key.rsplit(".", maxsplit=1)[-1]):
        with_changes(Config(), {key: value}, "x")


# finite weights and widths of any size end in a loss that is not finite, or in a mask like another
HARMLESS = {
    "lr", "lambda_b", "lambda_t", "lambda_r", "mask_eps",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heatmaps.scales": [math.inf]}, "finite"),
        ({"heatmaps.scales": [100_000]}, "less than or equal to 8"),
        ({"heatmaps.scales": [1.0] * 1000}, "at most 20"),
        ({"segment.size": 320_000}, "less than or equal to 4096"),
        ({"runtime.threads": 10**9}, "less than or equal to 512"),
        ({"refine.warmup": 11}, "warmup 11 is longer than the 10 epochs"),
        ({"generator.args": {"drop_rate": math.nan}}, "drop_rate must be a finite number"),
        ({"segment.args": {"decoder_channels": [math.inf]}}, "decoder_channels must be a finite number"),
        ({"seed": 2**32}, "less than"),
        ({"x" * 10_000: 1}, "unknown key"),
    ],
)
def test_values_that_mean_nothing_are_one_short_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        with_changes(Config(), changes, "x")
    assert message in str(error.value)


def test_no_warm_up_is_asked_of_no_training() -> None:
    assert parse({"classify": {"epochs": 0, "warmup": 5}}, "x").classify.warmup == 5


SWEEP: dict[str, Any] = {
    "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 9,
    "space": {"match.lambda_b": {"float": [1, 4]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("budget", "time_limit") for value in ("0s", "-1h", "1x", 0, -1, "inf", math.inf,
                                                                         math.nan, True, "9" * 400 + "s", "99999999d",
                                                                         "1:30")),
        *(("trials", value) for value in (0, -1, 1.5, math.inf, True, 10**12)),
        *(("store_gb", value) for value in (0, -1, math.nan, math.inf, True)),
        *(("parallel", value) for value in (-1, 10**9, True)),
        *(("seed", value) for value in (-1, 2**32, True)),
        *(("resources", {"cpu": value}) for value in (0, -1, 1.5, math.inf, math.nan, 10**9, True)),
        *(("limits", {"seconds": value}) for value in (0, -1, math.inf, True)),
        *(("space", {"match.lambda_b": {"float": value}}) for value in ([0, math.inf], [math.nan, 1], [True, 2],
                                                                        [1, 1e300], [1], [1, 2, 3], [4, 1])),
        *(("space", {"prompts.count": {"int": value}}) for value in ([1, 10**400], [1, 2.5], [True, 4])),
        ("space", {"prompts.count": {"int": [1, 4], "step": 2}}),
        ("space", {"prompts.count": {"int": [1, 4], "step": True}}),
        ("space", {"masks.background": {"float": [0.3, 0.7], "step": 0.15}}),
        ("space", {"masks.background": {"choice": [None, 0.5]}}),
        ("space", {"heatmaps.scales": {"choice": [[1.0]]}}),
        ("name", "../x"), ("name", ""), ("name", "a b"), ("name", "a\n"),
    ],
)  # fmt: skip
def test_no_value_of_a_sweep_is_absurd(key: str, value: Any) -> None:
    make_sweep(SWEEP)
    with pytest.raises(ValueError, match=key):
        make_sweep({**SWEEP, key: value})


def test_a_choice_in_quotes_is_no_number() -> None:
    space = {"masks.background": {"choice": ["0.3", 0.5]}}
    with pytest.raises(UserError, match=r"'0.3' stands for 0.3; write it so, without quotes"):
        make_sweep({**SWEEP, "space": space}).distributions()


def test_a_step_that_meets_the_high_end_is_taken() -> None:
    for space in (
        {"prompts.count": {"int": [1, 5], "step": 2}},
        {"masks.background": {"float": [0.1, 0.7], "step": 0.1}},
    ):
        make_sweep({**SWEEP, "space": space})


def test_the_configuration_is_what_its_file_says(tmp_path: Path) -> None:
    config = parse({}, "x")
    (tmp_path / "c.yaml").write_text(dump(config, "heading"))
    assert load(tmp_path / "c.yaml") == config and len(keys(config)) > 60
