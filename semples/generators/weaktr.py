"""WeakTr (arXiv 2304.01184): plain vision transformer, one class token a class, adaptive attention fusion."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semples.errors import UserError
from semples.generators.backbone import create_backbone
from semples.timm_parts import attention_heads, attention_of, give_class_tokens, is_plain_transformer

if TYPE_CHECKING:
    from semples.config import WeakTrConfig

# Names in the official checkpoint and here. An official head of attention is cut out of its layer's output as every
# H-th channel, and heads are counted before layers; `WeakTr.features` does the same, so that its weights fit.
OFFICIAL_NAMES = {
    "adaptive_attention_fusion.attn_feat_ffn.0.": "fusion.describe.0.",
    "adaptive_attention_fusion.attn_feat_ffn.1.": "fusion.describe.1.",
    "adaptive_attention_fusion.attn_head_ffn.0.": "fusion.weigh.0.",
    "adaptive_attention_fusion.attn_head_ffn.2.": "fusion.weigh.2.",
    "head.": "head.",
    "": "body.",
}
UNUSED = "norm."  # the transformer's last norm, which the official network carries along but does not use


class Fusion(nn.Module):
    """Adaptive attention fusion: a weight in (0, 1) for each of n attention maps, from what their heads put out."""

    def __init__(self, heads: int, width: int, reduction: int, pool: str):
        super().__init__()
        self.pool = pool
        self.describe = nn.Sequential(nn.Linear(width, width // 8), nn.Linear(width // 8, 1))
        inner = max(1, heads // reduction)
        self.weigh = nn.Sequential(
            nn.Linear(heads, inner, bias=False), nn.ReLU(), nn.Linear(inner, heads, bias=False), nn.Sigmoid()
        )

    def forward(self, outputs: Tensor) -> Tensor:
        """Outputs O of the heads, (B, n, T tokens, width) -> w (B, n)."""
        pooled = outputs.amax(2) if self.pool == "max" else outputs.mean(2)
        return self.weigh(self.describe(pooled).squeeze(-1))


class WeakTr(nn.Module):
    """CAM_fine = Aff . (Cross * ReLU(conv(patch tokens))) on the grid of patches.

    Cross = mean_i w_i A_i[class -> patch] and Aff = mean_i w_i A_i[patch -> patch] over the n attention maps A_i of all
    layers and heads, w from `Fusion`. A_i and the heads' outputs are cut from the graph. The score of the coarse CAM is
    its mean before the ReLU, as in the official code. After classify only the convolution and the fusion are trained.
    Images are resized to whole patches.
    """

    def __init__(self, config: WeakTrConfig, classes: int, initial: bool):
        super().__init__()
        pretrained = initial and config.pretrained and not config.weights
        body = create_backbone(config.backbone, pretrained, {"num_classes": 0, "dynamic_img_size": True}, config.args)
        if not is_plain_transformer(body):
            raise UserError(
                f"generator.backbone '{config.backbone}' is no plain vision transformer with a class token and learned "
                "positions; take deit_small_patch16_224 or another ViT of timm"
            )
        give_class_tokens(body, classes)
        self.body, self.classes = body, classes
        self.heads = attention_heads(body)
        self.head = nn.Conv2d(body.embed_dim, classes, 3, padding=1)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        self.fusion = Fusion(self.heads * len(body.blocks), body.embed_dim // self.heads, config.reduction, config.pool)
        if initial and config.weights:
            self._load_official(Path(config.weights).expanduser())

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Class tokens (B, K, D), patch tokens (B, D, h', w'), heads' outputs (B, n, T, D / heads), and for each layer
        its attention maps (B, heads, T, T); T = K + h' w' tokens."""
        ph, pw = self.body.patch_embed.patch_size
        grid = [max(1, round(side / patch)) for side, patch in zip(images.shape[2:], (ph, pw), strict=True)]
        if images.shape[2:] != (grid[0] * ph, grid[1] * pw):
            images = F.interpolate(images, (grid[0] * ph, grid[1] * pw), mode="bilinear", align_corners=False)
        with attention_of(self.body) as (attention, outputs):
            tokens = self.body.forward_features(images)
        patches = tokens[:, self.classes :].transpose(1, 2).unflatten(2, grid)
        by_head = torch.stack([out.unflatten(2, (-1, self.heads)).permute(0, 3, 1, 2) for out in outputs], 2)
        return tokens[:, : self.classes], patches, by_head.flatten(1, 2), *attention

    def _maps(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """CAM logits: coarse before its ReLU, and fine; both (B, K, h', w')."""
        _, patches, outputs, *attention = features
        k = self.classes
        coarse = self.head(patches)
        w = self.fusion(outputs).unflatten(1, (self.heads, len(attention)))
        fused: Any = sum(torch.einsum("bh,bhij->bij", w[:, :, i], a) for i, a in enumerate(attention))
        fused = fused / (self.heads * len(attention))
        cross, affinity = fused[:, :k, k:], fused[:, k:, k:]
        cam = cross * F.relu(coarse).flatten(2)
        return coarse, torch.einsum("bij,bkj->bki", affinity, cam).unflatten(2, coarse.shape[2:])

    def cams(self, features: tuple[Tensor, ...]) -> Tensor:
        return self._maps(features)[1]

    def forward(self, images: Tensor) -> Tensor:
        return self.cams(self.features(images))

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Soft margin of class tokens, coarse and fine CAMs, added."""
        features = self.features(images)
        coarse, fine = self._maps(features)
        scores = (features[0].mean(2), coarse.mean((2, 3)), fine.mean((2, 3)))
        return sum((F.multilabel_soft_margin_loss(y.float(), labels) for y in scores), torch.zeros(()).to(labels))

    def refinement_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.head.parameters()
        yield from self.fusion.parameters()

    def _load_official(self, path: Path) -> None:
        try:
            with torch.serialization.safe_globals([Namespace]):  # checkpoints of this family keep their options
                stored: Any = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(f"generator.weights {path}: no such file") from None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            raise UserError(f"generator.weights {path}: cannot be read as a checkpoint of torch") from None
        stored = stored.get("model", stored) if isinstance(stored, dict) else {}
        state = {}
        for name, value in stored.items() if isinstance(stored, dict) else ():
            name = str(name).removeprefix("module.")  # noqa: PLW2901
            if not name.startswith(UNUSED):
                old = next(prefix for prefix in OFFICIAL_NAMES if name.startswith(prefix))
                state[OFFICIAL_NAMES[old] + name.removeprefix(old)] = value
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"generator.weights {path}: not the weights of this WeakTr ({reason}); classes, backbone, pool and "
                "reduction must be those it was trained with"
            ) from None
