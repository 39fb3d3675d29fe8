"""The contract of a mask generator, see semples.generators.Generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semples import generators
from semples.config import GeneratorConfig
from semples.images import minmax

K = 5  # classes


class GeneratorContract:
    """What the stages rely on. Take it as base class and give the fixture `config`, the section `generator` of a
    configuration that names the generator, small enough to be trained in seconds."""

    @pytest.fixture
    def config(self) -> GeneratorConfig:
        raise NotImplementedError

    @pytest.fixture
    def images(self) -> Tensor:
        torch.manual_seed(0)
        return torch.randn(3, 3, 64, 96)

    @pytest.fixture
    def trained(self, config: GeneratorConfig) -> Any:
        return generators.build(config, K).eval()

    def test_gives_one_map_a_class_at_any_size(self, trained: Any, images: Tensor) -> None:
        for x in (images, images[:1, :, :50, :70], images[:, :, :33, :40]):
            cams = trained(x)
            assert cams.ndim == 4 and cams.shape[:2] == (len(x), K) and min(cams.shape[2:]) >= 1
            assert torch.isfinite(cams).all()

    def test_does_not_mix_the_images_of_a_batch(self, trained: Any, images: Tensor) -> None:
        together, alone = trained(images), trained(images[1:2])
        assert torch.allclose(together[1:2], alone, atol=1e-5)

    def test_its_maps_come_from_its_features(self, trained: Any, images: Tensor) -> None:
        assert torch.equal(trained.cams(trained.features(images)), trained(images))

    def test_learns_labels(self, config: GeneratorConfig, images: Tensor) -> None:
        torch.manual_seed(0)
        generator = generators.build(config, K)
        labels = torch.eye(K)[:3]
        optimizer = torch.optim.AdamW(generator.parameters(), 3e-3)
        first = generator.label_loss(images, labels)
        assert first.ndim == 0
        for _ in range(12):
            optimizer.zero_grad()
            generator.label_loss(images, labels).backward()
            optimizer.step()
        assert generator.label_loss(images, labels) < 0.9 * first

    def test_after_classify_only_the_refinement_parameters_get_gradient(
        self, config: GeneratorConfig, images: Tensor, tmp_path: Path
    ) -> None:
        generators.save(generators.build(config, K), tmp_path)
        generator = generators.load(config, K, tmp_path, "cpu")
        late = {id(p) for p in generator.refinement_parameters()}
        assert late
        minmax(generator(images), 0.1).mean().backward()
        for name, parameter in generator.named_parameters():
            assert (parameter.grad is not None) == (id(parameter) in late), name
        if late != {id(p) for p in generator.parameters()}:
            assert not any(f.requires_grad for f in generator.features(images))

    def test_is_the_same_after_saving_and_loading(
        self, config: GeneratorConfig, images: Tensor, tmp_path: Path
    ) -> None:
        generator = generators.build(config, K, initial=True)
        generators.save(generator, tmp_path)
        again = generators.load(config, K, tmp_path, "cpu")
        assert torch.equal(generator.eval()(images), again.eval()(images))
