"""Every key of the configuration counts exactly where it is read, and does something there.

Counts: another value changes the store key of the stages that read it and of those after them, and of no other; else a
result would be taken for one that it is not, or computed again for nothing. Does something: another value changes what
its stage writes or measures; else a sweep over it measures nothing. A new key must be added to the tables below.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from itertools import count
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from conftest import SMALL
from trees import COCO_NUMBERS, image_files, write_coco_official, write_folder, write_voc_with_xml

from semples import generator_kinds, generators, registry
from semples.config import UNIONS, Config, DataConfig, OtherGenerator, RuntimeConfig, keys, parse, with_changes
from semples.data import load_data, scenes
from semples.digests import file_digest
from semples.errors import UserError
from semples.generators.cnn import Cnn
from semples.generators.weaktr import OFFICIAL_NAMES, WeakTr
from semples.pipeline.graph import STAGES, graph
from semples.pipeline.keys import stage_keys
from semples.pipeline.run import Result
from semples.pretrained import MINIATURE, MINIATURE_WEIGHTS, PRETRAINED
from semples.stages import segment
from semples.training import CHECKPOINT, prepare, resolve_device, seed_stream

QUICK = "scenes-quick"  # the miniature CLIP with another activation

# the graph of the README: what must be computed again after a stage; some stages are there for every set of images
SETS = {"heatmaps": "heatmaps measured_heatmaps rest_heatmaps", "masks": "masks measured_masks rest_masks"}
NETWORK = f"{SETS['masks']} segment"
CAMS = f"{SETS['heatmaps']} {NETWORK}"
AFTER = {
    "classify": f"match prompts refine {CAMS}",
    "match": f"prompts refine {CAMS}",
    "prompts": f"refine {CAMS}",
    "refine": CAMS,
    "heatmaps": CAMS,
    "masks": NETWORK,
    "segment": "",
}
TRAINED = "classify match prompts refine segment"
TRAINING = {"epochs": 2, "batch": 2, "lr": 1e-3, "weight_decay": 0.5, "warmup": 1}

# key -> another value and the stages that read it
READ: dict[str, tuple[Any, str]] = {
    "clip.model": (QUICK, "match prompts refine"),
    "clip.pretrained": ("", "match prompts refine"),
    "clip.normalise": ("clip", "match prompts refine"),
    "generator.backbone": ("resnet14t", "classify"),
    "generator.stride": (16, "classify"),
    "generator.out_indices": ([2, 3, 4], "classify"),
    "generator.args": ({"channels": [8, 8, 16, 8], "stem_width": 8}, "classify"),
    "augment.size": (48, "classify match prompts refine"),
    "augment.scale_min": (0.3, "classify match prompts refine"),
    "augment.randaugment": ("rand-m9-mstd0.5-inc1", "classify match refine"),
    "augment.erasing": (1.0, "classify match refine"),
    **{f"{stage}.{key}": (value, stage) for stage in TRAINED.split() for key, value in TRAINING.items()},
    "match.lambda_b": (2.4, "match refine"),
    "match.mask_eps": (0.5, "match refine"),
    "prompts.count": (2, "prompts"),
    "prompts.length": (9, "prompts"),
    "prompts.init": ("normal", "prompts"),
    "prompts.lambda_t": (0.5, "prompts"),
    "prompts.mask_eps": (0.1, "prompts"),
    "prompts.label_term": ("paper", "prompts"),
    "refine.lambda_r": (0.5, "refine"),
    "refine.start": ("match", "refine"),
    "heatmaps.scales": ([1.0, 1.5], "heatmaps"),
    "heatmaps.flip": (False, "heatmaps"),
    "masks.background": (0.3, "masks"),
    "masks.band": (0.2, "masks"),
    "masks.crf.iterations": (1, "masks"),
    "masks.crf.gt_prob": (0.9, "masks"),
    "masks.crf.gaussian_sxy": (8.0, "masks"),
    "masks.crf.gaussian_compat": (9.0, "masks"),
    "masks.crf.bilateral_sxy": (5.0, "masks"),
    "masks.crf.bilateral_srgb": (20.0, "masks"),
    "masks.crf.bilateral_compat": (9.0, "masks"),
    "segment.architecture": ("UnetPlusPlus", "segment"),
    "segment.encoder": ("tu-test_efficientnet", "segment"),
    "segment.args": ({"encoder_depth": 3, "decoder_channels": [32, 32, 16]}, "segment"),
    "segment.size": (64, "segment"),
    "segment.schedule": ("poly", "segment"),
    "segment.label_smoothing": (0.1, "segment"),
    "segment.train_on": ("ground_truth", "segment"),
    "segment.test.scales": ([1.0, 1.5], "segment"),
    "segment.test.flip": (False, "segment"),
    "segment.test.crf.iterations": (1, "segment"),
    "segment.test.crf.gaussian_sxy": (9.0, "segment"),
    "segment.test.crf.gaussian_compat": (9.0, "segment"),
    "segment.test.crf.bilateral_sxy": (5.0, "segment"),
    "segment.test.crf.bilateral_srgb": (20.0, "segment"),
    "segment.test.crf.bilateral_compat": (9.0, "segment"),
    "runtime.precision": ("bfloat16", "classify match prompts refine heatmaps segment"),
    "runtime.workers": (1, "classify"),  # and all others that take batches from the same function
}
# what it takes besides the key itself
WITH = {
    "clip.model": {"clip.pretrained": str(MINIATURE_WEIGHTS)},
}
# keys whose effect has a test of its own, and the stage that reads them first; "" = what every stage depends on
OWN_TEST: dict[str, tuple[Any, str]] = {
    "seed": (1, ""),  # test_seeds.py
    "selection": ("oracle", ""),  # test_choosing.py
    "generator.kind": ("weaktr", "classify"),
    "generator.pretrained": (True, "classify"),
    "segment.pretrained": (True, "segment"),
    "segment.test.crf.gt_prob": (0.9, "segment"),  # does nothing, as its docstring says
    "runtime.device": ("cuda", ""),
    "runtime.threads": (2, ""),
}

# the same of other generators, by the names in their section
WEAKTR: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "pretrained": False,
    "weights": "official.pth",
    "pool": "mean",
    "reduction": 2,
    "args": {"depth": 2},
}
OTHER: dict[str, Any] = {"args": {"width": 8}}

# key of data -> another value, by kind
SCENES: dict[str, Any] = {"train": 9, "holdout": 5, "test": 5, "seed": 7}
VOC: dict[str, Any] = {
    "root": "other",
    "classes": [*reversed(scenes.CLASSES)],
    "ignore": [],
    "train_list": "fewer",
    "mask_list": "fewer",
    "test_list": "few_test",
    "holdout": 9,
    "seed": 1,
}
COCO: dict[str, Any] = {
    "root": "other",
    "classes": [*scenes.CLASSES[:-1], "flask"],
    "ignore": [],
    "holdout": 9,
    "test": 5,
    "measured": 20,
    "seed": 1,
}
FOLDER: dict[str, Any] = {"root": "other", "ignore": [], "holdout": 9, "test": 9, "seed": 1}
DATA_KEYS = {"scenes": SCENES, "voc": VOC, "coco": COCO, "folder": FOLDER}


def plain(key: str) -> str:
    """args are a key, whatever is in them."""
    return key.partition(".args.")[0] + (".args" if ".args." in key else "")


@pytest.fixture(scope="module", autouse=True)
def quick_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("clip") / f"{QUICK}.json"
    file.write_text(json.dumps({**json.loads((PRETRAINED / f"{MINIATURE}.json").read_text()), "quick_gelu": True}))
    open_clip.add_model_config(file)


Outcome = tuple[dict[str, str], dict[str, str]]


@pytest.fixture(scope="module")
def outcome(small_run: Result, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Config], Outcome]:
    """What a stage writes and measures under a configuration, from the inputs of the small run."""
    data, number, known = load_data(small_run.config.data), count(), {}

    def of(stage: str, config: Config) -> Outcome:
        if (stage, config.model_dump_json()) not in known:
            out = tmp_path_factory.mktemp(f"{stage}{next(number)}")
            seed_stream(config.seed, STAGES[stage].stream or stage)
            metrics = STAGES[stage].load()(config, data, small_run.folders, out, lambda *_, **__: None)
            files = {path.name: file_digest(path) for path in out.iterdir() if path.name != CHECKPOINT}
            known[stage, config.model_dump_json()] = files, {name: str(value) for name, value in metrics.items()}
        return known[stage, config.model_dump_json()]

    return of


def test_every_key_is_in_the_tables() -> None:
    there = {plain(key) for key in keys(Config()) if not key.startswith("data.")} - {"stages"}  # test_other_package.py
    assert not {*READ} & {*OWN_TEST} and {*READ, *OWN_TEST} == there
    for kind, table in (("weaktr", WEAKTR), ("other", OTHER)):
        assert {*table} == {*UNIONS["generator"][kind].model_fields} - {"kind"}
    for kind, table in DATA_KEYS.items():
        assert {*table} == {*UNIONS["data"][kind].model_fields} - {"kind"}
    assert {*DATA_KEYS} == {*UNIONS["data"]} - {"other"}  # test_other_package.py


@pytest.mark.parametrize("key", [*READ, *OWN_TEST])
def test_a_key_changes_the_store_keys_from_the_stage_on_that_reads_it(key: str) -> None:
    value, stages = {**READ, **OWN_TEST}[key]
    first = "" if key.startswith("runtime.") else stages.partition(" ")[0]
    expected = {first, *AFTER[first].split()} if first else {*graph(Config())}
    config = parse(SMALL, "small")
    before, after = (stage_keys(c, "data") for c in (config, with_changes(config, {key: value}, "test")))
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == expected


@pytest.mark.parametrize("key", [f"weaktr.{key}" for key in WEAKTR] + [f"other.{key}" for key in OTHER])
def test_so_do_the_keys_of_other_generators(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, _, name = key.partition(".")
    packages = EntryPoints([EntryPoint("other", f"{__name__}:narrow", generator_kinds.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda **_: packages)
    config = with_changes(Config(), {"generator.kind": kind}, "test")
    changed = with_changes(config, {f"generator.{name}": (WEAKTR if kind == "weaktr" else OTHER)[name]}, "test")
    assert not {*stage_keys(config, "data").values()} & {*stage_keys(changed, "data").values()}


@pytest.mark.parametrize(
    ("key", "stage"), [(key, stage) for key, (_, stages) in READ.items() for stage in stages.split()]
)
def test_a_key_changes_what_its_stage_makes(
    key: str, stage: str, small_run: Result, outcome: Callable[[str, Config], Outcome]
) -> None:
    base = with_changes(small_run.config, WITH.get(key, {}), "test")
    assert outcome(stage, base) != outcome(stage, with_changes(base, {key: READ[key][0]}, "test"))


def test_the_trust_in_labels_means_nothing_where_there_are_probabilities(
    small_run: Result, outcome: Callable[[str, Config], Outcome]
) -> None:
    changed = with_changes(small_run.config, {"segment.test.crf.gt_prob": 0.9}, "test")
    assert outcome("segment", changed) == outcome("segment", small_run.config)


def built(config: Config) -> torch.Tensor:
    """CAMs of the generator with which classify begins."""
    torch.manual_seed(0)
    generator = generators.build(config.generator, 8, initial=True).eval()
    with torch.no_grad():
        cams: torch.Tensor = generator(torch.randn(1, 3, 64, 64))
    return cams


@pytest.mark.parametrize("key", WEAKTR)
def test_the_keys_of_weaktr_change_its_maps(key: str, tmp_path: Path) -> None:
    weights = key in ("pretrained", "weights", "pool")  # whose shapes nothing but these fits
    base = with_changes(Config(), {"generator.kind": "weaktr", "generator.pretrained": weights}, "test")
    value = WEAKTR[key]
    if key == "weights":
        value = str(tmp_path / "official.pth")
        theirs = {new: old for old, new in OFFICIAL_NAMES.items()}
        state = generators.build(base.generator, 8).state_dict()
        prefixes = {name: next(new for new in theirs if name.startswith(new)) for name in state}
        torch.save({theirs[p] + name.removeprefix(p): state[name] for name, p in prefixes.items()}, value)
    changed = built(with_changes(base, {f"generator.{key}": value}, "test"))
    assert not torch.equal(built(base), changed)


def narrow(config: OtherGenerator, classes: int, initial: bool) -> torch.nn.Module:
    return torch.nn.Conv2d(3, config.args["width"], 1)


def test_the_kind_says_which_generator_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = EntryPoints([EntryPoint("mine", f"{__name__}:narrow", generator_kinds.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda **_: packages)
    kinds = [with_changes(Config(), {"generator.kind": kind}, "test").generator for kind in ("cnn", "weaktr")]
    assert [type(generators.build(config, 8)) for config in kinds] == [Cnn, WeakTr]
    mine = with_changes(Config(), {"generator.kind": "mine", "generator.args": {"width": 5}}, "test")
    assert generators.build(mine.generator, 8).out_channels == 5


@pytest.mark.parametrize("pretrained", [False, True])
def test_downloaded_weights_are_what_training_begins_with_where_they_are_asked_for(
    pretrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def body(name: str, pretrained: bool = False, **args: Any) -> Any:
        asked.append(pretrained)
        return create_backbone(name, **args)

    def network(*names: str, encoder_weights: str | None, **args: Any) -> Any:
        asked.append(encoder_weights is not None)
        return torch.nn.Identity()

    create_backbone = timm.create_model
    monkeypatch.setattr("semples.generators.backbone.timm.create_model", body)
    monkeypatch.setattr(segment.smp, "create_model", network)
    changes = {"generator.pretrained": pretrained, "segment.pretrained": pretrained}
    config = with_changes(Config(), changes, "test")
    for initial in (True, False):
        generators.build(config.generator, 8, initial)
        segment.build_network(config.segment, 8, initial)
    assert asked == [pretrained, pretrained, False, False]


def test_threads_and_device_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    for threads in (2, 1):
        prepare(RuntimeConfig(device="cpu", threads=threads))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for there, auto in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device(RuntimeConfig()).device == auto
        assert resolve_device(RuntimeConfig(device="cpu")).device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        resolve_device(RuntimeConfig(device="cuda"))


def write_coco_without_test_set(root: Path) -> DataConfig:
    config = write_coco_official(root)
    (root / "train2014").rename(root / "images")
    content = json.loads((root / "annotations" / "instances_train2014.json").read_text())
    content["categories"] = [{"id": n, "name": c} for n, c in zip(COCO_NUMBERS, scenes.CLASSES, strict=True)]
    content["categories"].append({"id": 99, "name": "stranger"})
    content["annotations"].append({**content["annotations"][0], "category_id": 99})
    for file in (root / "annotations").iterdir():
        file.unlink()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(content))
    return config.model_copy(update={"test": 4})


def write_folder_without_test_set(root: Path) -> DataConfig:
    config = write_folder(root)
    lines = [line.rpartition(",")[0] for line in (root / "labels.csv").read_text().split()]
    (root / "labels.csv").write_text("\n".join([*lines[:-1], f"{lines[-1]};stranger"]))
    return config.model_copy(update={"test": 4})


def write_voc_with_lists(root: Path) -> DataConfig:
    config = write_voc_with_xml(root)
    lists = root / "ImageSets" / "Segmentation"
    for name, of, number in (("fewer", "train", 30), ("few_test", "val", 5)):
        (lists / f"{name}.txt").write_text("\n".join((lists / f"{of}.txt").read_text().split()[:number]))
    stranger = next((root / "Annotations").glob("train*"))
    stranger.write_text(stranger.read_text().replace("<object>", "<object><name>stranger</name></object><object>", 1))
    return config


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Config, str]]:
    """By kind, data whose every key could have another value, and the root of others of the same names."""
    found = {"scenes": (parse(SMALL, "small"), "")}
    for write in (write_voc_with_lists, write_coco_without_test_set, write_folder_without_test_set):
        root, other = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("other")
        config = write(root)
        write(other)
        one, two = sorted(image_files(other))[:2]
        one.write_bytes(two.read_bytes())
        found[config.kind] = Config(data=config.model_copy(update={"ignore": ("stranger",)})), str(other)
    return found


@pytest.mark.parametrize("key", [f"{kind}.{key}" for kind, table in DATA_KEYS.items() for key in table])
def test_a_key_of_the_data_changes_what_is_found(key: str, trees: dict[str, tuple[Config, str]]) -> None:
    kind, _, name = key.partition(".")
    config, other = trees[kind]
    changed = with_changes(config, {f"data.{name}": other if name == "root" else DATA_KEYS[kind][name]}, "test")
    before = load_data(config.data).fingerprint
    if name == "ignore":  # what is to be ignored is no class, and else an error
        with pytest.raises(UserError, match="stranger"):
            load_data(changed.data)
    else:
        assert load_data(changed.data).fingerprint != before
