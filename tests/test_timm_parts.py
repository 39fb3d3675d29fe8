"""What is used of timm beyond its documented functions is as it was: one test of each."""

from __future__ import annotations

import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import auto_augment, create_transform

from semples.generators.backbone import SCENES_VIT, create_model
from semples.timm_parts import (
    attention_heads,
    attention_of,
    give_class_tokens,
    is_plain_transformer,
    keep_a_bit,
    start_like_a_trained_one,
)

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 0}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


@pytest.mark.parametrize("policy", ["rand-m10-n9-inc1", "rand-m10-n9-mstd101-inc1", "rand-m0-n9", "v0r"])
def test_no_policy_asks_pillow_for_0_bits(policy: str) -> None:
    augmentation = create_transform(16, is_training=True, auto_augment=policy)
    before = dict(auto_augment.LEVEL_TO_ARG)
    keep_a_bit(augmentation)
    assert before == auto_augment.LEVEL_TO_ARG  # which is everybody's in this process
    (step,) = [one for one in augmentation.transforms if hasattr(one, "ops") or hasattr(one, "policy")]
    ops = [*getattr(step, "ops", ()), *(op for ops in getattr(step, "policy", ()) for op in ops)]
    kept = [op.level_fn(level, {})[0] for op in ops if op.name.startswith("Posterize") for level in range(11)]
    assert kept and min(kept) == 1 and max(kept) >= 4
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    random.seed(0)
    for _ in range(100):
        assert step(image).size == (16, 16)


@pytest.mark.parametrize(
    ("name", "args", "plain"),
    [
        ("vit_tiny_patch16_224", {}, True),
        ("vit_tiny_patch16_224", {"reg_tokens": 1}, False),
        ("vit_tiny_patch16_224", {"no_embed_class": True}, False),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, False),
        ("vit_tiny_patch16_224", {"pos_embed": "none"}, False),
        ("resnet10t", None, False),
    ],
)
def test_a_plain_transformer_is_told_from_others(name: str, args: dict[str, object] | None, plain: bool) -> None:
    body = timm.create_model(name, **({} if args is None else {**SMALL, **args}))
    assert is_plain_transformer(body) == plain


def test_class_tokens_are_copies_of_the_only_one() -> None:
    body = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    token, position = body.cls_token.detach().clone(), body.pos_embed.detach().clone()
    give_class_tokens(body, 5)
    assert torch.equal(body.cls_token, token.expand(1, 5, 12))
    assert torch.equal(body.pos_embed[:, :5], position[:, :1].expand(1, 5, 12))
    assert torch.equal(body.pos_embed[:, 5:], position[:, 1:])
    tokens = body.forward_features(IMAGES)
    assert tokens.shape == (2, 5 + 4, 12) and torch.allclose(tokens[:, :1].expand(2, 5, 12), tokens[:, :5], atol=1e-6)


def test_attention_is_seen_layer_by_layer() -> None:
    """The maps, times the values that a layer makes of its input, projected, are what the layer puts out."""
    body = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    give_class_tokens(body, 2)
    assert attention_heads(body) == 3
    entered = []
    hooks = [b.attn.register_forward_hook(lambda _, args, out: entered.append(args[0])) for b in body.blocks]
    with attention_of(body) as (maps, outputs):
        body.forward_features(IMAGES)
    for hook in hooks:
        hook.remove()
    assert len(maps) == len(outputs) == 2 and not any(one.requires_grad for one in (*maps, *outputs))
    for block, x, attention, output in zip(body.blocks, entered, maps, outputs, strict=True):
        assert attention.shape == (2, 3, 6, 6) and torch.allclose(attention.sum(-1), torch.ones(2, 3, 6), atol=1e-5)
        values = block.attn.qkv(x)[..., 24:].unflatten(2, (3, 4)).transpose(1, 2)
        mixed = (attention @ values).transpose(1, 2).flatten(2)
        assert torch.allclose(block.attn.proj(mixed), output, atol=1e-5)
    body.forward_features(IMAGES)
    assert len(maps) == 2  # nobody listens any more


def test_patches_attend_to_what_is_like_them_from_the_start() -> None:
    torch.manual_seed(0)
    body = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "img_size": 64, "embed_dim": 64, "num_heads": 1})
    start_like_a_trained_one(body)
    query, key, value = body.blocks[0].attn.qkv.weight.detach().chunk(3)
    like, other = query.T @ key, value.T @ body.blocks[0].attn.proj.weight.detach().T
    assert float(like.diagonal().mean()) == pytest.approx(0.7, abs=0.05)
    assert float(other.diagonal().mean()) == pytest.approx(-0.4, abs=0.05)
    patches = body.pos_embed[0, 1:].detach()
    assert (patches @ patches.T).argmax(1).tolist() == [*range(len(patches))]


def test_the_small_transformer_of_the_scenes_has_its_own_weights() -> None:
    body = create_model(SCENES_VIT, pretrained=True, num_classes=0)
    again = create_model(SCENES_VIT, pretrained=True, num_classes=0)
    assert body.patch_embed.grid_size == (16, 16) and len(body.blocks) == 4 and body.embed_dim == 64
    assert torch.equal(body.blocks[0].attn.qkv.weight, again.blocks[0].attn.qkv.weight)
    assert not timm.is_model(SCENES_VIT)  # nothing was added to timm for everybody in this process
