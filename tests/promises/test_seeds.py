"""Two seeds are two different runs, and one seed is the same bits.

The random stream of a stage depends on the run's seed and the stage's name, on nothing else: not on what the process
drew before, nor on which stages it computed. What draws numbers elsewhere (scenes, splits, samplers) has a seed, too.
That confirm's seeds are none of the sweep's is in test_choosing.py.
"""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from conftest import SMALL
from trees import Write, load, write_coco_toco, write_folder, write_voc

from semples import ablation
from semples.clip import load_clip, loaded
from semples.config import ClipConfig, parse, with_changes
from semples.data import coco, load_data, scenes
from semples.data.listing import draw_test
from semples.digests import file_digest
from semples.manifest import read_manifest
from semples.pipeline.compute import compute
from semples.pipeline.graph import STAGES
from semples.pipeline.run import Result
from semples.pipeline.work import Work
from semples.training import label_batches, seed_stream
from tune.sweep_file import make_sweep
from tune.warm_start import prepare

DRAWING = ("classify", "match", "prompts", "refine", "segment")


def draw() -> tuple[float, float, float]:
    """A number of each of the three streams that a stage may use."""
    return random.random(), float(np.random.random()), float(torch.rand(()))


def drawn(seed: int, stage: str) -> tuple[float, float, float]:
    seed_stream(seed, stage)
    return draw()


def test_a_stream_depends_on_seed_and_stage_and_on_nothing_else() -> None:
    first = drawn(0, "match")
    draw()
    assert drawn(0, "match") == first
    streams = [drawn(seed, stage) for seed in range(3) for stage in STAGES]
    for kind in zip(*streams, strict=True):
        assert len({*kind}) == len(streams)
    assert drawn(1, "1match") != drawn(11, "match")


@pytest.mark.parametrize("stage", STAGES)
def test_one_seed_is_the_same_bits_and_another_seed_others_in_every_stage_that_draws(
    stage: str, small_run: Result, tmp_path: Path
) -> None:
    """From the same inputs, and whatever the process has drawn before."""
    data = load_data(small_run.config.data)

    def files(seed: int) -> Any:
        config, out = small_run.config.model_copy(update={"seed": seed}), tmp_path / str(seed)
        out.mkdir()
        draw()
        compute(Work(stage, config, small_run.folders, out), data, lambda epoch: None)
        return {path.name: file_digest(path) for path in out.iterdir()}

    before = read_manifest(small_run.folders[stage])["files"]
    assert files(0) == before
    assert (files(1) == before) == (stage not in DRAWING)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_seed(workers: int) -> None:
    """Order, crops, flips, random erasing and RandAugment, in one process or several; every epoch has its own."""
    changes = {"augment.erasing": 0.5, "augment.randaugment": "rand-m9-mstd0.5-inc1", "runtime.workers": workers}
    config = with_changes(parse(SMALL, "small"), changes, "test")

    def epochs(seed: int) -> list[torch.Tensor]:
        seed_stream(seed, "match")
        loader = label_batches(config, load_data(config.data), 4)
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[1])


def test_every_epoch_takes_all_images_in_an_order_of_its_own() -> None:
    config = parse(SMALL, "small")
    data = load_data(config.data)
    seed_stream(0, "match")
    loader = label_batches(config, data, 4)
    orders = [torch.cat([labels for _, labels in loader]) for _ in range(3)]
    assert len({order.numpy().tobytes() for order in orders}) == 3
    for order in orders:
        assert sorted(map(tuple, order.tolist())) == sorted(map(tuple, data.train.labels.astype(float).tolist()))


def test_random_weights_of_clip_are_the_same_for_whoever_asks_first() -> None:
    """Clip is loaded once a process, by whatever stage that is."""

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        loaded.cache_clear()
        before = torch.get_rng_state()
        clip = load_clip(ClipConfig(pretrained=""))
        assert torch.equal(torch.get_rng_state(), before)
        return clip.embed_labels(["boat", "train"])

    assert torch.equal(weights(0), weights(1))


def test_every_split_of_the_scenes_is_drawn_from_the_seed() -> None:
    one, two = scenes.draw(4, 4, 4, 0), scenes.draw(4, 4, 4, 1)
    for a, b in ((one.train, two.train), (one.holdout, two.holdout), (one.test, two.test)):
        assert not any(a.image(i).tobytes() == b.image(i).tobytes() for i in range(4))
    longer = scenes.draw(6, 5, 7, 0)  # and of nothing else
    for a, b in ((one.train, longer.train), (one.holdout, longer.holdout), (one.test, longer.test)):
        assert all(a.image(i).tobytes() == b.image(i).tobytes() for i in range(4))


@pytest.mark.parametrize("write", [write_voc, write_coco_toco, write_folder])
def test_the_holdout_is_drawn_from_the_seed(write: Write, tmp_path: Path) -> None:
    config = write(tmp_path)
    holdouts = [load(config.model_copy(update={"seed": seed})).holdout.names for seed in range(4)]
    assert len({*holdouts}) == 4
    assert [load(config.model_copy(update={"seed": seed})).holdout.names for seed in range(4)] == holdouts


def test_what_else_is_drawn_of_the_data_is_drawn_from_the_seed(tmp_path: Path) -> None:
    names = [f"{i:03d}" for i in range(50)]
    tests = [draw_test(names, 10, seed, "", "have masks") for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]
    config = write_coco_toco(tmp_path).model_copy(update={"measured": 12})
    measured = [coco.read_listing(config.model_copy(update={"seed": seed})).measured for seed in (0, 0, 1)]
    assert measured[0] == measured[1] != measured[2]


SWEEP: dict[str, Any] = {
    "name": "s",
    "selection": "holdout",
    "objective": "seg_miou",
    "trials": 9,
    "space": {"match.lambda_b": {"float": [1, 4]}, "refine.lambda_r": {"float": [0, 4]}},
}


@pytest.mark.parametrize("sampler", ["cost-aware", "tpe", "gp", "nsga2", "nsga3", "cmaes", "random", "sobol"])
def test_what_a_sweep_suggests_depends_on_its_seed(sampler: str) -> None:
    def suggested(seed: int, study: optuna.Study) -> list[dict[str, Any]]:
        sweep = make_sweep({**SWEEP, "sampler": sampler, "seed": seed})
        prepare(study, sweep)
        trials = [study.ask(sweep.distributions()) for _ in range(4)]
        for trial in trials:
            study.tell(trial, 1.0)
        return [trial.params for trial in trials][-3:]  # the default comes first

    studies = [optuna.create_study(direction="maximize") for _ in range(3)]
    one, again, other = (suggested(seed, study) for seed, study in zip((0, 0, 1), studies, strict=True))
    assert one == again and not any(parameters in one for parameters in other)
    # a later launch of the same sweep does not suggest the same again
    assert not any(parameters in one for parameters in suggested(0, studies[0]))


def test_an_ablation_is_a_run_for_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("classify/cam_miou", "match/cam_miou", "refine/cam_miou", "heatmaps/cam_miou", "pseudo_miou", "seg_miou")
    monkeypatch.setattr(
        ablation,
        "run",
        lambda config, *_, **__: SimpleNamespace(config=config, metrics=dict.fromkeys(names, float(config.seed))),
    )
    monkeypatch.setattr(ablation, "generator_of", lambda result, stage: None)
    monkeypatch.setattr(ablation, "reported_cam_miou", lambda generator, config, data: float(config.seed))
    values = ablation.ablate(parse(SMALL, "small"), [3, 5], None, lambda seed, event: None)  # type: ignore[arg-type]
    assert values == {step: [3.0, 5.0] for step in ablation.STEPS}
