"""Mask generators: an image in, one class activation map (CAM) a class out.

`cnn` and `weaktr` are here. Another package adds one by an entry point of the group `semples.generators`: a callable
`(config, classes, initial) -> module` of the shape of `Generator`, found by the name that `generator.kind` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semples.config import GeneratorConfig, OtherGenerator, WeakTrConfig
from semples.data.dataset import file_digest
from semples.errors import UserError, nearest
from semples.generators.backbone import SCENES_VIT_WEIGHTS, scenes_vit
from semples.generators.cnn import Cnn
from semples.generators.weaktr import WeakTr
from semples.training import put_weights, save_weights

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


GENERATORS: dict[str, Callable[..., Any]] = {"cnn": Cnn, "weaktr": WeakTr}
GROUP = "semples.generators"


def build(config: GeneratorConfig, classes: int, initial: bool = False) -> Any:
    """A new generator for K classes, an `nn.Module`; with `initial` it has the weights that training begins with.

    Raises UserError for an unknown kind or backbone.
    """
    others = entry_points(group=GROUP)
    make = GENERATORS.get(config.kind)
    if make is None:
        if config.kind not in others.names:
            known = [*GENERATORS, *others.names]
            raise UserError(
                f"generator.kind '{config.kind}' is neither {', '.join(known)} nor an entry point "
                f"of the group {GROUP}{nearest(config.kind, known)}; is its package installed?"
            )
        make = others[config.kind].load()
    return make(config, classes, initial).to(memory_format=torch.channels_last)


def content(config: GeneratorConfig) -> str:
    """What determines a generator besides its configuration: the digest of the local weights that it begins with, or
    name and version of the package that it comes from."""
    if isinstance(config, OtherGenerator):
        packages = [entry.dist for entry in entry_points(group=GROUP, name=config.kind)]
        return " ".join(f"{package.name} {package.version}" for package in packages if package)
    path = Path(config.weights).expanduser() if isinstance(config, WeakTrConfig) and config.weights else None
    if path is None and config.backbone == scenes_vit.__name__ and config.pretrained:
        path = SCENES_VIT_WEIGHTS
    return file_digest(path) if path and path.is_file() else ""


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


def minmax(maps: Tensor, eps: float) -> Tensor:
    """(C - min) / (max - min + eps) over each map of (..., h, w), in [0, 1). Source: SemPLeS."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + eps)


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear (B, C, h', w') -> (B, C, *size)."""
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def rescale(images: Tensor, scale: float) -> Tensor:
    """The same (B, C, h, w) at a scale, in whole pixels and at least one; what is at the end stays at the end."""
    # not by F.interpolate's scale_factor, which leaves out a part of the last pixel
    size = tuple(max(1, round(side * scale)) for side in images.shape[2:])
    return images if size == images.shape[2:] else enlarge(images, size)
