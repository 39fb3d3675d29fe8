"""What is used of timm beyond its documented functions, all of it here: parts of its augmentations and of its vision
transformer, which a later version may change. tests/test_timm_parts.py has a test of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn


def keep_a_bit(augmentation: Any) -> None:
    """Let no posterizing of a transform of `create_transform` keep 0 bits of a colour, as RandAugment asks for at its
    highest level: Pillow refuses that."""
    for step in augmentation.transforms:
        for op in (*getattr(step, "ops", ()), *(op for ops in getattr(step, "policy", ()) for op in ops)):
            if op.name.startswith("Posterize"):
                op.level_fn = partial(_at_least_one, op.level_fn)


def _at_least_one(level: Callable[..., tuple[int]], *args: Any) -> tuple[int]:
    return (max(1, level(*args)[0]),)


def is_plain_transformer(body: Any) -> bool:
    """Whether a network is a vision transformer with one class token and learned positions for it and all patches."""
    return (
        isinstance(body, VisionTransformer)
        and body.num_prefix_tokens == 1
        and body.cls_token is not None
        and body.pos_embed is not None
        and not body.no_embed_class
    )


def give_class_tokens(body: Any, classes: int) -> None:
    """Make of the class token of a plain transformer one a class, each with a position, all copies of the only one; the
    last norm is left out, and attention is computed where its maps can be seen."""
    body.cls_token = nn.Parameter(body.cls_token.detach().repeat(1, classes, 1))
    positions = body.pos_embed.detach()
    body.pos_embed = nn.Parameter(torch.cat([positions[:, :1].repeat(1, classes, 1), positions[:, 1:]], 1))
    body.num_prefix_tokens = classes
    body.norm = nn.Identity()
    for block in body.blocks:
        block.attn.fused_attn = False  # the fused kernel does not show its attention maps


def attention_heads(body: Any) -> int:
    """The number of heads in each layer of a transformer."""
    return int(body.blocks[0].attn.num_heads)


@contextmanager
def attention_of(body: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Two lists into which every layer puts, while the transformer runs, its attention maps (B, heads, T, T) and the
    output of its attention (B, T, D), both cut from the graph."""
    maps: list[Tensor] = []
    outputs: list[Tensor] = []
    hooks = []
    for block in body.blocks:
        dropout, layer = block.attn.attn_drop, block.attn
        hooks.append(dropout.register_forward_hook(lambda _, args, out: maps.append(args[0].detach())))
        hooks.append(layer.register_forward_hook(lambda _, args, out: outputs.append(out.detach())))
    try:
        yield maps, outputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def start_like_a_trained_one(model: Any) -> None:
    """Give a vision transformer initial weights with which patches attend to patches like them and near them, as in
    those trained for long: without that, the attention of one trained for minutes is a blur, and WeakTr's maps with it.

    Wq Wk^T = 0.7 Z + 0.7 I, Wv Wproj = 0.4 Z - 0.4 I with Z normal of variance 1 / width, and sinusoidal positions.
    Source: Mimetic initialization of self-attention layers (arXiv 2305.09828).
    """
    width = model.embed_dim
    for block in model.blocks:
        qkv, of_head = block.attn.qkv.weight, width // block.attn.num_heads
        for start in range(0, width, of_head):
            u, s, v = torch.linalg.svd(0.7 * torch.randn(width, width) / math.sqrt(width) + 0.7 * torch.eye(width))
            root = s[:of_head].sqrt()
            qkv[start : start + of_head] = (u[:, :of_head] * root).T
            qkv[width + start : width + start + of_head] = v[:of_head] * root[:, None]
        u, s, v = torch.linalg.svd(0.4 * torch.randn(width, width) / math.sqrt(width) - 0.4 * torch.eye(width))
        qkv[2 * width :] = v * s.sqrt()[:, None]
        block.attn.proj.weight.copy_(u * s.sqrt())
    positions = build_sincos2d_pos_embed(list(model.patch_embed.grid_size), width, temperature=100.0)
    model.pos_embed[:, 1:] = 0.7 * positions.reshape(1, -1, width)
