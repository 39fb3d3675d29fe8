"""Foreground and background of every (image, class) pair, as CLIP is shown them."""

from __future__ import annotations

from torch import Tensor

from semples.clip import Clip
from semples.generators import Generator
from semples.images import enlarge, minmax


def embed_cutouts(
    clip: Clip, generator: Generator, images: Tensor, labels: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """v_f = E_I(M_k * X) and v_b = E_I((1 - M_k) * X) of the P positive pairs of a batch.

    M_k is the min-max of the enlarged CAM; eps as in MatchConfig and PromptsConfig.
    images (B, 3, h, w) normalised, so that a masked-out pixel is 0 = the mean colour; labels (B, K) in {0, 1}.
    Returns v_f (P, D), v_b (P, D) and the pairs' classes k, int64 (P,).
    """
    image, k = labels.nonzero(as_tuple=True)
    masks = minmax(enlarge(generator(images).float(), images.shape[2:]), eps)[image, k].unsqueeze(1)
    x = images[image]
    return clip.embed_images(masks * x), clip.embed_images((1 - masks) * x), k
