"""Nothing that is reported chooses anything.

Under `holdout` the masks of the holdout choose: the background score at which CAMs are scored, the epoch of the
network, the trials of a sweep and who is stopped early. `pseudo_miou` and `seg_miou` are of other images. Under `proxy`
no mask chooses. Only `oracle` chooses on what it reports, and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from torch import Tensor, nn
from trees import WRITERS, Write, load

import tune.confirm
import tune.outside
import tune.trial
from semples import by_image
from semples.ablation import generator_of
from semples.analytic import SCORES, read_scores
from semples.config import Config, parse, with_changes
from semples.data import load_data, png_archive
from semples.data.dataset import Dataset, Split
from semples.image_sets import judging
from semples.manifest import read_manifest
from semples.metrics import THRESHOLDS
from semples.metrics import Sweep as Scores
from semples.pipeline.graph import STAGES, graph
from semples.pipeline.run import Event, Result, run
from semples.stages import masks, segment
from semples.stages.heatmaps import (
    choose_threshold,
    count_thresholds,
    read_heatmaps,
    reported_cam_miou,
    sweep_cams,
)
from semples.stages.prompts import load_prompts
from semples.store import Store
from semples.training import load_weights
from tune.confirm import confirm
from tune.messages import Completed, Message, StageDone
from tune.objectives import choosing, find_objective
from tune.parts import Choice
from tune.sweep_file import make_sweep
from tune.trial import run_trial
from tune.values import Resources
from tune.verdict import DEFAULT, Verdict, read_verdict


def spoil(split: Split) -> Split:
    """Other masks: the classes exchanged, and moved."""

    def mask(i: int) -> np.ndarray | None:
        truth = split.mask(i)
        return None if truth is None else np.roll(np.where(truth == 0, 8, truth - 1), 20, (0, 1)).astype(np.uint8)

    return dataclasses.replace(split, mask=mask)


Spoiled = Callable[..., Result]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    """A run of two epochs of the network, with the masks of some splits spoiled."""
    changes = {"segment.epochs": 2, "segment.test.crf.iterations": 0, "segment.test.flip": False}
    known: dict[tuple[str, ...], Result] = {}

    def of(selection: str, *splits: str) -> Result:
        if (selection, *splits) not in known:
            config = with_changes(parse(SMALL, "small"), {"selection": selection, **changes}, "test")
            data = load_data(config.data)
            spoiled = dataclasses.replace(data, **{name: spoil(getattr(data, name)) for name in splits})
            store = Store(tmp_path_factory.mktemp("store") / "store")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("semples.pipeline.run.load_data", lambda *_: spoiled)
                known[selection, *splits] = run(config, store, lambda event: None)
        return known[selection, *splits]

    return of


def differing(one: Result, two: Result, but: str = "") -> set[str]:
    """Stages that wrote other files, apart from those that are called so, and from what images say of the figures."""
    files = [
        {
            stage: {k: of for k, of in read_manifest(folder)["files"].items() if k not in (but, by_image.FILE)}
            for stage, folder in result.folders.items()
        }
        for result in (one, two)
    ]
    return {stage for stage in files[0] if files[0][stage] != files[1][stage]}


def chosen(result: Result) -> dict[str, float]:
    """Everything but what is reported of training and test images."""
    own = ("holdout/", "proxy/", "prompts/")
    return {
        name: value
        for name, value in result.metrics.items()
        if name.startswith(own) or "/holdout/" in name or name.endswith(("_background", "seg_epoch"))
    }


def test_masks_of_training_and_test_images_choose_nothing(spoiled: Spoiled) -> None:
    sound, other = spoiled("holdout"), spoiled("holdout", "train", "test")
    assert differing(sound, other) == set()
    assert chosen(sound) == chosen(other) and sum("_iou/" not in name for name in chosen(sound)) == 15
    for reported in ("heatmaps/cam_miou", "pseudo_miou", "seg_miou"):
        assert sound.metrics[reported] != other.metrics[reported]
    assert not any(name in sound.metrics for name in ("classify/cam_miou", "match/cam_miou", "refine/cam_miou"))


def test_masks_of_the_holdout_change_only_what_is_chosen(spoiled: Spoiled) -> None:
    sound, other = spoiled("holdout"), spoiled("holdout", "holdout")
    assert differing(sound, other, but=SCORES) <= {"segment"}  # its epoch
    assert read_scores(sound.folders["heatmaps"]) != read_scores(other.folders["heatmaps"])
    same = {name for name, value in sound.metrics.items() if other.metrics.get(name) == value}
    assert {"pseudo_miou", "prompts/label_cosine"} <= same  # no mask chose them
    assert not same & {"holdout/pseudo_miou", "holdout/seg_miou", "classify/holdout/cam_miou"}
    assert sound.metrics["classify/cam_miou_background"] != other.metrics["classify/cam_miou_background"]


def test_under_proxy_no_mask_chooses(spoiled: Spoiled) -> None:
    sound, other = spoiled("proxy"), spoiled("proxy", "train", "holdout", "test")
    assert differing(sound, other) == set()
    same = {name for name, value in sound.metrics.items() if other.metrics.get(name) == value}
    assert {"proxy/pseudo_miou", "proxy/seg_miou", "seg_epoch", "classify/cam_miou_background"} <= same
    assert not same & {"pseudo_miou", "seg_miou", "holdout/pseudo_miou", "holdout/seg_miou"}


def test_under_oracle_the_holdout_chooses_nothing(spoiled: Spoiled) -> None:
    sound, other = spoiled("oracle"), spoiled("oracle", "holdout")
    assert differing(sound, other) == set()
    changed = {name for name, value in sound.metrics.items() if other.metrics.get(name) != value}
    assert changed and all("holdout/" in name for name in changed)


def scores(*best: int) -> Scores:
    """One class, of which the named thresholds find all of it, and the others a half."""
    counts = np.zeros((254, 2, 2), np.int64)
    counts[:] = [[10, 0], [5, 5]]
    counts[list(best)] = [[10, 0], [0, 10]]
    return Scores(counts)


@pytest.mark.parametrize(("selection", "best"), [("holdout", 200), ("oracle", 40), ("proxy", 126)])
def test_the_background_score_is_that_of_what_may_choose(selection: str, best: int) -> None:
    config = with_changes(Config(), {"selection": selection, "masks.background": 0.9}, "test")
    assert choose_threshold(config, scores(40 if selection == "oracle" else 200)) == best
    assert float(THRESHOLDS[best]) == pytest.approx((best + 1) / 255, abs=0.003)


@pytest.mark.parametrize("selection", ["holdout", "proxy", "oracle"])
def test_the_images_that_judge_are_those_that_may_choose(selection: str) -> None:
    assert judging(selection) == ("measured" if selection == "oracle" else "holdout")
    stages = graph(with_changes(Config(), {"selection": selection}, "test"))
    assert {stages[name].images for name in ("heatmaps", "masks")} == {judging(selection)}
    assert ("measured_masks" in stages) == (selection != "oracle")


def test_the_reported_cams_have_the_background_score_that_the_holdout_chose(spoiled: Spoiled, tmp_path: Path) -> None:
    """Other masks of the holdout make another score, at which the same heatmaps have another mIoU."""
    sound, other = spoiled("holdout"), spoiled("holdout", "holdout")
    for result in (sound, other):
        data = result.data.treating("measured")
        split, stored = data.images, png_archive.Reader(result.folders["measured_heatmaps"] / png_archive.FILE)
        counts = count_thresholds(split, ((i, *read_heatmaps(stored, split, i)) for i in range(len(split))), 8)
        at = int(np.abs(THRESHOLDS - result.metrics["heatmaps/cam_miou_background"]).argmin())
        assert result.metrics["heatmaps/cam_miou"] == pytest.approx(float(counts.miou[at]))
    assert sound.metrics["heatmaps/cam_miou_background"] != other.metrics["heatmaps/cam_miou_background"]
    generator = generator_of(sound, "refine")
    of_scores = sweep_cams(generator, sound.config, sound.data.treating("measured"))
    at = int(np.abs(THRESHOLDS - sound.metrics["refine/cam_miou_background"]).argmin())
    assert reported_cam_miou(generator, sound.config, sound.data) == pytest.approx(float(of_scores.miou[at]))


COURSES = {"holdout": [10, 40, 30, 40], "test": [50, 20, 60, 40]}  # mIoU after each epoch


@pytest.mark.parametrize(("selection", "epoch"), [("holdout", 2), ("oracle", 3), ("proxy", 4)])
def test_the_network_is_that_of_the_epoch_that_is_best_by_what_may_choose(
    selection: str, epoch: int, small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equally good epochs the first; under proxy the last one."""
    changes = {"selection": selection, "segment.epochs": 4, "segment.test.crf.iterations": 0}
    config = with_changes(small_run.config, changes, "test")
    data, states, training = load_data(config.data), [], []

    def judge(network: nn.Module, split: Split, classes: int, runtime: Any, test: Any = None) -> Any:
        if test is None:  # an epoch; at last it is the chosen one with all views
            training.append(len(states))
            course = COURSES["holdout" if split is data.holdout else "test"]
            return np.array([[course[len(states) - 1], 100 - course[len(states) - 1]], [0, 0]]), []
        network.eval()
        return np.eye(classes + 1, dtype=np.int64), []

    def fit(*args: Any, **settings: Any) -> Iterator[dict[str, float]]:
        for values in real(*args, **settings):
            states.append({name: value.clone() for name, value in args[1].state_dict().items()})
            yield values

    real = segment.fit
    monkeypatch.setattr(segment, "fit", fit)
    monkeypatch.setattr(segment, "evaluate", judge)
    metrics = segment.run(config, data, small_run.folders, tmp_path, lambda *_, **__: None)
    assert metrics["seg_epoch"] == epoch
    kept = load_weights(tmp_path / segment.WEIGHTS)
    assert all((kept[name] == value).all() for name, value in states[epoch - 1].items())
    assert training == ([] if selection == "proxy" else [1, 2, 3, 4])


@pytest.mark.parametrize("write", WRITERS)
def test_no_image_both_chooses_and_is_reported(write: Write, tmp_path: Path) -> None:
    data: Dataset = load(write(tmp_path))
    holdout, train, test = ({*split.names} for split in (data.holdout, data.train, data.test))
    assert len(holdout) == 8 and holdout.isdisjoint(train | test) and train.isdisjoint(test)


METRICS = {"cam_miou": 1.0, "pseudo_miou": 2.0, "seg_miou": 3.0}


def nothing(*_: Any, **__: Any) -> contextlib.AbstractContextManager[str]:
    return contextlib.nullcontext("")


SHIFT = {"oracle": 0, "holdout": 10, "proxy": 20}  # of what chooses under a rule
ALL = METRICS | {f"{of}/{name}": value + SHIFT[of] for of in ("holdout", "proxy") for name, value in METRICS.items()}


@pytest.mark.parametrize("selection", ["holdout", "proxy", "oracle"])
def test_a_trial_is_stopped_and_ranked_by_what_may_choose(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a trial sends, under any rule: its milestones' scores, by which it is stopped, and its final values."""
    sent: list[Message] = []

    def pretend(config: Config, store: Any, report: Callable[[Event], None], *_: Any) -> SimpleNamespace:
        assert config.selection == selection
        for stage in STAGES:
            report(Event(stage, 1, 1, metrics=ALL))
        return SimpleNamespace(metrics=ALL, seconds={"classify": 7.0}, gpu_gb=1.0)

    for name, stub in (("run", pretend), ("send", sent.append), ("write_elsewhere", lambda *_: None)):
        monkeypatch.setattr(tune.trial, name, stub)
    (tmp_path / tune.trial.SWEEP_FILE).touch()
    monkeypatch.setattr(tune.trial, "claim", lambda *_, **__: SimpleNamespace(publishing=nothing))
    base = {**SMALL, "selection": selection}
    suggestion = {"number": 0, "parameters": {"match.lambda_b": 2.0}}
    objectives = tuple(find_objective(Choice(name=name)) for name in ("seg_miou", "pseudo_miou", "seconds"))
    place = str(tmp_path / "s")
    run_trial(suggestion, base, str(tmp_path), objectives, "segment", "all", place, None, "exact", Resources(), {}, "")
    shift = SHIFT[selection]
    milestones = {m.stage: m.score for m in sent if isinstance(m, StageDone) and m.score is not None}
    cams = {} if selection == "proxy" else dict.fromkeys(("classify", "match", "refine", "heatmaps"), 1.0 + shift)
    assert milestones == {**cams, "masks": 2.0 + shift, "segment": 3.0 + shift}
    assert isinstance(sent[-1], Completed) and sent[-1].values == (3.0 + shift, 2.0 + shift, 7.0)


def test_a_class_may_be_called_like_what_chooses() -> None:
    metrics = {
        "pseudo_iou/holdout": 1.0, "holdout/pseudo_iou/holdout": 2.0, "proxy/pseudo_iou/holdout": 3.0,
        "match/cam_iou/proxy": 4.0, "match/holdout/cam_iou/proxy": 5.0,
    }  # fmt: skip
    assert {selection: choosing(metrics, selection) for selection in SHIFT} == {
        "oracle": {"pseudo_iou/holdout": 1.0, "match/cam_iou/proxy": 4.0},
        "holdout": {"pseudo_iou/holdout": 2.0, "match/cam_iou/proxy": 5.0},
        "proxy": {"pseudo_iou/holdout": 3.0},
    }


def confirmed(
    folder: Path, patch: pytest.MonkeyPatch, metrics: dict[str, float], **changes: Any
) -> tuple[Verdict, list[Config]]:
    """The verdict on the default and a trial 7 of which every metric is higher by 1, and what ran for it; a metric is
    what `metrics` says and the seed."""
    tree = {"name": "s", "objective": "pseudo_miou", "trials": 3, "base": {"seed": 5}}
    sweep = make_sweep({**tree, "space": {"match.lambda_b": {"float": [1, 4]}}, **changes})
    default = sweep.base_config()
    configs = {DEFAULT: default, "trial 7": with_changes(default, {"match.lambda_b": 2.0}, "test")}
    ran: list[Config] = []

    def start(tree: dict[str, Any], out: str, kind: str, until: str, *_: Any) -> str:
        assert until in ("masks", "measured_masks")
        ran.append(parse(tree, "finalist"))
        return ""

    def measured(folder: Path) -> tuple[None, dict[str, Any]]:
        more = (folder.parent.name == "trial-7") + float(folder.name)
        return None, {"metrics": {name: value + more for name, value in metrics.items()}}

    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *a: (start(*a), str(a[1]))))
    ray = SimpleNamespace(remote=lambda _: task, wait=lambda w: (w[:1], w[1:]), get=lambda r: r[0], exceptions=None)
    patch.setattr(tune.outside, "ray", ray)
    patch.setattr(tune.outside, "slots", lambda resources: 2)
    for name, stub in (("joined", nothing), ("watched", nothing), ("read_run", measured)):
        patch.setattr(tune.confirm, name, stub)
    patch.setattr(tune.confirm, "finalists", lambda *_: configs)
    patch.setattr(tune.confirm, "track", lambda *_: None)
    return confirm(sweep, folder, 1, 3, None, lambda *_: None), ran


@pytest.mark.parametrize("selection", ["holdout", "proxy", "oracle"])
def test_confirm_takes_seeds_that_no_trial_had_and_tells_what_chooses_from_what_is_reported(
    selection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every finalist with the same seeds; the leader is chosen, the winner by what is reported."""
    verdict, ran = confirmed(tmp_path, monkeypatch, ALL, selection=selection)
    assert sorted((c.match.lambda_b, c.seed) for c in ran) == [(b, seed) for b in (1.0, 2.0) for seed in (6, 7, 8)]
    assert all(config.selection == selection for config in ran)
    assert verdict.chosen[DEFAULT].mean == 2.0 + SHIFT[selection] + 7
    assert verdict.reported[DEFAULT].mean == 2.0 + 7 and verdict.metric == "pseudo_miou"
    assert verdict.over_default["trial 7"].mean == 1.0


def test_where_less_is_better_confirm_says_so_and_whoever_reads_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = {"name": "metric", "metric": "pseudo_miou", "stage": "masks", "direction": "minimize"}
    verdict, _ = confirmed(tmp_path, monkeypatch, ALL, selection="holdout", objective=objective)
    assert verdict.leader == DEFAULT and verdict.over_default["trial 7"].mean == -1.0
    assert read_verdict(tmp_path) == verdict


def test_where_there_are_no_masks_confirm_reports_what_clip_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, _ = confirmed(tmp_path, monkeypatch, {"proxy/pseudo_miou": 22.0}, selection="proxy")
    assert verdict.metric == "proxy/pseudo_miou" and verdict.reported == verdict.chosen
    assert verdict.reported[DEFAULT].mean == 29.0


def test_the_figures_are_those_of_the_weights_that_are_kept(
    small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first epoch is the best, the figures are not those of the network as the last one left it."""
    config = with_changes(small_run.config, {"segment.epochs": 2}, "test")
    measured: list[dict[str, Any]] = []

    def judge(network: nn.Module, split: Split, classes: int, runtime: Any, test: Any = None) -> np.ndarray:
        measured.append({name: value.clone() for name, value in network.state_dict().items()})
        return np.pad([[100 - len(measured), len(measured)]], [(0, 8), (0, 7)]), []  # less every time

    monkeypatch.setattr(segment, "evaluate", judge)
    data = load_data(config.data)
    metrics = segment.run(config, data, small_run.folders, tmp_path, lambda *_, **__: None)
    assert metrics["seg_epoch"] == 1
    first, last, test, holdout = measured
    for name, kept in load_weights(tmp_path / segment.WEIGHTS).items():
        assert (kept == first[name]).all() and (kept == test[name]).all() and (kept == holdout[name]).all()
    assert any((first[name] != last[name]).any() for name in first)


def test_clip_judges_the_holdouts_images_by_their_own_masks(
    small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_changes(small_run.config, {"selection": "proxy", "segment.test.crf.iterations": 0}, "test")
    data = load_data(config.data)
    judged: dict[str, list[np.ndarray]] = {}
    for module, stage in ((masks, "masks"), (segment, "segment")):

        def keep(
            config: Config, data: Dataset, prompts: Tensor, mask: Callable[[int], np.ndarray], stage: str = stage
        ) -> float:
            assert torch.equal(prompts, load_prompts(small_run.folders["prompts"]))
            judged[stage] = [mask(i) for i in range(len(data.holdout))]
            return 7.0

        monkeypatch.setattr(module, "agreement", keep)
        (tmp_path / stage).mkdir()
        metrics = STAGES[stage].load()(config, data, small_run.folders, tmp_path / stage, lambda *_, **__: None)
        assert 7.0 in (metrics.get("proxy/pseudo_miou"), metrics.get("proxy/seg_miou"))
    written = png_archive.Reader(tmp_path / "masks" / png_archive.FILE)
    network = segment.load_network(config.segment, data.num_classes, tmp_path / "segment")
    for i, name in enumerate(data.holdout.names):
        assert (judged["masks"][i] == written.read(name)).all()
        own = segment.predict(network, data.holdout.image(i), config.runtime, config.segment.test)
        assert (judged["segment"][i] == own).all()
