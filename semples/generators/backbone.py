"""The timm network inside a mask generator, and the small transformer of the scenes."""

from __future__ import annotations

from typing import Any

import timm

from semples.errors import UserError, nearest
from semples.pretrained import SCENES_VIT_WEIGHTS

# A vision transformer for pictures of 64 pixels: patches of 4, width 64, 4 layers, 0.2 M parameters. What DeiT trained
# on ImageNet is to photographs, this is to the scenes (`semples scenes pretrain` trains it).
SCENES_VIT = "scenes_vit"
SCENES_VIT_SIZE = {"img_size": 64, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
SCENES_VIT_CARD = {"file": str(SCENES_VIT_WEIGHTS), "num_classes": 20}


def create_model(name: str, pretrained: bool = False, **args: Any) -> Any:
    """timm.create_model, which also knows `scenes_vit`: a plain ViT of another size, with weights of its own."""
    if name == SCENES_VIT:
        name, args = "vit_tiny_patch16_224", {"pretrained_cfg_overlay": SCENES_VIT_CARD, **SCENES_VIT_SIZE, **args}
    return timm.create_model(name, pretrained=pretrained, **args)


def create_backbone(name: str, pretrained: bool, own: dict[str, Any], args: dict[str, Any]) -> Any:
    """A network of timm with the settings that a generator needs (`own`) and the user's. Raises UserError where the
    name is unknown or the network cannot be built like that."""
    if name != SCENES_VIT and not timm.is_model(name):
        raise UserError(
            f"generator.backbone '{name}' is not a timm model{nearest(name, [SCENES_VIT, *timm.list_models()])}"
        )
    try:
        return create_model(name, pretrained, **{**args, **own})
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
