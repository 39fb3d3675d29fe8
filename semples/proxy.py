"""A score for masks that needs no true mask: what CLIP sees in what they cut out (`selection: proxy`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semples.clip import load_clip
from semples.images import normalise_pixels
from semples.losses import similarity

if TYPE_CHECKING:
    from semples.config import Config
    from semples.data.dataset import Dataset


@torch.no_grad()
def agreement(config: Config, data: Dataset, prompts: Tensor, mask: Callable[[int], np.ndarray]) -> float:
    """How well the masks of the holdout's images agree with CLIP, the higher the better; -200 to 200.

    For every pair of an image and a label k of it: 100 (s(v_f, t_k) - s(v_b, t_k) - s(v_f, u_k) + s(v_b, u_k)), the
    mean over the pairs: the cut-out looks like the label and unlike the learned prompts, the rest the other way round.
    Ours, of the terms of SemPLeS's losses (arXiv 2401.11791). No true mask is looked at.

    prompts: the learned ones, float32 (K, count, length, width). mask(i): the mask to judge, uint8 (h, w) in 0..K and
    255.
    """
    device = config.runtime.device
    clip = load_clip(config.clip, device)
    t, u = clip.embed_labels(data.classes), clip.embed_prompts(prompts.to(device))
    scores = []
    for i in range(len(data.holdout)):
        pixels = torch.from_numpy(data.holdout.image(i).copy()).permute(2, 0, 1)[None].to(device)
        image, k = normalise_pixels(pixels), np.flatnonzero(data.holdout.labels[i])
        cut = torch.from_numpy(mask(i)[None] == 1 + k[:, None, None]).to(device).unsqueeze(1)
        v_f, v_b = clip.embed_images(cut * image), clip.embed_images(~cut * image)
        label, companion = (similarity(v_f, e[k]) - similarity(v_b, e[k]) for e in (t, u))
        scores.append(100 * (label - companion))
    return float(torch.cat(scores).mean())
