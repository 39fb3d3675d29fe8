"""The one training loop that all training stages share, the random stream and the batches."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import pickle
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from timm.data import create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from semples.data.dataset import Dataset, Split
from semples.digests import digest
from semples.errors import UserError, cut
from semples.images import IMAGENET_MEAN, IMAGENET_STD
from semples.timm_parts import keep_a_bit

if TYPE_CHECKING:
    from semples.config import AugmentConfig, Config, RuntimeConfig, Training
    from semples.log import Log

CHECKPOINT = "checkpoint.pt"  # of a training that is under way, in its stage's folder
CHECKPOINT_PARTS = {"history", "memory", "random", "model", "optimizer", "factor"}
Pair = tuple[Tensor, Tensor]


def resolve_device(runtime: RuntimeConfig) -> RuntimeConfig:
    """Device "auto" becomes the one there is. Raises UserError where "cuda" is asked for and there is none."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if runtime.device == "cuda" and found == "cpu":
        raise UserError("runtime.device is 'cuda' but torch sees no GPU here; use runtime.device=cpu")
    return runtime.model_copy(update={"device": found if runtime.device == "auto" else runtime.device})


def prepare(runtime: RuntimeConfig) -> None:
    """Make torch compute the same bits every time: fixed threads and deterministic kernels.

    On a GPU a few operations (bilinear up-sampling) have none: there results repeat closely, not exactly.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=runtime.device == "cuda")
    # nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def seed_stream(seed: int, stage: str) -> None:
    """Start the random streams of a stage: they depend on the run's seed and the stage's name, on nothing else."""
    number = int(digest(str(seed), stage)[:8], 16)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def autocast(runtime: RuntimeConfig) -> torch.autocast:
    """Mixed precision where it is asked for; losses are computed in float32 by their own code."""
    return torch.autocast(runtime.device, torch.bfloat16, enabled=runtime.precision == "bfloat16")


class LabelledImages(TorchDataset[Pair]):
    """Augmented crops with image labels: float32 (3, size, size) normalised, float32 (K,)."""

    def __init__(self, split: Split, augment: AugmentConfig, only_crop_and_flip: bool):
        self.split = split
        self.transform = create_transform(
            augment.size,
            is_training=True,
            scale=(augment.scale_min, 1.0),
            color_jitter=0.0,
            interpolation="bicubic",
            auto_augment=None if only_crop_and_flip else augment.randaugment or None,
            re_prob=0.0 if only_crop_and_flip else augment.erasing,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        keep_a_bit(self.transform)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = self.transform(Image.fromarray(self.split.image(i)))
        return image, torch.from_numpy(self.split.labels[i].astype(np.float32))


def label_batches(config: Config, data: Dataset, batch: int, only_crop_and_flip: bool = False) -> DataLoader[Pair]:
    """Shuffled batches of the training images: (B, 3, size, size) and (B, K)."""
    images = LabelledImages(data.train, config.augment, only_crop_and_flip)
    return batches(images, config, batch)


def batches(images: TorchDataset[Pair], config: Config, batch: int) -> DataLoader[Pair]:
    """Shuffled batches of any training set; a last batch of one image (no batch statistics) is dropped."""
    size = len(images)  # type: ignore[arg-type]
    return DataLoader(
        images, batch, shuffle=True, drop_last=size > 1 and size % batch == 1, num_workers=config.runtime.workers
    )


Schedule = Callable[[float], float]


def cosine(done: float) -> float:
    """Factor of the learning rate when the share `done` of the training is over: a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * done)) / 2


def poly(done: float) -> float:
    """The same as a polynomial of power 0.9, customary for segmentation networks."""
    return (1 - done) ** 0.9


def fit(
    name: str,
    model: nn.Module,
    loader: DataLoader[Pair],
    settings: Training,
    runtime: RuntimeConfig,
    losses: Callable[[Tensor, Tensor], dict[str, Tensor]],
    out: Path,
    schedule: Schedule = cosine,
    memory: dict[str, Any] | None = None,
) -> Iterator[dict[str, float]]:
    """Train what of the model requires a gradient with AdamW, and yield the mean of every loss after each epoch.

    losses: batch -> scalars, of which "loss" is minimised. schedule: share of the training done -> factor of the
    learning rate; over the first `settings.warmup` epochs it rises linearly instead.

    When the next epoch is asked for, all that is needed to go on is written to `out`/CHECKPOINT. Where there is one,
    the training goes on from it with the same bits: the epochs before are yielded again, with what the caller added to
    their values, and `memory` holds what the caller had put there.

    Raises UserError when the loss is not finite any more.
    """
    memory = {} if memory is None else memory
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings.lr, eps=1e-8, weight_decay=settings.weight_decay)
    steps, rise = settings.epochs * len(loader), settings.warmup * len(loader)
    factor = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1, (step + 1) / rise) if step < rise else schedule(min(1, (step - rise) / max(1, steps - rise)))
        ),
    )
    history: list[dict[str, float]] = []
    if state := _read_checkpoint(out):
        parts: tuple[Any, ...] = (model, optimizer, factor)
        fresh = [copy.deepcopy(part.state_dict()) for part in parts]
        numbers = _random_state(runtime.device)
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            factor.load_state_dict(state["factor"])
            _set_random_state(state["random"])
            history = [dict(values) for values in state["history"]]
            memory.update(state["memory"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # of something else: begin anew
            for part, before in zip(parts, fresh, strict=True):
                part.load_state_dict(before)
            state, history = {"random": numbers}, []
        yield from history
        _set_random_state(state["random"])  # again, and last: the caller may have drawn numbers too
    for epoch in range(len(history) + 1, settings.epochs + 1):
        sums: dict[str, float] = defaultdict(float)
        for images, targets in loader:
            with autocast(runtime):
                terms = losses(images.to(runtime.device), targets.to(runtime.device))
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            factor.step()
            for term, value in terms.items():
                sums[term] += value.item()
        means = {term: total / len(loader) for term, total in sums.items()}
        if not np.isfinite(means["loss"]):
            raise UserError(f"{name}: the loss is not finite in epoch {epoch}; lower {name}.lr")
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise UserError(
                f"{name}: the weights are not finite after epoch {epoch}; lower {name}.lr or {name}.weight_decay"
            )
        yield means
        history.append(means)
        state = {"history": history, "memory": memory, "random": _random_state(runtime.device)}
        state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "factor": factor.state_dict()}
        _write_checkpoint(state, out, name)


def _write_checkpoint(state: dict[str, Any], folder: Path, name: str) -> None:
    """A checkpoint that cannot be written is a warning: should the training be interrupted, it begins earlier."""
    new = folder / f".{CHECKPOINT}"
    try:
        torch.save(state, new)
        os.replace(new, folder / CHECKPOINT)
    except (OSError, RuntimeError) as error:  # torch's own one where the disk is full
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        logging.getLogger(__name__).warning(
            "%s: the checkpoint cannot be written into %s (%s); the training goes on", name, folder, cut(str(error))
        )


def _read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What was written, on the CPU: model and optimizer take it to where they are."""
    if not (folder / CHECKPOINT).is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError):
        return None  # none, or a damaged one: begin anew
    return state if isinstance(state, dict) and {*state} >= CHECKPOINT_PARTS else None


def _random_state(device: str) -> dict[str, Any]:
    _, words, *rest = np.random.get_state(legacy=True)
    return {
        "random": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(words, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        # of the one that is used: whoever goes on may see others
        "cuda": torch.cuda.get_rng_state() if device == "cuda" else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["random"])
    words, *rest = state["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def train(
    name: str,
    model: nn.Module,
    loader: DataLoader[Pair],
    settings: Training,
    runtime: RuntimeConfig,
    losses: Callable[[Tensor, Tensor], dict[str, Tensor]],
    out: Path,
    log: Log,
) -> dict[str, float]:
    """`fit` to its end, every epoch logged; the means of the last epoch."""
    means: dict[str, float] = {}
    for epoch, means in enumerate(fit(name, model, loader, settings, runtime, losses, out), 1):
        log(epoch, settings.epochs, **means)
    return means


def load_weights(path: Path, shape: Mapping[str, Sequence[int | None]] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file that `save_weights` wrote.

    shape: names that must be there, each with its size, None = any. Raises UserError for a file that is damaged, of
    another form or not there.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        found = load(path.read_bytes())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights ({cut(str(error))}); run it again") from None
    for name, size in (shape or {}).items():
        own = found[name].shape if name in found else ()
        if len(own) != len(size) or any(a not in (b, None) for a, b in zip(size, own, strict=True)):
            raise UserError(f"{path}: the tensor '{name}' is missing or of another shape than here; run it again")
    return found


def put_weights(module: nn.Module, path: Path) -> None:
    """Give a module the weights of a file. Raises UserError for a file that is damaged or of another network."""
    try:
        module.load_state_dict(load_weights(path))
    except RuntimeError as error:
        reason = cut(str(error).partition(":")[2])
        raise UserError(f"{path}: these weights are of another network than the configuration's ({reason})") from None


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors. Not by its `save_file`, which reports a full disk by an error of its own kind."""
    path.write_bytes(save({k: v.contiguous().cpu() for k, v in state.items()}))
