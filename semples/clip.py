"""CLIP, frozen: embeddings of images, of class names and of learned prompts, through open_clip.

Any open_clip model name with any `pretrained` tag or local weights file works; `scenes-mini` is the miniature that
ships with the package. Gradient flows through the image tower to the pixels and through the text tower to the prompt,
never to the weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from semples.errors import UserError, nearest
from semples.images import IMAGENET_MEAN, IMAGENET_STD, channels
from semples.pretrained import MINIATURE, PRETRAINED, of_clip

if TYPE_CHECKING:
    from semples.config import ClipConfig

LABEL_TEMPLATE = "a photo of {}."


def register_miniature() -> None:
    """Make open_clip know the miniature's architecture by its name."""
    if MINIATURE not in open_clip.list_models():
        open_clip.add_model_config(PRETRAINED / f"{MINIATURE}.json")


class Clip(nn.Module):
    """Both towers behind the three embeddings that the method needs. All outputs are L2-normalised float32 rows."""

    def __init__(self, model: Any, tokenizer: open_clip.SimpleTokenizer, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.tokenizer = tokenizer
        size = model.visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        # images arrive normalised with ImageNet's figures; these turn them into what this CLIP was trained on
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", channels(IMAGENET_STD) / channels(std))
        self.register_buffer("shift", (channels(IMAGENET_MEAN) - channels(mean)) / channels(std))

    def embed_images(self, images: Tensor) -> Tensor:
        """v = E_I(X): normalised images (B, 3, h, w) -> (B, D). Resized to CLIP's own size where they differ."""
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bicubic", align_corners=False)
        images = (images * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.model.encode_image(images).float(), dim=1)

    @torch.no_grad()
    def embed_labels(self, names: Sequence[str]) -> Tensor:
        """t_k = E_T("a photo of {name}."): K names -> (K, D)."""
        tokens = self.tokenizer([LABEL_TEMPLATE.format(name) for name in names]).to(self.scale.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=1)

    @property
    def _token_embedding(self) -> nn.Embedding:
        text = getattr(self.model, "text", self.model)
        return text.token_embedding

    def embed_prompts(self, prompts: Tensor) -> Tensor:
        """u_k = E_T([SOT] "a photo of" p_1..p_L "." [EOT]): token embeddings (..., L, width) -> (..., D).

        Source: SemPLeS, Contrastive Prompt Learning. The text tower runs as it is; a hook on its token embedding puts
        the prompt in place of L placeholder tokens. Raises UserError if the prompt is longer than the tower allows.
        """
        *batch, length, width = prompts.shape
        before, after = self._template
        room = self.tokenizer.context_length - len(before) - len(after)
        if length > room:
            raise UserError(f"prompts.length {length} does not fit this CLIP's text tower; choose at most {room}")
        tokens = torch.zeros(1, self.tokenizer.context_length, dtype=torch.long, device=prompts.device)
        tokens[0, : len(before) + length + len(after)] = torch.tensor([*before, *[1] * length, *after])
        flat = prompts.reshape(-1, length, width)
        end = len(before) + length

        def splice(module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
            return torch.cat([embedded[:, : len(before)], flat.to(embedded.dtype), embedded[:, end:]], dim=1)

        hook = self._token_embedding.register_forward_hook(splice)
        try:
            embedded = self.model.encode_text(tokens.expand(len(flat), -1))
        finally:
            hook.remove()
        return F.normalize(embedded.float(), dim=1).reshape(*batch, -1)

    @property
    def _template(self) -> tuple[list[int], list[int]]:
        encode = self.tokenizer.encode
        # "." as it stands in labels: BPE token 269 ("." that ends a word), not 13
        return [self.tokenizer.sot_token_id, *encode("a photo of")], [*encode("."), self.tokenizer.eot_token_id]

    def initial_prompts(self, shape: tuple[int, ...], init: str) -> Tensor:
        """Token embeddings to start from, float32 (*shape, width); `init` as in PromptsConfig."""
        weight = self._token_embedding.weight.detach().float().cpu()
        noise = torch.empty(*shape, weight.shape[1])
        if init == "uniform":
            return noise.uniform_(0, 1)
        noise.normal_(0, float(weight.std()))
        if init == "word":
            (token,) = self.tokenizer.encode("background")
            return weight[token] + 0.1 * noise
        return noise

    def nearest_names(self, embeddings: Tensor, names: Sequence[str]) -> list[str]:
        """For each row of (K, D) the name whose label embedding has the highest cosine."""
        return [names[i] for i in (embeddings @ self.embed_labels(names).T).argmax(1).tolist()]


def load_clip(config: ClipConfig, device: str = "cpu") -> Clip:
    """Load an open_clip model, frozen, once for the runs of a process, and again where its weights file has changed.

    Raises UserError for an unknown model, an unknown tag or a weights file that is missing or does not fit.
    """
    file = of_clip(config)
    status = file.stat() if file else None
    return loaded(config, device, status and (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


@lru_cache(maxsize=2)
def loaded(config: ClipConfig, device: str, stamp: tuple[int, ...] | None) -> Clip:
    """The same; stamp: of the weights file, as it was last looked at."""
    register_miniature()
    name, pretrained = config.model, config.pretrained
    if name not in open_clip.list_models():
        raise UserError(f"clip.model '{name}' is not an open_clip model{nearest(name, open_clip.list_models())}")
    if "hf_tokenizer_name" in (open_clip.get_model_config(name) or {}).get("text_cfg", {}):
        raise UserError(f"clip.model '{name}' has a tokenizer of its own; prompts need a model with CLIP's BPE tokens")
    file = of_clip(config)
    pretrained = str(file or pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and pretrained not in tags and not file:
        known = ", ".join(tags) or "none"
        raise UserError(f"clip.pretrained '{pretrained}' is neither a weights file nor a tag of {name} (tags: {known})")
    config_of_tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained in tags else {}
    try:
        # open_clip draws initial weights first: that must not move the random stream of the stage that asks, and where
        # they are kept ("" = random) they must not depend on which stage that is
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = open_clip.create_model(
                name, pretrained=pretrained or None, force_quick_gelu=bool(config_of_tag.get("quick_gelu"))
            )
    except (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"clip.pretrained '{pretrained}' could not be loaded into {name}: {reason}") from None
    mean, std = (IMAGENET_MEAN, IMAGENET_STD)
    if config.normalise == "clip":
        mean, std = model.visual.image_mean or mean, model.visual.image_std or std
    return Clip(model, open_clip.get_tokenizer(name), mean, std).to(device)
