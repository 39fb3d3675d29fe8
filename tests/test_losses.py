"""The losses against equations worked out by hand, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from semples.clip import load_clip
from semples.config import ClipConfig, CnnConfig
from semples.generators import build
from semples.images import enlarge, minmax
from semples.losses import match_loss, prompt_loss, refine_loss, similarity
from semples.stages.cutouts import embed_cutouts


def unit(*angles: float) -> torch.Tensor:
    """Unit vectors in the plane: the cosine of two of them is the cosine of the difference of their angles."""
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles], dtype=torch.float64)


def test_match_loss_by_hand() -> None:
    # s(v_f, t) = cos 60 = 0.5, s(v_b, t) = cos 60 = 0.5 and second pair cos 0 -> clamped, cos 90 = 0 -> clamped
    t, v_f, v_b = unit(0, 0), unit(math.pi / 3, 0), unit(math.pi / 3, math.pi / 2)
    first = -math.log(0.5) - 2.4 * math.log(0.5)
    second = -math.log(1 - 1e-4) - 2.4 * math.log(1 - 1e-4)
    assert match_loss(v_f, v_b, t, 2.4).item() == pytest.approx((first + second) / 2)


def test_match_loss_gradient_by_hand() -> None:
    # by the angle a of v_f: d/da -log cos a = tan a; by b of v_b: d/db -L log(1 - cos b) = -L sin b / (1 - cos b)
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    v_f = torch.stack([a.cos(), a.sin()])[None]
    v_b = torch.stack([b.cos(), b.sin()])[None]
    match_loss(v_f, v_b, unit(0), 3.0).backward()
    assert a.grad is not None and b.grad is not None
    assert a.grad.item() == pytest.approx(math.tan(0.7))
    assert b.grad.item() == pytest.approx(-3.0 * math.sin(1.1) / (1 - math.cos(1.1)))


def test_prompt_loss_by_hand() -> None:
    v_b, u, t = unit(0.3), unit(0.0), unit(1.0)
    released = -math.log(math.cos(0.3)) + 0.02 * math.log(math.cos(1.0))
    paper = -math.log(math.cos(0.3)) - 0.02 * math.log(1 - math.cos(1.0))
    assert prompt_loss(v_b, u, t, 0.02).item() == pytest.approx(released)
    assert prompt_loss(v_b, u, t, 0.02, "paper").item() == pytest.approx(paper)


def test_prompt_loss_pulls_to_the_background_and_away_from_the_label() -> None:
    angle = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    u = torch.stack([angle.cos(), angle.sin()])[None]
    prompt_loss(unit(0.1), u, unit(1.2), 0.5).backward()
    # d/da [-log cos(a - 0.1) + 0.5 log cos(1.2 - a)] = tan(a - 0.1) + 0.5 tan(1.2 - a)
    assert angle.grad is not None
    assert angle.grad.item() == pytest.approx(math.tan(0.4) + 0.5 * math.tan(0.7))


def test_refine_loss_by_hand() -> None:
    assert refine_loss(unit(0.8), unit(0.0)).item() == pytest.approx(-math.log(1 - math.cos(0.8)))


def test_a_set_of_prompts_counts_as_its_nearest() -> None:
    u = torch.stack([unit(0.2, 0.9, 1.4)])  # one class, three prompts
    assert similarity(unit(1.0), u).item() == pytest.approx(math.cos(0.1))
    assert refine_loss(unit(1.0), u).item() == pytest.approx(-math.log(1 - math.cos(0.1)))


def test_opposite_vectors_give_a_finite_loss() -> None:
    assert match_loss(unit(math.pi), unit(0), unit(0), 1.0).item() == pytest.approx(-2 * math.log(1e-4))


def test_soft_masks_are_min_max_of_each_map() -> None:
    cams = torch.tensor([[[[0.0, 1.0], [3.0, 4.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    masks = minmax(enlarge(cams, (2, 2)), 0.1)
    assert torch.allclose(masks[0, 0], torch.tensor([[0.0, 1.0], [3.0, 4.0]]) / 4.1)
    assert torch.equal(masks[0, 1], torch.zeros(2, 2))


def test_only_what_a_stage_trains_gets_gradient() -> None:
    clip = load_clip(ClipConfig())
    generator = build(CnnConfig(), 8)
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 8)
    labels[0, 1] = labels[1, 2] = labels[1, 5] = 1
    v_f, v_b, k = embed_cutouts(clip, generator, images, labels, 0.1)
    assert k.tolist() == [1, 2, 5] and v_f.shape == v_b.shape == (3, 128)
    match_loss(v_f, v_b, clip.embed_labels([str(i) for i in range(8)])[k], 2.4).backward()
    assert all(p.grad is None for p in clip.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.heads.parameters())

    prompts = nn.Parameter(clip.initial_prompts((8, 2, 4), "uniform"))
    u = clip.embed_prompts(prompts)
    prompt_loss(v_b.detach(), u[k], clip.embed_labels([str(i) for i in range(8)])[k], 0.02).backward()
    assert all(p.grad is None for p in clip.parameters())
    assert prompts.grad is not None
    touched = prompts.grad.abs().sum((1, 2, 3)) > 0
    assert touched.nonzero().ravel().tolist() == [1, 2, 5]
