"""Images of one colour, of which every crop is the same numbers, and a network that listens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from semples.config import Config, parse
from semples.data.dataset import Dataset, Split

CLASSES = ("a", "b", "c")

CONFIG: Config = parse(
    {
        "runtime": {"device": "cpu"},
        "masks": {"crf": {"iterations": 0}},
        "segment": {"batch": 2, "epochs": 4, "test": {"crf": {"iterations": 0}}},
    },
    "trained as tested",
)

COLOUR = (200, 90, 30)

PLAIN = np.full((64, 96, 3), COLOUR, np.uint8)  # of one colour, so that a crop of it is the same numbers

NORMAL = torch.tensor(
    [(c / 255 - m) / s for c, m, s in zip(COLOUR, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
)


def split_of(*images: np.ndarray, truth: tuple[np.ndarray | None, ...] = (), name: str = "i") -> Split:
    count = len(images)
    labels = np.array([[True, i % 2 == 1, False] for i in range(count)])
    of = truth or (None,) * count
    names = tuple(f"{name}{i}" for i in range(count))
    return Split(names, labels, images.__getitem__, of.__getitem__, tuple(i for i in range(count) if of[i] is not None))


class Listener(nn.Module):
    """In the place of a generator or network: keeps what it is shown, and whether it is in training mode."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs, self.shown, self.modes = outputs, list[Tensor](), list[bool]()
        self.weight = nn.Parameter(torch.ones(outputs, 3))

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach().clone())
        self.modes.append(self.training)
        return torch.einsum("kc,bchw->bkhw", self.weight, images)


def dataset(train: Split, holdout: Split | None = None, test: Split | None = None) -> Dataset:
    return Dataset(CLASSES, train, holdout or train, test or train, "")
