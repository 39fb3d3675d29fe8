from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from semples.config import ClassifyConfig, RuntimeConfig, parse
from semples.training import batches, poly, train

CPU = RuntimeConfig(device="cpu")

# (1 + cos(180 degrees * step / 8)) / 2
COSINE = [1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]


def rates(epochs: int, warmup: float) -> list[float]:
    """How far one parameter with gradient 1 moves in every step: AdamW's step is the learning rate."""
    model = torch.nn.ParameterList([torch.zeros(())])
    (weight,) = model
    seen = [0.0]

    def losses(images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(float(weight.detach()))
        return {"loss": weight}

    loader = DataLoader(TensorDataset(torch.zeros(4, 1), torch.zeros(4, 1)), 1)
    settings = ClassifyConfig(epochs=epochs, lr=1.0, weight_decay=0.0, warmup=warmup)
    with TemporaryDirectory() as out:
        train("classify", model, loader, settings, CPU, losses, Path(out), lambda *a, **k: None)
    seen.append(float(weight.detach()))
    return [a - b for a, b in itertools.pairwise(seen[1:])]


def test_the_learning_rate_falls_as_a_cosine_to_0() -> None:
    got = rates(epochs=2, warmup=0)
    assert got == pytest.approx(COSINE, abs=1e-5)


def test_warm_up_rises_to_the_full_rate_first() -> None:
    got = rates(epochs=3, warmup=1)
    assert got[:4] == pytest.approx([0.25, 0.5, 0.75, 1], abs=1e-5)
    assert got[4:] == pytest.approx(COSINE, abs=1e-5)


@pytest.mark.parametrize(("epochs", "warmup"), [(0, 0), (0, 5), (2, 2)])
def test_warm_up_may_be_as_long_as_the_training(epochs: int, warmup: float) -> None:
    assert len(rates(epochs, warmup)) == 4 * epochs


def test_warm_up_of_less_than_a_step_is_none() -> None:
    assert rates(epochs=2, warmup=0.01)[0] == pytest.approx(1, abs=1e-5)


def test_poly_is_a_power_of_what_is_left() -> None:
    assert (poly(0), poly(0.5), poly(1)) == pytest.approx((1, 0.5**0.9, 0))


def of_size(images: int, batch: int) -> list[list[int]]:
    """The numbers of the images in every batch of an epoch."""
    numbers = torch.arange(images)
    loader = batches(TensorDataset(numbers, numbers), parse({}, "test"), batch)
    return [found.tolist() for found, _ in loader]


def test_a_last_batch_is_dropped_only_where_it_is_one_image() -> None:
    assert [len(b) for b in of_size(10, 4)] == [4, 4, 2]
    assert [len(b) for b in of_size(9, 4)] == [4, 4]
    assert [len(b) for b in of_size(8, 4)] == [4, 4] and [len(b) for b in of_size(1, 4)] == [1]


def test_batches_are_in_another_order_every_epoch() -> None:
    torch.manual_seed(0)
    epochs = [[*itertools.chain(*of_size(12, 4))] for _ in range(3)]
    assert all(sorted(epoch) == [*range(12)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and [*range(12)] not in epochs
