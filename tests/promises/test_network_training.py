"""The segmentation network learns what it is given: which epoch is kept, what counts, and how fast it learns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from one_colour import CONFIG, PLAIN, Listener, dataset, split_of
from torch import nn

from semples.config import with_changes
from semples.data.dataset import IGNORE, Split
from semples.metrics import areas, standard_error
from semples.stages import segment
from semples.training import cosine, poly


class Course(SimpleNamespace):
    """What train_on did: the losses of the training, the network, the pairs and settings it was called with."""


def train_by_a_course(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, course: list[float], changes: dict[str, Any] | None = None
) -> Course:
    """Train a stand-in whose weight is the number of the epoch; after each it has the mIoU of the course."""
    seen = Course(network=Listener(4), judged=[], logged=[])
    holdout, test = split_of(PLAIN, name="h"), split_of(PLAIN, PLAIN, name="v")
    data = dataset(split_of(PLAIN, PLAIN, PLAIN, PLAIN, name="t"), holdout, test)
    config = with_changes(CONFIG, changes or {}, "test")

    def fit(name: str, model: Any, loader: Any, *rest: Any, **more: Any) -> Iterator[dict[str, float]]:
        seen.loader, seen.losses, seen.schedule = loader, rest[2], rest[4]
        for epoch in range(1, len(course) + 1):
            with torch.no_grad():
                model.weight.fill_(epoch)
            seen.training = model.training
            yield {"loss": 1.0}

    def evaluate(
        network: Any, split: Split, classes: int, runtime: Any, test: Any = None
    ) -> tuple[np.ndarray, list[Any]]:
        network.eval()
        epoch = int(network.weight[0, 0])
        seen.judged.append((split.names[0][0], test, epoch))
        share = round(course[epoch - 1])  # of 100 pixels of class 1 that many are found, and none elsewhere
        counts = np.diag([0, share, 0, 0]) + np.array([[0, 0, 0, 0], [0, 0, 0, 100 - share], [0] * 4, [0] * 4])
        other = np.diag([0, 0, 10 * epoch, 0])  # of an image that only the error knows
        return counts, [areas(counts), areas(counts), areas(other)]

    monkeypatch.setattr(segment, "build_network", lambda *a, **k: seen.network)
    monkeypatch.setattr(segment, "fit", fit)
    monkeypatch.setattr(segment, "evaluate", evaluate)
    seen.weights, seen.metrics = segment.train_on(
        lambda i: np.full((64, 96), i, np.uint8), range(4), config, data, None, tmp_path,
        lambda epoch, epochs, **values: seen.logged.append((epoch, epochs, values)),
    )  # fmt: skip
    seen.config = config
    return seen


COURSES = [([10, 40, 30, 20], 2), ([50, 40, 30], 1), ([10, 20, 30, 40], 4), ([10, 40, 20, 40], 2), ([0, 0], 1)]


@pytest.mark.parametrize(("course", "best"), COURSES, ids=str)
def test_the_best_epoch_is_kept_with_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, course: list[float], best: int
) -> None:
    seen = train_by_a_course(monkeypatch, tmp_path, course)
    assert seen.metrics["seg_epoch"] == best and bool((seen.weights["weight"] == best).all())
    # classes 1 and 3 occur: the second is predicted and never true
    assert seen.metrics["seg_miou"] == seen.metrics["holdout/seg_miou"] == pytest.approx(course[best - 1] / 2)
    of_images = [areas(np.diag([0, share := round(course[best - 1]), 0, 0]) + np.diag([0, 100 - share], 2))] * 2
    error = standard_error([*of_images, areas(np.diag([0, 0, 10 * best, 0]))])
    assert seen.metrics["seg_miou_se"] == seen.metrics["holdout/seg_miou_se"] == pytest.approx(error) and error > 0
    assert seen.metrics["seg_iou/a"] == pytest.approx(course[best - 1]) and math.isnan(seen.metrics["seg_iou/b"])
    assert [values[segment.JUDGED] for _, _, values in seen.logged] == pytest.approx([c / 2 for c in course])


def test_figures_are_of_the_network_as_it_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Epochs are compared at one scale, the kept one is measured with all that `segment.test` says."""
    seen = train_by_a_course(monkeypatch, tmp_path, [10, 40, 30], {"segment.test.scales": [0.5, 1.0]})
    assert seen.judged[:3] == [("h", None, epoch) for epoch in (1, 2, 3)]
    assert seen.judged[3:] == [(part, seen.config.segment.test, 2) for part in ("v", "h")]


def test_after_it_was_judged_the_network_goes_on_learning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert train_by_a_course(monkeypatch, tmp_path, [10, 20]).training


@pytest.mark.parametrize(("name", "schedule"), [("cosine", cosine), ("poly", poly)])
def test_the_learning_rate_falls_as_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, schedule: Any
) -> None:
    assert train_by_a_course(monkeypatch, tmp_path, [10], {"segment.schedule": name}).schedule is schedule


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_network_learns_every_pixel_but_those_of_255(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smoothing: float
) -> None:
    seen = train_by_a_course(monkeypatch, tmp_path, [10], {"segment.label_smoothing": smoothing})
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 5, requires_grad=True)
    target = torch.arange(40).view(2, 4, 5) % 4
    target[0, 1:3], target[1, 3] = IGNORE, IGNORE
    seen.network.weight = nn.Parameter(torch.randn(4, 3))
    loss = seen.losses(images, target)["loss"]
    scores = torch.einsum("kc,bchw->bkhw", seen.network.weight, images).log_softmax(1)
    terms = []
    for i, y, x in (target != IGNORE).nonzero().tolist():
        wanted = torch.full((4,), smoothing / 4)
        wanted[target[i, y, x]] += 1 - smoothing
        terms.append(-float((wanted * scores[i, :, y, x].detach()).sum()))
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    loss.backward()
    assert images.grad is not None
    assert bool(((images.grad != 0).any(1) == (target != IGNORE)).all())


def test_a_batch_of_nothing_but_255_teaches_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = train_by_a_course(monkeypatch, tmp_path, [10])
    assert seen.losses(torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), IGNORE))["loss"].item() == 0
