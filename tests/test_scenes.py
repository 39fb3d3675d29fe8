from __future__ import annotations

import numpy as np
import pytest

from semples.config import ScenesData
from semples.data import load_data, scenes
from semples.data.scene_objects import draw_object
from semples.errors import UserError


def test_the_same_seed_gives_the_same_scenes() -> None:
    scenes.draw.cache_clear()
    first = scenes.draw(40, 4, 4, 3)
    scenes.draw.cache_clear()
    again, other = scenes.draw(40, 4, 4, 3), scenes.draw(40, 4, 4, 4)
    assert first is not again and first.fingerprint == again.fingerprint != other.fingerprint
    for i in range(40):
        assert (first.train.image(i) == again.train.image(i)).all()
        assert (first.train.mask(i) == again.train.mask(i)).all()


def test_scenes_are_what_they_promise() -> None:
    data = scenes.draw(300, 10, 10, 0)
    assert data.num_classes >= 8
    count = data.train.labels.sum(1)
    assert {1, 2, 3} == set(count.tolist()) and (count == 1).mean() > 0.5
    assert {data.train.image(i).shape[:2] for i in range(300)} == set(scenes.SIZES)
    for i in range(300):
        present = set(np.unique(data.train.mask(i)).tolist()) - {0}
        assert present == {k + 1 for k in np.flatnonzero(data.train.labels[i])}
    share = [(data.train.mask(i) > 0).mean() for i in range(300)]
    assert 0.05 < np.mean(share) < 0.4 and np.std(share) > 0.03


def test_the_splits_share_no_image() -> None:
    data = scenes.draw(50, 50, 50, 0)
    images = [s.image(i).tobytes() for s in (data.train, data.holdout, data.test) for i in range(50)]
    assert len(set(images)) == 150


def test_every_class_has_its_companion_nine_times_of_ten() -> None:
    rng = np.random.default_rng(0)
    seen: dict[str, list[bool]] = {c: [] for c in scenes.CLASSES}
    drawn: list[tuple[list[str], list[str]]] = []
    original = scenes.draw_scene

    def spy(rng: np.random.Generator, objects: list[str], grounds: list[str], h: int, w: int) -> object:
        drawn.append((objects, grounds))
        return np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)

    scenes.draw_scene = spy  # type: ignore[assignment]
    try:
        for _ in range(3000):
            scenes._draw_random_scene(rng)
    finally:
        scenes.draw_scene = original
    for objects, grounds in drawn:
        for c in objects:
            seen[c].append(scenes.COMPANIONS[c] in grounds)
    for c, there in seen.items():
        assert 0.87 < np.mean(there) < 0.95, c


def test_nearer_objects_hide_farther_ones() -> None:
    canvas = np.zeros((32, 32, 3), np.float32)
    rng = np.random.default_rng(0)
    first = scenes.paste(canvas, draw_object(rng, "sheep", 30), 1, 1)
    before = canvas.copy()
    second = scenes.paste(canvas, draw_object(rng, "car", 30), 6, 6)
    assert (first & second).any()
    assert (canvas[second] != before[second]).any(-1).mean() > 0.9
    alone = ~second & (before == canvas).all(-1)
    assert alone[first].any()


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(UserError, match="no training image shows the class 'aeroplane'"):
        load_data(ScenesData(train=1, holdout=1, test=1, seed=1))
