from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MADE
from PIL import Image

from semples import ablation, generators
from semples.clip import loaded
from semples.config import Config, load, with_changes
from semples.crf import smooth_labels, smooth_probabilities
from semples.data import load_data, png_archive
from semples.errors import UserError
from semples.manifest import read_manifest
from semples.output import write_masks, write_run, write_weights
from semples.pipeline.graph import STAGES
from semples.pipeline.keys import stage_keys
from semples.pipeline.run import Event, Result, run
from semples.run_folder import headline, read_run
from semples.stages import heatmaps, segment
from semples.stages.masks import label_pixels, make_mask
from semples.store import WORK, Store
from semples.training import CHECKPOINT

Runner = Callable[..., Result]


def test_a_run_from_labels_to_network(tiny: Config, run_in: Runner, tmp_path: Path) -> None:
    events: list[Event] = []
    result = run_in(tiny, events=events)
    assert list(result.folders) == list(MADE)
    for metric in ("pseudo_miou", "seg_miou", "holdout/pseudo_miou", "holdout/seg_miou", "match/holdout/cam_miou"):
        assert 0 <= result.metrics[metric] <= 100
    assert [e.stage for e in events if e.metrics is not None] == list(MADE)
    assert all("loss" in e.curves[0] for e in events if e.metrics is not None and e.stage in ("match", "segment"))

    out = tmp_path / "run"
    write_masks([result.folders["measured_masks"]], out)
    write_weights(result.folders, out)
    write_run(result, out)
    data = load_data(tiny.data)
    assert {p.stem for p in (out / "masks").iterdir()} == set(data.train.names)
    first = np.asarray(Image.open(out / "masks" / f"{data.train.names[0]}.png"))
    assert set(np.unique(first)) <= {0, *(1 + np.flatnonzero(data.train.labels[0]))}
    assert Image.open(out / "gallery.png").size[0] > 400
    config, stored = read_run(out)
    assert stored["metrics"] == result.metrics and stored["selection"] == "holdout"
    network = segment.load_network(config.segment, data.num_classes, out)
    assert segment.predict(network, np.zeros((50, 75, 3), np.uint8), config.runtime).shape == (50, 75)
    assert load(out / "config.yaml") == result.config


def test_equal_bits_with_the_store_cold_or_partly_warm(small: Config, run_in: Runner) -> None:
    cold = run_in(small, "a")
    run_in(with_changes(small, {"masks.background": 0.7}, "test"), "b")
    events: list[Event] = []
    warm = run_in(small, "b", events)
    assert set(warm.reused) == {"classify", "match", "prompts", "refine", "heatmaps", "measured_heatmaps"}
    assert warm.metrics == cold.metrics
    for stage in MADE:
        assert read_manifest(warm.folders[stage])["files"] == read_manifest(cold.folders[stage])["files"]
    again = run_in(small, "b", events)
    assert again.metrics == cold.metrics and set(again.reused) == set(MADE)


def test_equal_bits_whatever_the_process_did_before(small: Config, run_in: Runner) -> None:
    """CLIP is loaded once a process: the stage that loads it must draw the same numbers as one that finds it loaded."""
    loaded.cache_clear()
    loads = run_in(small, "a")
    finds = run_in(small, "b")
    loaded.cache_clear()
    run_in(with_changes(small, {"prompts.lambda_t": 0.3}, "test"), "c")
    loaded.cache_clear()
    reuses_match = run_in(small, "c")
    assert reuses_match.reused == ("classify", "match")
    for stage in MADE:
        files = [read_manifest(r.folders[stage])["files"] for r in (loads, finds, reuses_match)]
        assert files[0] == files[1] == files[2], stage


def test_keys_change_with_the_content_of_clip_weights(tiny: Config, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    config = with_changes(tiny, {"clip.pretrained": str(path)}, "test")
    path.write_bytes(b"one")
    before = stage_keys(config, "f")
    path.write_bytes(b"two")
    after = stage_keys(config, "f")
    assert [s for s in MADE if before[s] == after[s]] == ["classify"]


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({"masks.background": 0.3}, ["classify", "match", "prompts", "refine", "heatmaps", "measured_heatmaps"]),
        ({"prompts.lambda_t": 0.5}, ["classify", "match"]),
        ({"match.lambda_b": 2.4}, ["classify"]),
        ({"refine.lambda_r": 2.0}, ["classify", "match", "prompts"]),
        ({"segment.epochs": 9}, list(MADE[:-1])),
        ({"seed": 1}, []),
        ({"runtime.threads": 2}, []),
        ({"generator.args": {"stem_width": 8}}, []),
    ],
)
def test_a_stage_key_changes_with_what_the_stage_reads(
    tiny: Config, change: dict[str, object], stays: list[str]
) -> None:
    before, after = stage_keys(tiny, "f"), stage_keys(with_changes(tiny, change, "test"), "f")
    assert [s for s in MADE if before[s] == after[s]] == stays


def test_keys_change_with_the_data(tiny: Config) -> None:
    assert not set(stage_keys(tiny, "f").values()) & set(stage_keys(tiny, "g").values())


def test_refine_can_start_from_match(tiny: Config) -> None:
    config = with_changes(tiny, {"refine.start": "match", "match.lr": 1e-3}, "test")
    assert STAGES["refine"].inputs(config) == ("match", "prompts")
    assert STAGES["refine"].inputs(tiny) == ("classify", "prompts")


def test_a_diverging_loss_is_said_and_not_stored(tiny: Config, run_in: Runner) -> None:
    with pytest.raises(UserError, match=r"classify: the loss is not finite in epoch 2; lower classify\.lr"):
        run_in(with_changes(tiny, {"classify.lr": 1e30, "classify.epochs": 3}, "test"))


def test_an_unknown_network_is_named(tiny: Config, run_in: Runner) -> None:
    with pytest.raises(UserError, match=r"generator\.backbone 'resnet999'"):
        run_in(with_changes(tiny, {"generator.backbone": "resnet999"}, "test"))
    with pytest.raises(UserError, match=r"segment\.architecture 'Nonet'"):
        segment.build_network(with_changes(tiny, {"segment.architecture": "Nonet"}, "test").segment, 8)


def test_oracle_chooses_on_what_it_reports(tiny: Config, run_in: Runner) -> None:
    oracle = run_in(with_changes(tiny, {"selection": "oracle"}, "test"))
    assert json.loads(json.dumps(oracle.to_dict()))["selection"] == "oracle"
    holdout = run_in(tiny)
    assert oracle.metrics["heatmaps/cam_miou"] >= holdout.metrics["heatmaps/cam_miou"]


def test_heatmaps_do_not_depend_on_how_many_are_computed_at_a_time(
    tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_changes(tiny, {"runtime.device": "cpu"}, "test")
    split = load_data(config.data).train
    generator = generators.build(config.generator, 8).eval()
    many = {i: maps for i, maps, _ in heatmaps.compute_heatmaps(generator, split, range(24), config, (1.0, 1.5), True)}
    monkeypatch.setattr(heatmaps, "PIXELS", 1)
    for i, maps, present in heatmaps.compute_heatmaps(generator, split, range(24), config, (1.0, 1.5), True):
        assert maps.shape == (len(present), *split.image(i).shape[:2])
        assert np.abs(maps.astype(int) - many[i]).max() <= 1


def test_label_pixels_by_hand() -> None:
    heatmaps = np.array([[[0, 200, 128]], [[255, 100, 127]]], np.uint8)
    assert label_pixels(heatmaps, 0.5).tolist() == [[2, 1, 1]]
    assert label_pixels(heatmaps, 0.6).tolist() == [[2, 1, 0]]


def test_the_band_ignores_where_its_two_ends_differ(tiny: Config) -> None:
    heatmaps = np.array([[[20, 120, 140, 200, 110]], [[10, 130, 20, 30, 5]]], np.uint8)
    settings = tiny.masks.model_copy(update={"crf": tiny.masks.crf.model_copy(update={"iterations": 0})})
    image, present = np.zeros((1, 5, 3), np.uint8), np.array([2, 6])
    assert make_mask(heatmaps, present, image, settings).tolist() == [[0, 7, 3, 3, 0]]
    banded = settings.model_copy(update={"band": 0.2})  # 0.4 and 0.6: 102 and 153
    assert make_mask(heatmaps, present, image, banded).tolist() == [[0, 255, 255, 3, 255]]


def test_the_crf_follows_the_edges_of_the_image(tiny: Config) -> None:
    truth = np.zeros((32, 32), np.int64)
    truth[8:24, 8:24] = 1
    image = np.where(truth[..., None] == 1, (220, 40, 40), (40, 40, 220)).astype(np.uint8)
    rough = np.zeros((32, 32), np.int64)
    rough[11:27, 6:22] = 1
    smoothed = smooth_labels(rough, image, 2, tiny.masks.crf)
    assert (smoothed != truth).sum() < 0.2 * (rough != truth).sum()
    off = tiny.masks.crf.model_copy(update={"iterations": 0})
    assert (smooth_labels(rough, image, 2, off) == rough).all()


def test_the_crf_of_probabilities_keeps_what_is_certain(tiny: Config) -> None:
    probabilities = np.full((3, 20, 30), 0.01, np.float32)
    probabilities[1, :, :15] = probabilities[2, :, 15:] = 0.98
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    expected = np.broadcast_to(np.where(np.arange(30) < 15, 1, 2), (20, 30))
    for settings in (tiny.masks.crf, tiny.segment.test.crf):
        assert (smooth_probabilities(probabilities, image, settings) == expected).all()


def test_refine_without_its_loss_repeats_match(small: Config, run_in: Runner) -> None:
    result = run_in(with_changes(small, {"refine.lambda_r": 0.0}, "test"), until="refine")
    files = [read_manifest(result.folders[stage])["files"] for stage in ("match", "refine")]
    assert files[0] == files[1]


def test_the_bound_needs_no_pseudo_masks_and_learns_from_true_ones(tiny: Config, run_in: Runner) -> None:
    truth = with_changes(tiny, {"segment.train_on": "ground_truth", "segment.epochs": 6}, "test")
    assert STAGES["segment"].inputs(truth) == ()
    result = run_in(truth)
    assert result.metrics["seg_miou"] > run_in(tiny).metrics["seg_miou"]
    assert "BOUND" in headline(result.metrics, result.config)


@pytest.mark.parametrize("architecture", ["DeepLabV3Plus", "Segformer", "UPerNet", "FPN"])
def test_networks_by_name(tiny: Config, architecture: str) -> None:
    changes = {"segment.architecture": architecture, "segment.encoder": "resnet18", "segment.args": {}}
    config = with_changes(tiny, {**changes, "runtime.device": "cpu"}, "test")
    settings, runtime = config.segment, config.runtime
    network = segment.build_network(settings, 8).eval()
    test = settings.test.model_copy(update={"scales": (0.75, 1.0), "flip": True})
    image = np.random.default_rng(0).integers(0, 255, (50, 75, 3)).astype(np.uint8)
    mask = segment.predict(network, image, runtime, test)
    assert mask.shape == (50, 75) and mask.dtype == np.uint8
    mirrored = segment.predict(network, np.ascontiguousarray(image[:, ::-1]), runtime, test)
    assert (mirrored[:, ::-1] == mask).mean() > 0.95  # with both views, left and right are alike


def test_poly_schedule_and_label_smoothing_train(tiny: Config, run_in: Runner) -> None:
    changes = {"segment.schedule": "poly", "segment.label_smoothing": 0.1, "segment.test.flip": True, "masks.band": 0.2}
    assert 0 <= run_in(with_changes(tiny, changes, "test")).metrics["seg_miou"] <= 100


def test_mixed_precision_runs_the_whole_method(tiny: Config, run_in: Runner) -> None:
    result = run_in(with_changes(tiny, {"runtime.precision": "bfloat16"}, "test"))
    assert 0 <= result.metrics["seg_miou"] <= 100


def test_loading_processes_run_the_whole_method(small: Config, run_in: Runner) -> None:
    config = with_changes(small, {"runtime.workers": 2, "augment.randaugment": "rand-m9-mstd0.5-inc1"}, "test")
    results = [run_in(config, "a"), run_in(config, "b")]
    assert results[0].metrics == results[1].metrics


def test_masks_are_the_same_however_many_processes_make_them(small: Config, run_in: Runner, tmp_path: Path) -> None:
    result = run_in(small, until="heatmaps")
    data = load_data(small.data)
    made = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        out.mkdir()
        config = with_changes(small, {"runtime.workers": workers}, "test")
        metrics = STAGES["masks"].load()(config, data, result.folders, out, lambda *a, **k: None)
        made.append(((out / png_archive.FILE).read_bytes(), metrics))
    assert made[0][0] == made[1][0] and repr(made[0][1]) == repr(made[1][1])  # IoU of what is nowhere is NaN


@pytest.mark.gpu
@pytest.mark.parametrize("generator", ["cnn", "weaktr"])
def test_a_gpu_in_bfloat16_gives_about_what_the_cpu_gives(generator: str, tmp_path: Path) -> None:
    changes = {"generator.kind": generator, "data.train": 960, "segment.epochs": 4}
    means = {}
    for device, precision in (("cpu", "float32"), ("cuda", "bfloat16")):
        runtime = {"runtime.device": device, "runtime.precision": precision, "runtime.threads": 8, "runtime.workers": 4}
        config = load(None, {**changes, **runtime})
        values = ablation.ablate(config, range(2), Store(tmp_path / device), lambda seed, event: None)
        means[device] = ablation.figures(values)
    for step in ("classify_cam", "match_cam", "refine_cam", "masks", "segment_true_masks"):
        assert abs(means["cpu"][step] - means["cuda"][step]) < 4, (step, means)


TRAINED = ("classify", "match", "prompts", "refine", "segment")


@pytest.fixture
def longer(small: Config) -> Config:
    """Three epochs a stage, images loaded by a process of their own."""
    return with_changes(small, {**{f"{stage}.epochs": 3 for stage in TRAINED}, "runtime.workers": 1}, "test")


def interrupt(stage: str, epoch: int, how: type[BaseException]) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if (event.stage, event.epoch) == (stage, epoch) and event.metrics is None:
            raise how

    return report


@pytest.mark.parametrize(("how", "damaged"), [(SystemExit, False), (KeyboardInterrupt, True)])
def test_interrupted_stages_go_on_to_the_same_bytes(
    longer: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: type[BaseException], damaged: bool
) -> None:
    """By Ctrl-C, or as Ray stops a trial where it reports."""
    steps, step = [], torch.optim.AdamW.step

    def count(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        steps.append(self)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", count)
    with Store(tmp_path / "calm") as store:
        calm = run(longer, store, lambda event: None)
    needed = len(steps)
    steps.clear()
    for stage in TRAINED:
        with Store(tmp_path / "broken") as store, pytest.raises(how):
            run(longer, store, interrupt(stage, 2, how))
        for checkpoint in (tmp_path / "broken" / WORK).glob(f"*/{CHECKPOINT}") if damaged else ():
            checkpoint.write_bytes(checkpoint.read_bytes()[:-999])
    events: list[Event] = []
    with Store(tmp_path / "broken") as store:
        broken = run(longer, store, events.append)
    # what was interrupted in its second epoch repeats that one; from a damaged checkpoint, the first as well
    assert len(steps) == needed + needed // 3 * (2 if damaged else 1)
    assert broken.metrics == calm.metrics
    for name, folder in calm.folders.items():
        one, other = read_manifest(folder), read_manifest(broken.folders[name])
        assert one["files"] == other["files"] and one["curves"] == other["curves"]
        assert CHECKPOINT not in one["files"]
