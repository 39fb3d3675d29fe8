"""What the networks learn is what they are asked afterwards: the same numbers for the same image in training and at
test, 255 is learned as nothing, a mask value is the same class everywhere, the epoch that is judged best is the one
that is kept, and probabilities, not scores, are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from one_colour import COLOUR, CONFIG, NORMAL, PLAIN, Listener, dataset, split_of
from test_network_training import train_by_a_course
from torch import Tensor, nn

from semples import generators, proxy
from semples.clip import load_clip
from semples.config import ClipConfig, with_changes
from semples.data import png_archive
from semples.data.dataset import IGNORE, Dataset, Split
from semples.images import normalise_pixels
from semples.metrics import areas, confusion, standard_error
from semples.stages import heatmaps, masks, segment
from semples.training import LabelledImages, label_batches, save_weights


def shown_to_the_classifier() -> Tensor:
    return LabelledImages(split_of(PLAIN), CONFIG.augment, False)[0][0]


def shown_to_the_prompts() -> Tensor:
    (batch, _) = next(iter(label_batches(CONFIG, dataset(split_of(PLAIN)), 1, only_crop_and_flip=True)))
    return batch[0]


def shown_to_the_network_in_training() -> Tensor:
    mask = np.zeros((64, 96), np.uint8)
    return segment.MaskedImages(split_of(PLAIN), lambda i: mask, [0], 64)[0][0]


def shown_to_the_network_at_test() -> Tensor:
    network = Listener(4)
    segment.predict(network, PLAIN, CONFIG.runtime)
    return network.shown[0][0]


def shown_to_the_generator_for_heatmaps() -> Tensor:
    generator = Listener(3)
    list(heatmaps.compute_heatmaps(generator, split_of(PLAIN), [0], CONFIG, (1.0,), False))
    return generator.shown[0][0]


SHOWN: list[Callable[[], Tensor]] = [
    shown_to_the_classifier, shown_to_the_prompts, shown_to_the_network_in_training, shown_to_the_network_at_test,
    shown_to_the_generator_for_heatmaps,
]  # fmt: skip


@pytest.mark.parametrize("shown", SHOWN, ids=lambda f: f.__name__)
def test_an_image_is_the_same_numbers_wherever_it_is_shown(shown: Callable[[], Tensor]) -> None:
    image = shown()
    assert image.shape[0] == 3 and min(image.shape[1:]) == 64 and image.dtype == torch.float32
    assert torch.allclose(image, NORMAL.view(3, 1, 1).expand_as(image), atol=1e-4)


def test_the_proxy_shows_clip_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Tensor] = []

    def embed(images: Tensor) -> Tensor:
        shown.append(images)
        return torch.ones(len(images), 2) / math.sqrt(2)

    clip = SimpleNamespace(
        embed_images=embed, embed_labels=lambda names: torch.ones(3, 2), embed_prompts=lambda p: torch.ones(3, 1, 2)
    )
    monkeypatch.setattr(proxy, "load_clip", lambda *a: clip)
    prompts = torch.ones(3, 1, 1, 2)
    proxy.agreement(CONFIG, dataset(split_of(PLAIN)), prompts, lambda i: np.ones((64, 96), np.uint8))
    assert torch.allclose(shown[0][0], NORMAL.view(3, 1, 1).expand(3, 64, 96), atol=1e-4) and not shown[1].any()


@pytest.mark.parametrize("normalise", ["imagenet", "clip"])
def test_clip_sees_the_numbers_of_its_own_training_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, normalise: Any
) -> None:
    clip = load_clip(ClipConfig(normalise=normalise))
    own = (clip.model.visual.image_mean, clip.model.visual.image_std)
    mean, std = own if normalise == "clip" else (segment.IMAGENET_MEAN, segment.IMAGENET_STD)
    assert own[0] != segment.IMAGENET_MEAN
    shown: list[Tensor] = []
    monkeypatch.setattr(clip.model, "encode_image", lambda images: shown.append(images) or torch.ones(1, 8))
    clip.embed_images(normalise_pixels(torch.from_numpy(PLAIN).permute(2, 0, 1)[None]))
    expected = [(c / 255 - m) / s for c, m, s in zip(COLOUR, mean, std, strict=True)]
    assert shown[0].shape == (1, 3, *clip.image_size)
    assert torch.allclose(shown[0], torch.tensor(expected).view(1, 3, 1, 1).expand_as(shown[0]), atol=1e-4)


def test_at_one_scale_the_network_sees_every_pixel_and_no_others() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    network = Listener(4)
    segment.predict(network, image, CONFIG.runtime, with_flip(True))
    plain, mirrored = (x[0] for x in network.shown)
    back = plain * torch.tensor(segment.IMAGENET_STD).view(3, 1, 1) + torch.tensor(segment.IMAGENET_MEAN).view(3, 1, 1)
    assert plain.shape == (3, 64, 96)
    assert (255 * back[:, :50, :70]).permute(1, 2, 0).numpy() == pytest.approx(image, abs=1e-3)
    assert not plain[:, 50:].any() and not plain[:, :, 70:].any()  # the mean colour
    assert torch.equal(mirrored[:, :50, :70], plain[:, :50, :70].flip(2)) and not mirrored[:, :, 70:].any()


def with_flip(flip: bool, **changes: Any) -> Any:
    more = {f"segment.test.{key}": value for key, value in changes.items()}
    return with_changes(CONFIG, {"segment.test.flip": flip, **more}, "test").segment.test


def test_values_of_masks_are_untouched_by_crops() -> None:
    """0..K and 255, no mixture of them."""
    mask = np.random.default_rng(0).choice([0, 3, IGNORE], (70, 50)).astype(np.uint8)
    items = segment.MaskedImages(split_of(np.zeros((70, 50, 3), np.uint8)), lambda i: mask, [0], 64)
    torch.manual_seed(0)
    for _ in range(5):
        target = items[0][1]
        assert target.dtype == torch.int64 and {*target.unique().tolist()} == {0, 3, IGNORE}


def test_images_are_trained_with_their_own_masks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    items = train_by_a_course(monkeypatch, tmp_path, [10]).loader.dataset
    assert [int(items[i][1].unique()) for i in range(len(items))] == [0, 1, 2, 3]
    few = segment.MaskedImages(items.split, items.masks, [3, 1], 64)
    assert [int(few[i][1].unique()) for i in range(2)] == [3, 1]


def measured(train: Split) -> Dataset:
    return dataset(train).treating("measured")


def pseudo_masks(folder: Path) -> dict[str, Path]:
    """By the stages that the network reads: those of the training images are of class 1."""
    found = {}
    for stage, names, value in (("masks", "h0 h1", 2), ("measured_masks", "t1 t3", 1), ("rest_masks", "t0 t2", 1)):
        of = [(name, png_archive.encode_mask(np.full((64, 96), value, np.uint8))) for name in names.split()]
        found[stage] = folder / stage
        found[stage].mkdir()
        png_archive.write(found[stage] / png_archive.FILE, of)
    return found


@pytest.mark.parametrize(("train_on", "values"), [("pseudo", [1, 1, 1, 1]), ("ground_truth", [3, 3])])
def test_the_network_learns_pseudo_masks_of_the_training_images_or_the_truth_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train_on: str, values: list[int]
) -> None:
    three = np.full((64, 96), 3, np.uint8)
    train = split_of(PLAIN, PLAIN, PLAIN, PLAIN, truth=(None, three, None, three), name="t")
    seen: dict[str, Any] = {}

    def train_it(of: Any, indices: Any, *rest: Any) -> Any:
        seen["values"] = [{*np.unique(of(i)).tolist()} for i in indices]
        return {"weight": torch.ones(2)}, {"seg_miou": 1.0}

    monkeypatch.setattr(segment, "train_on", train_it)
    config = with_changes(CONFIG, {"segment.train_on": train_on}, "test")
    inputs = pseudo_masks(tmp_path)
    assert segment.run(config, dataset(train), inputs, tmp_path, print) == {"seg_miou": 1.0}
    assert seen["values"] == [{v} for v in values] and (tmp_path / segment.WEIGHTS).is_file()


def test_the_value_of_a_class_is_its_place_in_the_names_and_1(tmp_path: Path) -> None:
    """From the CAM of a class to the metric that has its name."""
    rng = np.random.default_rng(0)
    truth = tuple(rng.choice([0, 1, 3], (8, 9)).astype(np.uint8) for _ in range(2))
    labels, image = np.array([[True, False, True]] * 2), np.zeros((8, 9, 3), np.uint8)
    train = Split(("x", "y"), labels, lambda i: image, truth.__getitem__, (0, 1))
    (tmp_path / "heatmaps").mkdir()
    # where the truth is c the background has it, every other pixel is right
    maps = [np.concatenate([200 * (t == 1), 0 * t]).astype(np.uint8) for t in truth]
    named = zip(("x", "y"), map(png_archive.encode_mask, maps), strict=True)
    png_archive.write(tmp_path / "heatmaps" / png_archive.FILE, named)
    metrics = masks.run(CONFIG, measured(train), {"heatmaps": tmp_path / "heatmaps"}, tmp_path, lambda *a, **k: None)
    counts = [sum(int((t == k).sum()) for t in truth) for k in (0, 1, 3)]
    ground = 100 * counts[0] / (counts[0] + counts[2])
    assert metrics["pseudo_iou/a"] == pytest.approx(100) and metrics["pseudo_iou/c"] == 0
    assert math.isnan(metrics["pseudo_iou/b"]) and metrics["pseudo_iou/background"] == pytest.approx(ground)
    assert metrics["pseudo_miou"] == pytest.approx((ground + 100 + 0) / 3)
    of_images = [areas(confusion(t, (t == 1).astype(np.uint8), 3)) for t in truth]
    assert metrics["pseudo_miou_se"] == pytest.approx(standard_error(of_images)) and metrics["pseudo_miou_se"] > 0
    assert {*np.unique(png_archive.Reader(tmp_path / png_archive.FILE).read("x")).tolist()} == {0, 1}


def test_figures_of_a_class_on_the_holdout_are_of_the_holdout(tmp_path: Path) -> None:
    """Of its images and its masks: a sweep may be for them."""
    image, maps = np.zeros((1, 4, 3), np.uint8), np.array([[255, 255, 0, 0]], np.uint8)
    seen, held = (
        Split(
            ("x",), np.array([[True, False, False]]), lambda i: image, lambda i, t=truth: np.array([t], np.uint8), (0,)
        )
        for truth in ([1, 1, 0, 0], [1, 0, 0, 0])
    )
    (tmp_path / "heatmaps").mkdir()
    png_archive.write(tmp_path / "heatmaps" / png_archive.FILE, [("x", png_archive.encode_mask(maps))])
    metrics: dict[str, float] = {}
    for images in ("holdout", "measured"):
        data = replace(dataset(seen), holdout=held, treated=images)
        metrics |= masks.run(CONFIG, data, {"heatmaps": tmp_path / "heatmaps"}, tmp_path, lambda *a, **k: None)
    assert metrics["pseudo_iou/a"] == 100 and metrics["holdout/pseudo_iou/a"] == 50
    assert metrics["holdout/pseudo_iou/background"] == pytest.approx(200 / 3)


def test_pixels_that_a_pseudo_mask_leaves_open_count_as_background(tmp_path: Path) -> None:
    truth, image = np.array([[0, 0, 1, 1, 1, 255]], np.uint8), np.zeros((1, 6, 3), np.uint8)
    maps = np.array([[0, 128, 255, 255, 128, 255]], np.uint8)
    train = Split(("x",), np.array([[True, False, False]]), lambda i: image, lambda i: truth, (0,))
    (tmp_path / "heatmaps").mkdir()
    png_archive.write(tmp_path / "heatmaps" / png_archive.FILE, [("x", png_archive.encode_mask(maps))])
    config = with_changes(CONFIG, {"masks.band": 0.2}, "test")
    metrics = masks.run(config, measured(train), {"heatmaps": tmp_path / "heatmaps"}, tmp_path, lambda *a, **k: None)
    assert png_archive.Reader(tmp_path / png_archive.FILE).read("x").tolist() == [[0, 255, 1, 1, 255, 1]]
    assert metrics["pseudo_iou/background"] == pytest.approx(200 / 3)
    assert metrics["pseudo_iou/a"] == pytest.approx(200 / 3)


def test_a_network_has_one_more_output_than_classes_and_predicts_none_beyond() -> None:
    network = Listener(4)
    with torch.no_grad():
        network.weight[:] = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 16:32, 0] = image[:, 32:48, 1] = image[:, 48:, 2] = 255
    mask = segment.predict(network, image, CONFIG.runtime)
    assert mask[5, [4, 20, 40, 60]].tolist() == [0, 1, 2, 3]
    built = segment.build_network(CONFIG.segment, 3).eval()
    assert built(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 64, 64)


def test_the_network_is_used_as_it_was_kept_and_not_in_training_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = segment.build_network(CONFIG.segment, 3)
    network(torch.randn(4, 3, 64, 64))  # moves the batch statistics
    save_weights(network.state_dict(), tmp_path / segment.WEIGHTS)
    again = segment.load_network(CONFIG.segment, 3, tmp_path)
    assert not again.training
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), network.eval()(x))


def test_evaluation_is_in_test_mode_on_the_images_that_have_a_mask() -> None:
    network, one = Listener(4), np.ones((64, 96), np.uint8)
    with torch.no_grad():  # always class 2
        network.weight[:] = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    split = split_of(PLAIN, PLAIN, PLAIN, truth=(one, None, 2 * one))
    counts, of_images = segment.evaluate(network.train(), split, 3, CONFIG.runtime)
    assert network.modes == [False, False] and counts.shape == (4, 4)
    assert counts[1, 2] == counts[2, 2] == one.size and counts.sum() == 2 * one.size
    n = one.size  # of class 1 and 2, each in an image of its own, and predicted as class 2
    assert [of.tolist() for of in of_images] == [[[0, n, 0, 0], [0, 0, n, 0], [0] * 4], [[0, 0, n, 0]] * 3]


def test_cams_are_scored_in_test_mode_at_one_scale() -> None:
    generator, one = Listener(3), np.ones((64, 96), np.uint8)
    train = split_of(PLAIN, PLAIN, truth=(one, None))
    assert heatmaps.score_cams(generator.train(), CONFIG, dataset(train)).keys() >= {"holdout/cam_miou"}
    assert generator.modes == [False] and all(x.shape == (1, 3, 64, 96) for x in generator.shown)


def test_heatmaps_are_made_in_test_mode_with_every_scale_and_mirror_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generator = Listener(3)
    monkeypatch.setattr(generators, "load", lambda *a: generator.train())
    config = with_changes(CONFIG, {"heatmaps.scales": [0.5, 2.0]}, "test")
    one = np.ones((64, 96), np.uint8)
    heatmaps.run(config, dataset(split_of(PLAIN, truth=(one,))), {"refine": tmp_path}, tmp_path, lambda *a, **k: None)
    assert not any(generator.modes)
    assert [tuple(x.shape[2:]) for x in generator.shown[:4]] == [(32, 48)] * 2 + [(128, 192)] * 2


class Undecided(nn.Module):
    """Sure of class 1 by much in the large view, of class 2 by less in the two small ones."""

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(1, 4, *images.shape[2:])
        if images.shape[3] > 96:
            scores[:, 1] = 50.0
        else:
            scores[:, 2] = 4.0
        return scores


def test_probabilities_of_the_views_are_averaged_and_not_their_scores() -> None:
    mask = segment.predict(Undecided(), PLAIN, CONFIG.runtime, with_flip(False, scales=[0.5, 1.0, 2.0]))
    assert {*mask.ravel().tolist()} == {2}


def test_the_crf_at_test_gets_the_mean_of_the_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def smooth(probabilities: np.ndarray, image: np.ndarray, settings: Any) -> np.ndarray:
        seen.update(probabilities=probabilities, image=image, settings=settings)
        return probabilities.argmax(0)

    monkeypatch.setattr(segment, "smooth_probabilities", smooth)
    test = with_flip(True, scales=[0.5, 1.0, 2.0], **{"crf.bilateral_compat": 9.0})
    segment.predict(Undecided(), PLAIN, CONFIG.runtime, test)
    small = np.array([1, 1, math.exp(4), 1]) / (3 + math.exp(4))
    expected = (2 * small + np.array([0, 1, 0, 0])) / 3
    assert seen["probabilities"][:, 5, 7] == pytest.approx(expected, abs=1e-5)
    assert seen["image"] is PLAIN and seen["settings"] == test.crf and test.crf.bilateral_compat == 9.0


def test_labels_go_with_their_images() -> None:
    images = [np.full((64, 64, 3), 60 * i, np.uint8) for i in range(4)]
    labels = np.array([[i & 1, i & 2, 1] for i in range(4)], bool)
    train = Split(tuple("abcd"), labels, images.__getitem__, lambda i: None, ())
    torch.manual_seed(0)
    order = []
    for batch, own in label_batches(CONFIG, dataset(train), 2):
        assert own.dtype == torch.float32
        for image, label in zip(batch, own, strict=True):
            i = round(255 * (float(image[0].mean()) * 0.229 + 0.485) / 60)
            order.append(i)
            assert label.tolist() == labels[i].astype(float).tolist()
    assert sorted(order) == [0, 1, 2, 3]


def test_crop_and_flip_of_prompts_are_only_that() -> None:
    """No pixel is erased and no colour changed, whatever the other stages do."""
    config = with_changes(CONFIG, {"augment.erasing": 1.0, "augment.randaugment": "rand-m9-n3"}, "test")
    data = dataset(split_of(PLAIN, PLAIN))
    torch.manual_seed(0)
    (plain, _), (changed, _) = (next(iter(label_batches(config, data, 2, only))) for only in (True, False))
    assert torch.allclose(plain, NORMAL.view(1, 3, 1, 1).expand_as(plain), atol=1e-4)
    assert not torch.allclose(changed, NORMAL.view(1, 3, 1, 1).expand_as(changed), atol=1e-4)
