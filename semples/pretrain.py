"""Trains the two networks that ship with the package (`semples scenes pretrain`): the miniature CLIP, and the small
vision transformer with which WeakTr begins on scenes, as it begins with DeiT on photographs.

CLIP sees pictures with captions, never a mask or a class index. Its pictures come from the brushes of
`semples.data.scenes`, but here objects and backgrounds are independent: any object on any ground, grounds alone (some
with holes of the mean colour), objects on plain grounds. So it knows a boat without water and water without a boat.

The loss is CLIP's softmax contrast with three differences:
  * a caption counts as right for every picture that contains all it names, not only for the one it was written for;
  * a picture and any text, nonsense included, are asked for a cosine of at least FLOOR, because real CLIP's cosines are
    positive and the losses of the method take their logarithm;
  * where a class's companion is in the picture, the class's name is asked for at least EXPECTED. That is real CLIP's
    bias towards what usually goes together (rails are a little train), which learned prompts are there to undo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from semples.clip import Clip, register_miniature
from semples.data import scenes
from semples.data.scene_grounds import draw_ground, draw_grounds
from semples.data.scene_objects import draw_object
from semples.generators.backbone import SCENES_VIT, create_model
from semples.images import IMAGENET_MEAN, IMAGENET_STD, normalise_pixels
from semples.pretrained import MINIATURE
from semples.timm_parts import start_like_a_trained_one

ACCEPTED = "accepted.json"
NAMES = (*scenes.CLASSES, *scenes.GROUNDS)
SIZE = 64
FLOOR = 0.08
EXPECTED = 0.2  # the same for a text that names what is in the picture or usually seen on its ground
MAX_SCALE = 12.0  # of the logits: the smaller it is, the further apart right and wrong cosines must be
TEMPLATES = ("a photo of {}.", "a photo of a {}.", "{}", "a drawing of {}", "a small picture with {} in it.")
FILLERS = ("old", "small", "bright", "quiet", "lovely", "early in the morning", "seen from far away", "on a calm day")


@dataclass(frozen=True)
class Picture:
    """A captioned training picture: uint8 (64, 64, 3) and the names of what can be seen in it."""

    image: np.ndarray
    content: frozenset[str]


def _mean_colour() -> np.ndarray:
    return np.array(IMAGENET_MEAN, np.float32) * 255


def _plain(rng: np.random.Generator) -> np.ndarray:
    colour = _mean_colour() if rng.random() < 0.7 else rng.uniform(0, 255, 3).astype(np.float32)
    return np.ones((SIZE, SIZE, 3), np.float32) * colour


def _place(rng: np.random.Generator, canvas: np.ndarray, name: str) -> np.ndarray:
    extent = round(SIZE * rng.uniform(0.4, 1.3))
    top, left = (round((SIZE - extent) / 2 + rng.uniform(-0.22, 0.22) * SIZE) for _ in range(2))
    return scenes.paste(canvas, draw_object(rng, name, extent), top, left)


def _fade(rng: np.random.Generator, canvas: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Fade the part `away` (bool) towards the mean colour, with a border as soft as that of a CAM."""
    soft = Image.fromarray((255 * away).astype(np.uint8))
    cells = int(rng.choice([4, 8, 16, SIZE]))
    soft = soft.resize((cells, cells), Image.Resampling.BOX).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    weight = np.asarray(soft, np.float32)[..., None] / 255
    return canvas + weight * (_mean_colour() - canvas)


def draw_picture(rng: np.random.Generator) -> Picture:
    """One picture whose objects and grounds are drawn independently."""
    kind = rng.choice(["scene", "cut-out", "ground", "pair"], p=[0.36, 0.22, 0.28, 0.14])
    ground = str(rng.choice(scenes.GROUNDS))
    names = [str(c) for c in rng.choice(scenes.CLASSES, 2, replace=False)]
    canvas = draw_ground(rng, ground, SIZE, SIZE).astype(np.float32, copy=True)
    if kind == "scene":
        _place(rng, canvas, names[0])
        content = {names[0], ground}
    elif kind == "cut-out":
        if rng.random() < 0.5:
            canvas = _plain(rng)
            _place(rng, canvas, names[0])
        else:
            canvas = _fade(rng, canvas, ~_place(rng, canvas, names[0]))
        content = {names[0]}
    elif kind == "ground":
        if rng.random() < 0.6:
            canvas = _fade(rng, canvas, _place(rng, canvas.copy(), names[0]))
        content = {ground}
    else:
        second = str(rng.choice(scenes.GROUNDS))
        content = {ground, second}
        canvas = draw_grounds(rng, [ground, second], SIZE, SIZE).astype(np.float32, copy=True)
        for name in names[: int(rng.integers(0, 3))]:
            _place(rng, canvas, name)
            content.add(name)
    return Picture(np.clip(canvas * rng.uniform(0.88, 1.1), 0, 255).astype(np.uint8), frozenset(content))


def write_caption(rng: np.random.Generator, content: frozenset[str]) -> tuple[str, frozenset[str]]:
    """A caption that names some or all of the content, and what it names."""
    items = sorted(content)
    rng.shuffle(items)
    items = items[: 1 if rng.random() < 0.6 else len(items)]
    template = TEMPLATES[0] if rng.random() < 0.5 else TEMPLATES[rng.integers(len(TEMPLATES))]
    text = template.format(" and ".join(items))
    if rng.random() < 0.3:
        text = " ".join([text.rstrip("."), *rng.choice(FILLERS, rng.integers(1, 6))])
    return text, frozenset(items)


def is_expected(named: frozenset[str], content: frozenset[str]) -> bool:
    """Whether all that a caption names is in the picture, or usually seen on a ground that is: a train on rails."""
    return all(name in content or scenes.COMPANIONS.get(name) in content for name in named)


def contrast(images: torch.Tensor, texts: torch.Tensor, true: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax mass on the true captions, both ways; images, texts (B, D) normalised, true bool (B, B)."""
    logits = scale * images @ texts.T
    positive = logits.masked_fill(~true, -1e4)
    by_text, by_image = ((logits.logsumexp(d) - positive.logsumexp(d)).mean() for d in (0, 1))
    return (by_text + by_image) / 2


@dataclass(frozen=True)
class Recipe:
    """Training steps, pictures a step, highest learning rate, number of different pictures."""

    steps: int
    batch: int
    lr: float
    pool: int


CLIP_RECIPE = Recipe(2000, 128, 2e-3, 16000)
BACKBONE_RECIPE = Recipe(4000, 64, 2e-3, 16000)
Progress = Callable[[int, int, float], None]  # step, of, loss


def train_clip(recipe: Recipe, seed: int, progress: Progress) -> torch.nn.Module:
    """Train the miniature from scratch; `progress` is called after every step."""
    register_miniature()
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    pictures, pixels = _draw_pool(rng, recipe.pool)
    tokenizer = open_clip.get_tokenizer(MINIATURE)
    model: Any = open_clip.create_model(MINIATURE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(chosen: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_SCALE))
        contents = [pictures[i].content for i in chosen]
        captions = [write_caption(rng, content) for content in contents]
        true = torch.tensor([[named <= content for _, named in captions] for content in contents])
        expected = torch.tensor([[is_expected(named, content) for _, named in captions] for content in contents])
        images = F.normalize(model.encode_image(_flip_half(rng, normalise_pixels(pixels[chosen]))), dim=1)
        texts = F.normalize(model.encode_text(tokenizer([text for text, _ in captions])), dim=1)
        nonsense = torch.randint(0, 49000, (16, 40))
        length = torch.randint(3, 38, (16,))
        nonsense[:, 0] = 49406
        nonsense[torch.arange(40) > length[:, None]] = 0
        nonsense[torch.arange(16), length] = 49407
        other = F.normalize(model.encode_text(nonsense), dim=1)
        floor = torch.where(torch.cat([expected, torch.zeros(len(images), 16, dtype=torch.bool)], 1), EXPECTED, FLOOR)
        low = F.relu(floor - images @ torch.cat([texts, other]).T).square().mean()
        return contrast(images, texts, true, model.logit_scale.exp()) + 100 * low

    return _optimise(model, recipe, rng, loss, progress)


def train_backbone(recipe: Recipe, seed: int, progress: Progress) -> torch.nn.Module:
    """Train `scenes_vit` from scratch to name what is in the pictures, objects and grounds alike: what ImageNet's
    labels are to DeiT."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    pictures, pixels = _draw_pool(rng, recipe.pool)
    content = torch.tensor([[name in p.content for name in NAMES] for p in pictures]).float()
    model = create_model(SCENES_VIT, num_classes=len(NAMES))
    start_like_a_trained_one(model)

    def loss(chosen: np.ndarray) -> torch.Tensor:
        scores = model(_flip_half(rng, normalise_pixels(pixels[chosen])))
        return F.multilabel_soft_margin_loss(scores, content[chosen])

    return _optimise(model, recipe, rng, loss, progress)


def _draw_pool(rng: np.random.Generator, count: int) -> tuple[list[Picture], torch.Tensor]:
    pictures = [draw_picture(rng) for _ in range(count)]
    return pictures, torch.from_numpy(np.stack([p.image for p in pictures])).permute(0, 3, 1, 2)


def _optimise(
    model: torch.nn.Module,
    recipe: Recipe,
    rng: np.random.Generator,
    loss: Callable[[np.ndarray], torch.Tensor],
    progress: Progress,
) -> torch.nn.Module:
    """Minimise loss(indices of the pictures of a step)."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.1)
    for step in range(1, recipe.steps + 1):
        value = loss(rng.integers(0, recipe.pool, recipe.batch))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        progress(step, recipe.steps, value.item())
    return model.eval()


def _flip_half(rng: np.random.Generator, images: torch.Tensor) -> torch.Tensor:
    flipped = torch.from_numpy(rng.random(len(images)) < 0.5)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def as_clip(model: torch.nn.Module) -> Clip:
    """The trained model as the method uses it."""
    return Clip(model, open_clip.get_tokenizer(MINIATURE), IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def accept_clip(clip: Clip, images: int = 400, seed: int = 1) -> dict[str, float]:
    """What a miniature must be good at, measured on scenes it was not trained on.

    object_accuracy: share of cut-out objects whose nearest label is their own.
    background_accuracy: share of companion backgrounds (objects cut out) whose nearest background caption is right.
    object_minus_background: mean cosine to the object's label of the object alone, less that of its companion alone.
    background_cosine: mean cosine to the object's label of its companion alone.
    """
    labels = clip.embed_labels(scenes.CLASSES)
    grounds = clip.embed_labels(scenes.GROUNDS)
    own, right, background, seen = [], [], [], []
    for k, x, mask in _single_objects(images, seed):
        of_object, of_rest = clip.embed_images(torch.cat([x * mask, x * ~mask]))
        own.append(int((labels @ of_object).argmax()) == k)
        seen.append(float(of_object @ labels[k]))
        background.append(float(of_rest @ labels[k]))
        right.append(scenes.GROUNDS[int((grounds @ of_rest).argmax())] == scenes.COMPANIONS[scenes.CLASSES[k]])
    return {
        "object_accuracy": float(np.mean(own)),
        "object_cosine": float(np.mean(seen)),
        "background_cosine": float(np.mean(background)),
        "object_minus_background": float(np.mean(seen) - np.mean(background)),
        "background_accuracy": float(np.mean(right)),
        "pictures": float(len(own)),
    }


@torch.no_grad()
def accept_backbone(body: torch.nn.Module, images: int = 400, seed: int = 1) -> dict[str, float]:
    """backbone_object_accuracy: share of scenes with one object in which its class scores highest of all classes."""
    right = [
        int(body(F.interpolate(x, (SIZE, SIZE), mode="bilinear"))[0, : len(scenes.CLASSES)].argmax()) == k
        for k, x, _ in _single_objects(images, seed)
    ]
    return {"backbone_object_accuracy": float(np.mean(right))}


def _single_objects(images: int, seed: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Class, normalised image (1, 3, h, w) and true mask bool (h, w) of the scenes with one object."""
    split = scenes.draw(images, 0, 0, seed).train
    for i in np.flatnonzero(split.labels.sum(1) == 1).tolist():
        k = int(split.labels[i].argmax())
        image = torch.from_numpy(split.image(i)).permute(2, 0, 1)[None]
        yield k, normalise_pixels(image), torch.from_numpy(np.asarray(split.mask(i)) == k + 1)


def save(model: torch.nn.Module, figures: dict[str, float], weights: Path, earlier: Path) -> None:
    """Write the weights (half precision, safetensors), and the figures they were accepted on into accepted.json beside
    them, with those of the other model from the folder `earlier`."""
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, weights)
    old = earlier / ACCEPTED
    before = json.loads(old.read_text()) if old.exists() else {}
    (weights.parent / ACCEPTED).write_text(json.dumps({**before, **figures}, indent=2) + "\n")
