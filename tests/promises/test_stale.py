"""A result is stale when anything that determines it has changed, and good for as long as nothing has.

What determines it: images, masks, image labels, class names and splits of the data, in every layout; seed, rule of
selection and runtime; the content of weights files; versions of stages and packages; and all of that of the results
that it was made from. What does not: where files lie, when they were written, in what order keys are given.
That keys of the configuration count is in test_keys.py, that damaged results are none in test_store.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image
from safetensors.torch import load_file, save_file
from trees import (
    WRITERS,
    Write,
    image_files,
    load,
    mask_files,
    repaint,
    write_coco_official,
    write_coco_toco,
    write_coco_weaktr,
    write_coco_weaktr_with_table,
    write_folder,
    write_voc,
    write_voc_with_xml,
)

from semples.clip import load_clip
from semples.config import ClipConfig, DataConfig, parse, to_dict, with_changes
from semples.data import digests, scenes
from semples.digests import digest
from semples.pipeline.keys import differences, key_parts, stage_keys
from semples.pipeline.run import Result
from semples.pretrained import MINIATURE_WEIGHTS
from semples.results import make_key


def fingerprint(config: DataConfig) -> str:
    return load(config).fingerprint


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Write, Path], DataConfig]:
    """Every layout is written once and copied."""
    known: dict[Write, tuple[Path, DataConfig]] = {}

    def copy(write: Write, to: Path) -> DataConfig:
        if write not in known:
            root = tmp_path_factory.mktemp("tree")
            known[write] = root, write(root)
        root, config = known[write]
        shutil.copytree(root, to, dirs_exist_ok=True)
        return config.model_copy(update={"root": str(to)})

    return copy


Written = Callable[[Write, Path], DataConfig]


@pytest.mark.parametrize("write", WRITERS)
def test_data_are_the_same_wherever_and_whenever_they_were_written(
    write: Write, written: Written, tmp_path: Path
) -> None:
    here, there = written(write, tmp_path / "here"), written(write, tmp_path / "there")
    for path in (tmp_path / "there").rglob("*"):
        os.utime(path, (1, 1))
    assert fingerprint(here) == fingerprint(there)


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("write", WRITERS)
def test_an_image_counts_in_every_split(write: Write, split: str, written: Written, tmp_path: Path) -> None:
    config = written(write, tmp_path)
    data = load(config)
    name = getattr(data, split).names[2]
    (path,) = [path for path in image_files(tmp_path) if path.stem.endswith(name)]
    image = np.array(Image.open(path))
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    assert fingerprint(config) != data.fingerprint


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("write", [write_voc, write_folder, write_coco_toco, write_coco_weaktr])
def test_a_mask_counts_in_every_split(write: Write, split: str, written: Written, tmp_path: Path) -> None:
    """One pixel that nothing else tells of: labels stay as they are."""
    config = written(write, tmp_path)
    data = load(config)
    name = getattr(data, split).names[2]
    (path,) = [path for path in mask_files(tmp_path) if path.stem.endswith(name)]
    mask = np.array(Image.open(path))
    i, j = np.argwhere(mask == 0)[0]
    repaint(path, lambda values: np.where((np.indices(values.shape) == [[[i]], [[j]]]).all(0), 255, values))
    changed = load(config)
    assert (changed.train.labels == data.train.labels).all()
    assert changed.fingerprint != data.fingerprint


def of_table(root: Path, name: str) -> None:
    for path in root.rglob("cls_labels*.npy"):
        table = np.load(path, allow_pickle=True).item()
        (key,) = [key for key in table if key.endswith(name)]
        table[key] = 1 - table[key] if len(table[key]) == 8 else np.r_[1 - table[key][:8], table[key][8:]]
        np.save(path, np.array(table, dtype=object), allow_pickle=True)


def of_annotations(root: Path, name: str) -> None:
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(path.read_text().replace("</annotation>", "<object><name>boat</name></object></annotation>"))
    path.write_text(path.read_text().replace("<name>car", "<name>sheep"))


def of_csv(root: Path, name: str) -> None:
    path = root / "labels.csv"
    lines = path.read_text().splitlines()
    (i,) = [i for i, line in enumerate(lines) if line.startswith(name)]
    image, _, split = lines[i].split(",")
    lines[i] = f"{image},chair;sheep;bottle,{split}"
    path.write_text("\n".join(lines))


LABELS = [
    (write_voc, of_table),
    (write_voc_with_xml, of_annotations),
    (write_folder, of_csv),
    (write_coco_toco, of_table),
    (write_coco_weaktr_with_table, of_table),
]


@pytest.mark.parametrize("split", ["train", "holdout"])
@pytest.mark.parametrize(("write", "change"), LABELS)
def test_image_labels_count(
    write: Write, change: Callable[[Path, str], None], split: str, written: Written, tmp_path: Path
) -> None:
    config = written(write, tmp_path)
    before = load(config)
    names = getattr(before, split).names
    labels = getattr(before, split).labels
    boat = scenes.CLASSES.index("boat")
    change(tmp_path, next(name for name, of in zip(names, labels, strict=True) if not of[boat]))
    after = load(config)
    assert (getattr(after, split).labels != labels).any() and getattr(after, split).names == names
    assert after.fingerprint != before.fingerprint


def test_annotations_of_coco_count(written: Written, tmp_path: Path) -> None:
    config = written(write_coco_official, tmp_path)
    before = fingerprint(config)
    path = tmp_path / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = content["annotations"][1]["category_id"]
    path.write_text(json.dumps(content))
    assert fingerprint(config) != before


@pytest.mark.parametrize("write", [write_voc, write_coco_toco])
def test_names_and_order_of_the_classes_count(write: Write, written: Written, tmp_path: Path) -> None:
    """CLIP is told the names."""
    config = written(write, tmp_path)
    names = scenes.CLASSES
    others = [names, (*names[:-1], "flask"), (names[1], names[0], *names[2:])]
    assert len({fingerprint(config.model_copy(update={"classes": classes})) for classes in others}) == 3


def test_the_classes_of_a_folder_count(written: Written, tmp_path: Path) -> None:
    config = written(write_folder, tmp_path)
    before = fingerprint(config)
    (tmp_path / "classes.txt").write_text("\n".join(reversed(scenes.CLASSES)))
    assert fingerprint(config) != before


def test_which_images_are_in_which_split_counts(written: Written, tmp_path: Path) -> None:
    """The same images: one is not trained on, not measured, or of the test set."""
    config, lists = written(write_voc, tmp_path), tmp_path / "ImageSets" / "Segmentation"
    names = {path.stem: path.read_text().split() for path in lists.iterdir()}
    last = names["train"][-1]
    fewer = [name for name in names["train"] if name != last]
    found = []
    for changes in (
        {},
        {"train": fewer},
        {"train": fewer, "train_aug": fewer},
        {"train": fewer, "train_aug": fewer, "val": [*names["val"], last]},
        {"val": names["val"][:-1]},
    ):
        for name, of in {**names, **changes}.items():
            (lists / f"{name}.txt").write_text("\n".join(of))
        found.append(fingerprint(config))
    assert len({*found}) == len(found)


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("what", ["image", "mask", "labels"])
def test_all_that_is_drawn_counts_in_scenes(split: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The brushes may change while the seed does not."""
    draw, make, current = scenes._draw_random_scene, scenes._split, [""]

    def draw_otherwise(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
        image, mask, objects = draw(rng)
        if current[0] != split:
            return image, mask, objects
        corner = np.indices(mask.shape).sum(0) == 0
        return {
            "image": (image ^ 1, mask, objects),
            "mask": (image, np.where(corner, 255, mask).astype(np.uint8), objects),
            "labels": (image, mask, objects[:1]),
        }[what]

    def make_split(name: str, size: int, seed: int) -> Any:
        current[0] = name
        return make(name, size, seed)

    scenes.draw.cache_clear()
    before = scenes.draw(9, 9, 9, 0).fingerprint
    monkeypatch.setattr(scenes, "_draw_random_scene", draw_otherwise)
    monkeypatch.setattr(scenes, "_split", make_split)
    scenes.draw.cache_clear()
    after = scenes.draw(9, 9, 9, 0).fingerprint
    scenes.draw.cache_clear()
    assert after != before


def test_a_file_is_read_again_until_it_is_certain_that_it_will_not_change_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the file system's clock a file can change and look the same."""
    file = tmp_path / "image.png"
    file.write_bytes(b"one")
    monkeypatch.setattr(digests, "_stamp", lambda path: "the same")
    first = digests.file_digests([file])[file]
    file.write_bytes(b"two")
    assert digests.file_digests([file])[file] != first


def test_parts_of_what_counts_cannot_be_taken_for_each_other() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert make_key(a="1") != make_key(a=1) and make_key(a=[1, 2]) != make_key(a=[2, 1])
    assert len({make_key(seed=seed) for seed in range(1000)}) == 1000


def test_a_result_is_stale_when_one_of_its_inputs_is() -> None:
    """Every stage names the keys of all that it is made from."""
    for selection in ("holdout", "proxy", "oracle"):
        for start in ("classify", "match"):
            config = parse({**SMALL, "selection": selection, "refine": {"start": start}}, "small")
            parts, judge = key_parts(config, "data"), ["prompts"] if selection == "proxy" else []
            inputs = {
                "classify": [],
                "match": ["classify"],
                "prompts": ["match"],
                "refine": [start, "prompts"],
                "heatmaps": ["refine"],
                "masks": ["heatmaps", *judge],
                "measured_heatmaps": ["refine", "judged=heatmaps"],
                "measured_masks": ["heatmaps=measured_heatmaps", *judge, "judged=masks"],
                "rest_heatmaps": ["refine"],
                "rest_masks": ["heatmaps=rest_heatmaps", *judge],
                "segment": ["measured_masks", "rest_masks", *judge],
            }
            if selection == "oracle":
                del inputs["measured_heatmaps"], inputs["measured_masks"]
                inputs["segment"] = ["masks", "rest_masks"]
            keys = {name: make_key(**part) for name, part in parts.items()}
            assert {name: part["inputs"] for name, part in parts.items()} == {
                name: {of.split("=")[0]: keys[of.split("=")[-1]] for of in names} for name, names in inputs.items()
            }


WEAKTR = {"kind": "weaktr"}


def content(generator: dict[str, Any]) -> str:
    parts = key_parts(parse({"generator": generator}, "test"), "data")
    return str(parts["classify"]["files"]["generator"])


def test_the_content_of_a_generators_weights_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, official = tmp_path / "packaged.safetensors", tmp_path / "official.pth"
    monkeypatch.setattr("semples.pretrained.SCENES_VIT_WEIGHTS", packaged)
    found: dict[str, list[str]] = {"packaged": [], "official": [], "none": []}
    for of_package, of_official in (("a", "b"), ("c", "b"), ("a", "d")):
        packaged.write_text(of_package)
        official.write_text(of_official)
        found["packaged"].append(content(WEAKTR))
        found["official"].append(content({**WEAKTR, "weights": str(official)}))
        found["none"].append(content({**WEAKTR, "pretrained": False}))
    assert found["packaged"][0] == found["packaged"][2] != found["packaged"][1]
    assert found["official"][0] == found["official"][1] != found["official"][2]
    assert found["none"] == [""] * 3


def test_weights_in_a_home_count_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "official.pth").write_text("a")
    before = content({**WEAKTR, "weights": "~/official.pth"})
    (tmp_path / "official.pth").write_text("b")
    assert before and content({**WEAKTR, "weights": "~/official.pth"}) != before


def test_the_content_of_the_weights_makes_what_used_them_stale(tmp_path: Path) -> None:
    """Not the data, nor what the stages before took; clip.pretrained has such a test in test_pipeline.py."""
    official = tmp_path / "official.pth"
    config = parse({**SMALL, "generator": {**WEAKTR, "weights": str(official)}}, "small")
    official.write_text("a")
    before = stage_keys(config, "data")
    official.write_text("b")
    assert not {*before.values()} & {*stage_keys(config, "data").values()}


def test_the_order_and_form_of_values_make_nothing_stale() -> None:
    tree = to_dict(parse({**SMALL, "heatmaps": {"scales": [1.0, 2.0]}, "match": {"lr": 0.003}}, "small"))
    turned = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in tree.items()}
    turned["heatmaps"]["scales"] = (1, 2)
    turned["match"]["lr"] = float("3e-3")
    turned["generator"]["args"] = dict(reversed(tree["generator"]["args"].items()))
    one, two = (stage_keys(parse(dict(t), "test"), "data") for t in (tree, dict(reversed(turned.items()))))
    assert one == two


def test_why_two_results_differ_is_told_by_the_parts_that_do() -> None:
    config = parse(SMALL, "small")
    other = with_changes(config, {"match.lambda_b": 2.0, "seed": 3}, "test")
    parts = [key_parts(c, "data") for c in (config, other)]
    known = {make_key(**part): part for of in parts for part in of.values()}
    assert differences(parts[0]["prompts"], parts[1]["prompts"], known) == ["seed: 0, 3", "match.lambda_b: 1.0, 2.0"]
    assert differences(parts[0]["match"], parts[0]["match"], known) == []


def test_a_run_sees_what_was_changed_since_the_last_one_in_its_process(
    written: Written, tmp_path: Path, run_in: Callable[..., Result]
) -> None:
    """As in a notebook. What was stored for other data stays valid for them."""
    data = written(write_folder, tmp_path / "data")
    config = parse({**SMALL, "data": data.model_dump(mode="json")}, "test")
    first = run_in(config, until="classify")
    assert run_in(config, until="classify").reused == ("classify",)
    path = min(image_files(tmp_path / "data"))
    before = path.read_bytes()
    Image.fromarray(255 - np.array(Image.open(path))).save(path)
    changed = run_in(config, until="classify")
    assert changed.reused == () and changed.data.fingerprint != first.data.fingerprint
    path.write_bytes(before)
    assert run_in(config, until="classify").folders == first.folders


def test_clip_is_loaded_again_where_its_weights_have_changed(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    weights = load_file(MINIATURE_WEIGHTS)
    save_file(weights, path)
    config = ClipConfig(pretrained=str(path))
    first = load_clip(config)
    assert load_clip(config) is first
    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    save_file({**weights, name: weights[name].flip(0).contiguous()}, path)
    assert not torch.allclose(load_clip(config).embed_labels(["boat"]), first.embed_labels(["boat"]), atol=1e-3)
