"""g. segment: a segmentation network learns the pseudo masks and is measured against the true ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from semples import by_image
from semples.crf import smooth_probabilities
from semples.data import png_archive
from semples.data.dataset import IGNORE, Dataset, Split
from semples.errors import UserError
from semples.images import IMAGENET_MEAN, IMAGENET_STD, enlarge, normalise_pixels, rescale
from semples.metrics import areas, confusion, iou, miou, standard_error
from semples.proxy import agreement
from semples.spread import each
from semples.stages.prompts import load_prompts
from semples.training import Pair, autocast, batches, cosine, fit, poly, put_weights, save_weights

if TYPE_CHECKING:
    from semples.config import Config, RuntimeConfig, SegmentConfig, TestConfig
    from semples.log import Log

WEIGHTS = "network.safetensors"
JUDGED = "seg_miou_judged"  # the curve by which the epoch is chosen
Masks = Callable[[int], np.ndarray | None]  # of the training images, uint8 (h, w); every one is there
Scored = tuple[np.ndarray, np.ndarray]  # probabilities float32 (K+1, h, w) and image uint8 (h, w, 3)
MULTIPLE = 32  # sides of the image are padded to a multiple of this, as encoders need it


def build_network(settings: SegmentConfig, classes: int, initial: bool = False) -> nn.Module:
    """The network with K+1 outputs; with `initial` it has the weights that training begins with.

    Raises UserError for an unknown architecture or encoder.
    """
    try:
        network: nn.Module = smp.create_model(
            settings.architecture,
            settings.encoder,
            encoder_weights="imagenet" if initial and settings.pretrained else None,
            classes=classes + 1,
            **settings.args,
        )
    except (KeyError, RuntimeError, ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"segment.architecture '{settings.architecture}' with segment.encoder '{settings.encoder}' and "
            f"segment.args cannot be built by segmentation-models-pytorch: {reason}"
        ) from None
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_network(settings: SegmentConfig, classes: int, folder: Path) -> nn.Module:
    """The trained network from this stage's result folder (or an export), ready to predict."""
    network = build_network(settings, classes)
    put_weights(network, folder / WEIGHTS)
    return network.eval()


class MaskedImages(TorchDataset[Pair]):
    """Augmented crops of the images `indices` with their masks: float32 (3, size, size) normalised, int64 (size, size)
    in 0..K and 255."""

    def __init__(self, split: Split, masks: Masks, indices: Sequence[int], size: int):
        self.split, self.masks, self.indices = split, masks, indices
        self.augment = v2.Compose(
            [v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()]
        )
        self.normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Pair:
        i = self.indices[position]
        image = tv_tensors.Image(torch.from_numpy(self.split.image(i)).permute(2, 0, 1))
        image, mask = self.augment(image, tv_tensors.Mask(torch.from_numpy(np.array(self.masks(i)))))
        return self.normalise(image), mask.long()


@torch.no_grad()
def _probabilities(network: nn.Module, image: np.ndarray, runtime: RuntimeConfig, test: TestConfig | None) -> Scored:
    """uint8 (h, w, 3) -> float32 (K+1, h, w), averaged over the views, and the image."""
    h, w = image.shape[:2]
    x = normalise_pixels(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(runtime.device))
    total = torch.zeros(())
    for scale in test.scales if test else (1.0,):
        scaled = rescale(x, scale)
        size = scaled.shape[2:]
        for view in (scaled, scaled.flip(3)) if test and test.flip else (scaled,):
            padded = F.pad(view, (0, -size[1] % MULTIPLE, 0, -size[0] % MULTIPLE))
            with autocast(runtime):
                logits: Tensor = network(padded)
            logits = logits[:, :, : size[0], : size[1]].float()
            probabilities = enlarge(logits if view is scaled else logits.flip(3), (h, w)).softmax(1)[0]
            total = total.to(probabilities.device) + probabilities
    return (total / total.sum(0)).cpu().numpy(), image


def _label(test: TestConfig | None, scored: Scored) -> np.ndarray:
    labels = smooth_probabilities(*scored, test.crf) if test else scored[0].argmax(0)
    return labels.astype(np.uint8)


def predict(
    network: nn.Module, image: np.ndarray, runtime: RuntimeConfig, test: TestConfig | None = None
) -> np.ndarray:
    """uint8 (h, w, 3) -> mask uint8 (h, w) in 0..K at the same size; probabilities are averaged over the views.

    Without `test`, as epochs are compared, there is one view, as large as the image, and no CRF.
    """
    return _label(test, _probabilities(network, image, runtime, test))


def predict_all(
    network: nn.Module, split: Split, indices: Sequence[int], runtime: RuntimeConfig, test: TestConfig | None = None
) -> Iterator[np.ndarray]:
    """`predict` of these images, one after the other; `runtime.workers` processes share the CRF, or those of a
    cluster."""
    scored = (_probabilities(network, split.image(i), runtime, test) for i in indices)
    label = partial(_label, test)
    return each(label, scored, len(indices), runtime.workers) if test else map(label, scored)


def evaluate(
    network: nn.Module, split: Split, classes: int, runtime: RuntimeConfig, test: TestConfig | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Of the images of the split that have a true mask: confusion over all of them, int64 (K+1, K+1), and the areas of
    each, (3, K+1)."""
    network.eval()
    counts, of_images = np.zeros((classes + 1, classes + 1), np.int64), []
    made = predict_all(network, split, split.annotated, runtime, test)
    for i, mask in zip(split.annotated, made, strict=True):
        ground_truth = split.mask(i)
        if ground_truth is not None:
            of_image = confusion(ground_truth, mask, classes)
            counts += of_image
            of_images.append(areas(of_image))
    return counts, of_images


def train_on(
    masks: Masks,
    indices: Sequence[int],
    config: Config,
    data: Dataset,
    prompts: Path | None,
    out: Path,
    log: Log,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train on the training images `indices` with masks(i), uint8 (h, w); the epoch is chosen by `selection`.

    Under "proxy" that is the last one. Returns its weights and the metrics: `seg_miou` is of the test set. What single
    images say of these is left in the folder `out`.
    """
    settings, runtime, classes = config.segment, config.runtime, data.num_classes
    if min(len(indices), settings.batch) < 2:
        raise UserError(
            f"segment: {len(indices)} images with masks in batches of segment.batch = {settings.batch}; "
            "batch statistics need at least 2 of both"
        )
    network = build_network(settings, classes, initial=True).to(runtime.device)

    def losses(images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        scores = network(images).float()
        total = F.cross_entropy(
            scores, masks, ignore_index=IGNORE, label_smoothing=settings.label_smoothing, reduction="sum"
        )
        return {"loss": total / (masks != IGNORE).sum().clamp(min=1)}  # a batch may be ignored as a whole

    judge = data.holdout if config.selection == "holdout" else data.test
    loader = batches(MaskedImages(data.train, masks, indices, settings.size), config, settings.batch)
    schedule = {"cosine": cosine, "poly": poly}[settings.schedule]
    best: dict[str, Any] = {"score": -1.0}
    epochs = fit("segment", network, loader, settings, runtime, losses, out, schedule, memory=best)
    for epoch, values in enumerate(epochs, 1):
        if config.selection == "proxy":
            best.update(weights=network.state_dict(), epoch=epoch)
        elif JUDGED not in values:  # it is there where an interrupted training goes on
            values[JUDGED] = miou(evaluate(network, judge, classes, runtime)[0])
            network.train()
            if values[JUDGED] > best["score"]:
                weights = {k: v.clone() for k, v in network.state_dict().items()}
                best.update(weights=weights, score=values[JUDGED], epoch=epoch)
        log(epoch, settings.epochs, **values)
    network.load_state_dict(best["weights"])
    proxy, metrics, kept = {}, dict[str, float](), {}
    for prefix, split in (("", data.test), ("holdout/", data.holdout)):
        counts, of_images = evaluate(network, split, classes, runtime, settings.test)
        metrics |= {f"{prefix}seg_miou": miou(counts), f"{prefix}seg_miou_se": standard_error(of_images)}
        kept[f"{prefix}seg_miou"] = of_images
        per_class = zip(("background", *data.classes), iou(counts), strict=True)
        metrics |= {f"{prefix}seg_iou/{name}": float(value) for name, value in per_class}
    if config.selection == "proxy" and prompts:
        masks_of = list(predict_all(network, data.holdout, range(len(data.holdout)), runtime, settings.test))
        proxy = {"proxy/seg_miou": agreement(config, data, load_prompts(prompts), masks_of.__getitem__)}
    by_image.write(out, kept)
    return best["weights"], {
        **proxy,
        **metrics,
        "seg_epoch": float(best["epoch"]),
    }


def run(config: Config, data: Dataset, inputs: dict[str, Path], out: Path, log: Log) -> dict[str, float]:
    """Writes the network's weights at its chosen epoch, and what single images say of its mIoUs."""
    if config.segment.train_on == "ground_truth":
        weights, metrics = train_on(data.train.mask, data.train.annotated, config, data, None, out, log)
    else:
        # the sets that the training images are divided into
        made = [inputs[name] / png_archive.FILE for name in ("masks", "measured_masks", "rest_masks") if name in inputs]
        stored, names = png_archive.Reader(*made), data.train.names
        weights, metrics = train_on(
            lambda i: stored.read(names[i]), range(len(names)), config, data, inputs.get("prompts"), out, log
        )
    save_weights(weights, out / WEIGHTS)
    return metrics
