"""The losses of SemPLeS (arXiv 2401.11791), equation by equation.

All take L2-normalised embeddings, one row for each pair of an image and a class that is in it, and return the mean over
the pairs. s(a, b) is the raw cosine, clamped to [1e-4, 1 - 1e-4].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

CLAMP = 1e-4


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """s(a, b): cosine of rows a (P, D) with b (P, D), or with the nearest of a set b (P, n, D); (P,), clamped."""
    cosines = (a.unsqueeze(1) * (b if b.ndim == 3 else b.unsqueeze(1))).sum(-1)
    return cosines.amax(1).clamp(CLAMP, 1 - CLAMP)


def match_loss(v_f: Tensor, v_b: Tensor, t: Tensor, lambda_b: float) -> Tensor:
    """L_match = -log s(v_f, t_k) - lambda_b * log(1 - s(v_b, t_k)): the foreground is the class, the background not."""
    return (-torch.log(similarity(v_f, t)) - lambda_b * torch.log(1 - similarity(v_b, t))).mean()


def prompt_loss(
    v_b: Tensor, u: Tensor, t: Tensor, lambda_t: float, label_term: Literal["released", "paper"] = "released"
) -> Tensor:
    """L_prompt = -log s(v_b, u_k) + lambda_T * log s(t_k, u_k): the prompt is the background and not the class.

    label_term "paper" has -lambda_T * log(1 - s(t_k, u_k)) as its second term.
    """
    label = similarity(t, u)
    away = torch.log(label) if label_term == "released" else -torch.log(1 - label)
    return (-torch.log(similarity(v_b, u)) + lambda_t * away).mean()


def refine_loss(v_f: Tensor, u: Tensor) -> Tensor:
    """L_refine = -log(1 - s(v_f, u_k)): the foreground has nothing of the background that the prompt describes."""
    return -torch.log(1 - similarity(v_f, u)).mean()
