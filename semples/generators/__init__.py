"""Mask generators: an image in, one class activation map (CAM) a class out.

`cnn` and `weaktr` are here. Another package adds one by an entry point of the group `semples.generators`: a callable
`(config, classes, initial) -> module` of the shape of `Generator`, found by the name that `generator.kind` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from semples import registry
from semples.generator_kinds import find
from semples.training import put_weights, save_weights

if TYPE_CHECKING:
    from semples.config import GeneratorConfig

WEIGHTS = "generator.safetensors"


class Generator(Protocol):
    """What a mask generator, a torch module, offers. It maps normalised images (B, 3, h, w) of any size to CAM logits
    (B, K, h', w') of any range: `generator(images)` is `generator.cams(generator.features(images))`."""

    def __call__(self, images: Tensor) -> Tensor:
        """CAM logits (B, K, h', w')."""

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the CAMs are computed from. Where `refinement_parameters` leaves the backbone out, this does not
        change after classify: it needs no gradient and may be kept."""

    def cams(self, features: tuple[Tensor, ...]) -> Tensor:
        """CAM logits (B, K, h', w') from the features."""

    def label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of the image labels (B, K) in {0, 1}: a scalar, mean over the batch."""

    def refinement_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the stages after classify train."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of every torch module; so are the others below."""

    def requires_grad_(self, requires_grad: bool = True) -> Any: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def eval(self) -> Any: ...


def build(config: GeneratorConfig, classes: int, initial: bool = False) -> Any:
    """A new generator for K classes, an `nn.Module`; with `initial` it has the weights that training begins with.

    Raises UserError for an unknown kind or backbone.
    """
    generator = registry.load(find(config.kind), "generator.kind")(config, classes, initial)
    return generator.to(memory_format=torch.channels_last)


def load(config: GeneratorConfig, classes: int, folder: Path, device: str) -> Any:
    """The generator whose weights a stage left in its result folder, on the device and in training mode.

    Only its refinement parameters require a gradient: the rest stays as classify left it.
    """
    generator = build(config, classes)
    put_weights(generator, folder / WEIGHTS)
    generator.requires_grad_(False)
    for parameter in generator.refinement_parameters():
        parameter.requires_grad_(True)
    return generator.to(device)


def save(generator: nn.Module, folder: Path) -> None:
    """Write the weights into a stage's result folder."""
    save_weights(generator.state_dict(), folder / WEIGHTS)
