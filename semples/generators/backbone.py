"""The timm network inside a mask generator, and the small transformer of the scenes that timm learns to know here."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import VisionTransformer, build_model_with_cfg, register_model
from torch import nn

from semples.errors import UserError, nearest
from semples.pretrained import SCENES_VIT_WEIGHTS


@register_model  # type: ignore[untyped-decorator]
def scenes_vit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A vision transformer for pictures of 64 pixels: patches of 4, width 64, 4 layers, 0.2 M parameters. What DeiT
    trained on ImageNet is to photographs, this is to the scenes (`semples scenes pretrain` trains it)."""
    size: dict[str, Any] = {"img_size": 64, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
    card = {"file": str(SCENES_VIT_WEIGHTS), "num_classes": 20, "first_conv": "patch_embed.proj", "classifier": "head"}
    kwargs.pop("pretrained_cfg", None)  # timm's own card of the model, of which it has none
    return build_model_with_cfg(VisionTransformer, "scenes_vit", pretrained, pretrained_cfg=card, **{**size, **kwargs})


def create_backbone(name: str, pretrained: bool, own: dict[str, Any], args: dict[str, Any]) -> Any:
    """timm.create_model with the settings that a generator needs (`own`) and the user's. Raises UserError where the
    name is unknown or the network cannot be built like that."""
    if not timm.is_model(name):
        raise UserError(f"generator.backbone '{name}' is not a timm model{nearest(name, timm.list_models())}")
    try:
        return timm.create_model(name, pretrained=pretrained, **{**args, **own})
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"generator.backbone '{name}' cannot be built with the settings of generator: "
            f"{reason or type(error).__name__}"
        ) from None
