"""The losses are right (tests/test_losses.py), and each stage gives them what belongs there: foreground and background,
label and prompt, with the sign and the weight of the equations, for the classes that are in the image. Each stage
begins with the weights that the method says and trains nothing else.

CLIP is replaced by the mean colour, so that every term can be computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semples import generators, proxy
from semples.clip import load_clip
from semples.config import ClipConfig, CnnConfig, Config, WeakTrConfig, parse
from semples.data.dataset import Dataset, Split
from semples.images import minmax
from semples.stages import classify, cutouts, match, prompts, refine
from semples.training import load_weights, save_weights

CLASSES = ("cat", "dog", "cow")
WORDS = {"cat": (0.9, 0.3, 0.2), "dog": (0.2, 0.8, 0.4), "cow": (0.3, 0.1, 0.7)}
LEARNED = torch.tensor([[[[0.5, 0.7, 0.1]]], [[[0.6, 0.2, 0.9]]], [[[0.2, 0.9, 0.8]]]])  # (K, 1, 1, 3): the prompts
CONFIG: Config = parse(
    {
        "runtime": {"device": "cpu"},
        "match": {"lambda_b": 2.5, "mask_eps": 0.3, "batch": 3},
        "prompts": {"lambda_t": 0.7, "mask_eps": 0.02, "count": 2, "length": 4, "batch": 5, "init": "word"},
        "refine": {"lambda_r": 1.7, "batch": 6},
        "classify": {"batch": 4},
    },
    "wired",
)
IMAGES = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(3)) + 0.05
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
PAIRS = [(0, 0), (0, 2), (1, 1)]


def unit(values: Any) -> Tensor:
    return F.normalize(torch.as_tensor(values, dtype=torch.float32), dim=-1)


class MeanColour:
    """In the place of CLIP: an image is its mean colour, a name what WORDS says, a prompt its mean token."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], str]] = []

    def embed_images(self, images: Tensor) -> Tensor:
        return unit(images.mean((2, 3)))

    def embed_labels(self, names: Sequence[str]) -> Tensor:
        return unit([WORDS[name] for name in names])

    def embed_prompts(self, tokens: Tensor) -> Tensor:
        return unit(tokens.mean(-2))

    def initial_prompts(self, shape: tuple[int, ...], init: str) -> Tensor:
        self.asked.append((shape, init))
        return LEARNED.expand(*shape, 3).clone() + torch.linspace(0, 0.3, shape[1]).view(1, -1, 1, 1)


class Stub(nn.Module):
    """CAMs (B, 3, h / 2, w / 2): the colours of the image in another order, times what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.labelled: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * F.avg_pool2d(images, 2)[:, [1, 2, 0]]

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.labelled.append((images, labels))
        return self.gain * 7


def cosine(a: Tensor, b: Tensor) -> float:
    return min(max(sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)), 1e-4), 1 - 1e-4)


def halves(eps: float) -> list[tuple[Tensor, Tensor]]:
    """By hand: mean colours of foreground and background of every pair."""
    result = []
    for i, k in PAIRS:
        cam = F.interpolate(1.5 * F.avg_pool2d(IMAGES, 2), (6, 8), mode="bilinear", align_corners=False)[
            i, [1, 2, 0][k]
        ]
        mask = (cam - cam.min()) / (cam.max() - cam.min() + eps)
        result.append((unit((mask * IMAGES[i]).mean((1, 2))), unit(((1 - mask) * IMAGES[i]).mean((1, 2)))))
    return result


def label(k: int) -> Tensor:
    return unit(WORDS[CLASSES[k]])


def by_hand_match() -> float:
    terms = [
        -math.log(cosine(f, label(k))) - 2.5 * math.log(1 - cosine(b, label(k)))
        for (f, b), (_, k) in zip(halves(0.3), PAIRS, strict=True)
    ]
    return sum(terms) / 3


def by_hand_refine() -> float:
    terms = [
        -math.log(1 - cosine(f, unit(LEARNED[k, 0, 0]))) for (f, _), (_, k) in zip(halves(0.3), PAIRS, strict=True)
    ]
    return sum(terms) / 3


def by_hand_prompts(term: str) -> float:
    terms = []
    for (_, b), (_, k) in zip(halves(0.02), PAIRS, strict=True):
        both = [unit(LEARNED[k, 0, 0] + x) for x in (0.0, 0.3)]  # the nearest of the two prompts counts
        back, own = (max(cosine(a, u) for u in both) for a in (b, label(k)))
        terms.append(-math.log(back) + 0.7 * (math.log(own) if term == "released" else -math.log(1 - own)))
    return sum(terms) / 3


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run a stage up to its training, which is kept instead of done: what was loaded, trained, batched, saved."""
    save_weights({"prompts": LEARNED}, tmp_path / prompts.WEIGHTS)

    def start(module: Any, changes: dict[str, Any] | None = None) -> Any:
        seen = SimpleNamespace(loaded=[], saved=[], clip=MeanColour(), generator=Stub(), scored=[], built=[])
        config = parse({**CONFIG.model_dump(mode="json"), **(changes or {})}, "wired")

        def train(name: str, model: nn.Module, loader: Any, *rest: Any) -> dict[str, float]:
            seen.name, seen.model, seen.loader = name, model, loader
            seen.settings, _, seen.losses, seen.out, _ = rest
            seen.training = seen.generator.training
            return {"background_cosine": 0.25, "label_cosine": 0.75}

        def load(config: Any, classes: int, folder: Path, device: str) -> Stub:
            seen.loaded.append((classes, folder))
            return seen.generator

        def build(config: Any, classes: int, initial: bool = False) -> Stub:
            seen.built.append((classes, initial))
            return seen.generator

        def batches(config: Config, data: Dataset, batch: int, only_crop_and_flip: bool = False) -> Any:
            return data, batch, only_crop_and_flip

        def score(generator: Any, config: Config, data: Dataset) -> dict[str, float]:
            seen.scored.append(generator)
            return {"cam_miou": 12.0}

        monkeypatch.setattr(generators, "load", load)
        monkeypatch.setattr(generators, "build", build)
        monkeypatch.setattr(generators, "save", lambda generator, out: seen.saved.append((generator, out)))
        for name, stand_in in (
            ("train", train), ("label_batches", batches), ("score_cams", score), ("load_clip", lambda *a: seen.clip),
        ):  # fmt: skip
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)
        inputs = {name: tmp_path / name for name in ("classify", "match")} | {"prompts": tmp_path}
        seen.metrics = module.run(config, DATA, inputs, tmp_path / "out", lambda *a, **k: None)
        return seen

    (tmp_path / "out").mkdir()
    return start


SPLIT = Split((), np.zeros((0, 3), bool), lambda i: np.zeros(0), lambda i: None, ())
DATA = Dataset(CLASSES, SPLIT, SPLIT, SPLIT, "")


def test_foreground_and_background_of_a_pair_are_the_cam_of_its_class_and_the_rest() -> None:
    v_f, v_b, k = cutouts.embed_cutouts(MeanColour(), Stub(), IMAGES, LABELS, 0.3)  # type: ignore[arg-type]
    assert k.tolist() == [k for _, k in PAIRS]
    for row, (f, b) in enumerate(halves(0.3)):
        assert torch.allclose(v_f[row], f, atol=1e-5) and torch.allclose(v_b[row], b, atol=1e-5)


def test_what_is_masked_out_is_the_mean_colour_and_both_halves_make_the_image() -> None:
    shown: list[Tensor] = []
    clip = SimpleNamespace(embed_images=lambda x: shown.append(x) or x)
    cutouts.embed_cutouts(clip, Stub(), IMAGES, LABELS, 1e-6)  # type: ignore[arg-type]
    fore, back = shown
    assert torch.allclose(fore + back, IMAGES[[0, 0, 1]])
    for row, (i, k) in enumerate(PAIRS):
        cam = F.interpolate(Stub()(IMAGES), (6, 8), mode="bilinear", align_corners=False)[i, k]
        low, high = divmod(int(cam.argmin()), 8), divmod(int(cam.argmax()), 8)
        assert not fore[row, :, *low].any() and torch.allclose(back[row, :, *high], torch.zeros(3), atol=1e-4)


def test_match_pulls_the_foreground_to_the_label_and_pushes_the_background_away(stage: Callable[..., Any]) -> None:
    seen = stage(match)
    assert seen.losses(IMAGES, LABELS)["loss"].item() == pytest.approx(by_hand_match(), rel=1e-4)


def test_refine_adds_that_the_foreground_is_not_what_the_prompt_describes(stage: Callable[..., Any]) -> None:
    terms = stage(refine).losses(IMAGES, LABELS)
    assert terms["match"].item() == pytest.approx(by_hand_match(), rel=1e-4)
    assert terms["refine"].item() == pytest.approx(by_hand_refine(), rel=1e-4)
    assert terms["loss"].item() == pytest.approx(by_hand_match() + 1.7 * by_hand_refine(), rel=1e-4)


@pytest.mark.parametrize("term", ["released", "paper"])
def test_prompts_come_to_the_background_and_leave_the_label(stage: Callable[..., Any], term: str) -> None:
    settings = {**CONFIG.prompts.model_dump(), "label_term": term}
    terms = stage(prompts, {"prompts": settings}).losses(IMAGES, LABELS)
    assert terms["loss"].item() == pytest.approx(by_hand_prompts(term), rel=1e-4)


def test_the_curves_of_prompts_say_what_they_are_near_to(stage: Callable[..., Any]) -> None:
    """background_cosine: of the pairs with their own prompts; label_cosine: of every class with its own."""
    seen = stage(prompts)
    terms = seen.losses(IMAGES, LABELS)
    both = [[unit(LEARNED[k, 0, 0] + x) for x in (0.0, 0.3)] for k in range(3)]
    near = [max(cosine(b, u) for u in both[k]) for (_, b), (_, k) in zip(halves(0.02), PAIRS, strict=True)]
    assert terms["background_cosine"].item() == pytest.approx(sum(near) / 3, rel=1e-4)
    own = [max(cosine(label(k), u) for u in both[k]) for k in range(3)]
    assert terms["label_cosine"].item() == pytest.approx(sum(own) / 3, rel=1e-4)
    assert seen.metrics == {"background_cosine": 0.25, "label_cosine": 0.75}


def test_classify_learns_the_labels_from_the_initial_weights(stage: Callable[..., Any]) -> None:
    seen = stage(classify)
    assert seen.built == [(3, True)] and seen.loaded == []
    assert seen.losses(IMAGES, LABELS)["loss"].item() == pytest.approx(10.5)
    assert seen.generator.labelled[0][0] is IMAGES and seen.generator.labelled[0][1] is LABELS


def soft_margin(scores: Tensor, labels: Tensor) -> float:
    """Of every image and class, by hand."""
    terms = []
    for score, wanted in zip(scores.flatten().tolist(), labels.flatten().tolist(), strict=True):
        share = 1 / (1 + math.exp(-score))
        terms.append(-wanted * math.log(share) - (1 - wanted) * math.log(1 - share))
    return sum(terms) / len(terms)


def test_the_cnn_is_right_about_labels_by_the_mean_of_its_cams() -> None:
    torch.manual_seed(0)
    cnn = generators.build(CnnConfig(), 3).eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        for head in cnn.heads:
            head.weight.mul_(20)
        assert cnn.label_loss(images, LABELS).item() == pytest.approx(
            soft_margin(cnn(images).mean((2, 3)), LABELS), rel=1e-4
        )


def test_weaktr_is_right_about_labels_by_its_tokens_and_both_its_cams() -> None:
    torch.manual_seed(0)
    weaktr = generators.build(WeakTrConfig(kind="weaktr", pretrained=False), 3).eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        weaktr.head.weight.mul_(50)
        tokens, patches, *_ = features = weaktr.features(images)
        coarse, fine = weaktr.head(patches), weaktr.cams(features)
        scores = (tokens.mean(2), coarse.mean((2, 3)), fine.mean((2, 3)))
        terms = [soft_margin(of_part, LABELS) for of_part in scores]
        assert (coarse < 0).any() and len({round(term, 3) for term in terms}) == 3
        assert weaktr.label_loss(images, LABELS).item() == pytest.approx(sum(terms), rel=1e-4)


def test_attention_of_weaktr_is_cut_from_the_graph() -> None:
    weaktr = generators.build(WeakTrConfig(kind="weaktr", pretrained=False), 3)
    tokens, patches, outputs, *attention = weaktr.features(torch.randn(1, 3, 32, 48))
    assert tokens.requires_grad and patches.requires_grad
    assert not outputs.requires_grad and not any(a.requires_grad for a in attention)


def test_prompts_of_clip_are_embedded_one_by_one() -> None:
    clip = load_clip(ClipConfig())
    tokens = clip.initial_prompts((3, 2, 4), "word")
    with torch.no_grad():
        together = clip.embed_prompts(tokens)
        for k, n in np.ndindex(3, 2):
            assert torch.allclose(together[k, n], clip.embed_prompts(tokens[k, n][None])[0], atol=1e-5)


BEGINS = {
    "match": (match, {}, "classify"),
    "refine": (refine, {}, "classify"),
    "refine from match": (refine, {"refine": {"start": "match"}}, "match"),
    "prompts": (prompts, {}, "match"),
}


@pytest.mark.parametrize("case", BEGINS)
def test_a_stage_begins_with_the_weights_that_the_method_says(
    stage: Callable[..., Any], tmp_path: Path, case: str
) -> None:
    module, changes, start = BEGINS[case]
    assert stage(module, changes).loaded == [(3, tmp_path / start)]


@pytest.mark.parametrize("module", [classify, match, refine], ids=lambda m: m.__name__.rpartition(".")[2])
def test_a_stage_trains_saves_and_scores_the_generator(stage: Callable[..., Any], tmp_path: Path, module: Any) -> None:
    seen = stage(module)
    name = module.__name__.rpartition(".")[2]
    assert seen.name == name and seen.model is seen.generator and seen.training
    assert seen.settings == getattr(CONFIG, name) and seen.out == tmp_path / "out"
    assert seen.loader == (DATA, getattr(CONFIG, name).batch, False)
    assert seen.saved == [(seen.generator, tmp_path / "out")] and seen.scored == [seen.generator]
    assert seen.metrics == {"cam_miou": 12.0}


def test_prompts_train_the_prompts_alone_on_crops_that_are_only_mirrored(
    stage: Callable[..., Any], tmp_path: Path
) -> None:
    seen = stage(prompts)
    assert seen.clip.asked == [((3, 2, 4), "word")] and seen.loader == (DATA, 5, True)
    (trained,) = seen.model.parameters()
    assert trained.shape == (3, 2, 4, 3) and trained.requires_grad
    assert not seen.training and not seen.generator.gain.requires_grad
    seen.losses(IMAGES, LABELS)["loss"].backward()
    assert trained.grad is not None and bool(trained.grad.any()) and seen.generator.gain.grad is None
    stored = load_weights(tmp_path / "out" / prompts.WEIGHTS)["prompts"]
    assert torch.equal(stored, trained)
    assert torch.equal(prompts.load_prompts(tmp_path / "out"), trained)


@pytest.mark.parametrize("module", [match, refine], ids=["match", "refine"])
def test_the_loss_reaches_the_generator(stage: Callable[..., Any], module: Any) -> None:
    seen = stage(module)
    terms = seen.losses(IMAGES, LABELS)
    terms["loss"].backward()
    assert float(seen.generator.gain.grad) != 0
    assert not any(terms[name].requires_grad for name in terms if name != "loss")


def test_the_proxy_praises_cut_outs_of_the_label_and_blames_those_of_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = np.random.default_rng(0).integers(130, 256, (2, 6, 8, 3)).astype(np.uint8)
    truth = np.zeros((2, 6, 8), np.uint8)
    truth[0, :3, :4], truth[0, 4:, 5:], truth[1, 2:5, 1:6], truth[1, 0] = 1, 3, 2, 255
    labels = np.array([[True, False, True], [False, True, False]])
    holdout = Split(("a", "b"), labels, pictures.__getitem__, lambda i: None, ())
    monkeypatch.setattr(proxy, "load_clip", lambda *a: MeanColour())
    got = proxy.agreement(CONFIG, Dataset(CLASSES, SPLIT, holdout, SPLIT, ""), LEARNED, truth.__getitem__)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scores = []
    for i, k in PAIRS:
        normal = (torch.from_numpy(pictures[i] / 255).float() - mean) / std
        mask = torch.from_numpy(truth[i] == k + 1)
        f, b = (unit((part.float()[..., None] * normal).mean((0, 1))) for part in (mask, ~mask))
        u = unit(LEARNED[k, 0, 0])
        scores.append(100 * (cosine(f, label(k)) - cosine(b, label(k)) - cosine(f, u) + cosine(b, u)))
    assert got == pytest.approx(sum(scores) / 3, abs=1e-3) and abs(got) > 0.5


def test_the_min_max_is_of_each_map_alone() -> None:
    maps = torch.tensor([[[[0.0, 2.0]], [[10.0, 30.0]]], [[[-4.0, 4.0]], [[7.0, 7.0]]]])
    assert torch.allclose(minmax(maps, 1.0), torch.tensor([[[[0, 2 / 3]], [[0, 20 / 21]]], [[[0, 8 / 9]], [[0, 0]]]]))
