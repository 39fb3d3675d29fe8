"""One suite over every mask generator, that of another package included; then WeakTr's own arithmetic."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from packages import install
from torch import Tensor

from semples import generators
from semples.config import CnnConfig, Config, GeneratorConfig, OtherGenerator, WeakTrConfig, parse
from semples.errors import UserError
from semples.generators.weaktr import OFFICIAL_NAMES, WeakTr
from semples.images import minmax
from semples.pipeline.run import Result

K = 5
OTHER = Path(__file__).parent / "other_generator"
ALL: list[GeneratorConfig] = [
    CnnConfig(),
    CnnConfig(backbone="resnet18", stride=16, out_indices=(4,), args={}),
    WeakTrConfig(kind="weaktr"),
    WeakTrConfig(kind="weaktr", pool="mean", reduction=4, pretrained=False),
    OtherGenerator(kind="patchwise", args={"width": 8}),
]


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install tests/other_generator as pip would: the module and what its pyproject says, on the path."""
    project = tomllib.loads((OTHER / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    install(site, project["name"], project["version"], project["entry-points"])
    shutil.copy(OTHER / "other_generator.py", site)
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 3, 64, 96)


@pytest.mark.usefixtures("other_package")
@pytest.mark.parametrize("config", ALL, ids=lambda c: f"{c.kind}-{getattr(c, 'pool', '')}{getattr(c, 'backbone', '')}")
class TestEveryGenerator:
    def test_gives_one_map_a_class_at_any_size(self, config: GeneratorConfig, images: Tensor) -> None:
        generator = generators.build(config, K).eval()
        for x in (images, images[:1, :, :50, :70], images[:, :, :33, :40]):
            cams = generator(x)
            assert cams.ndim == 4 and cams.shape[:2] == (len(x), K) and min(cams.shape[2:]) >= 1
            assert torch.isfinite(cams).all()

    def test_does_not_mix_the_images_of_a_batch(self, config: GeneratorConfig, images: Tensor) -> None:
        generator = generators.build(config, K).eval()
        together, alone = generator(images), generator(images[1:2])
        assert torch.allclose(together[1:2], alone, atol=1e-5)

    def test_its_maps_come_from_its_features(self, config: GeneratorConfig, images: Tensor) -> None:
        generator = generators.build(config, K).eval()
        assert torch.equal(generator.cams(generator.features(images)), generator(images))

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


@pytest.mark.usefixtures("other_package")
@pytest.mark.parametrize("generator", [{"kind": "weaktr"}, {"kind": "patchwise"}], ids=lambda g: g["kind"])
def test_the_whole_method_runs_with_it(generator: dict[str, Any], run_in: Callable[..., Result]) -> None:
    config: Config = parse({**TINY, "generator": generator}, "test")
    result = run_in(config)
    assert 0 <= result.metrics["pseudo_miou"] <= 100 and 0 <= result.metrics["seg_miou"] <= 100


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UserError, match=r"'weaktr2' is neither cnn, weaktr nor an entry point.*did you mean 'weaktr'"):
        generators.build(OtherGenerator(kind="weaktr2"), K)


@pytest.mark.parametrize("backbone", ["resnet18", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224"])
def test_weaktr_says_which_backbones_it_takes(backbone: str) -> None:
    with pytest.raises(UserError, match=rf"generator\.backbone '{backbone}'"):
        generators.build(WeakTrConfig(kind="weaktr", backbone=backbone, pretrained=False), K)


def test_a_transformer_is_no_cnn() -> None:
    with pytest.raises(UserError, match="deit_small_patch16_224"):
        generators.build(CnnConfig(backbone="deit_small_patch16_224", args={}), K)


def test_weaktr_has_the_published_size() -> None:
    """21.75 M parameters for 20 classes on DeiT-S, of which 70,965 are trained after classify."""
    deit_small = WeakTrConfig(kind="weaktr", backbone="deit_small_patch16_224", pretrained=False)
    generator = generators.build(deit_small, 20)
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 2) == 21.75
    assert sum(p.numel() for p in generator.refinement_parameters()) == 70_965
    assert len(list(generator.body.blocks)) * generator.heads == 72


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_weaktr_fuses_attention_as_a_loop_does(pool: Any, images: Tensor) -> None:
    """Every map by itself, every token by itself, in plain loops over numbers of the equations."""
    torch.manual_seed(1)
    config = WeakTrConfig(
        kind="weaktr", pool=pool, reduction=4, pretrained=False, args={"depth": 2, "embed_dim": 48, "num_heads": 3}
    )
    generator: WeakTr = generators.build(config, K).eval()
    with torch.no_grad():
        for parameter in generator.fusion.parameters():
            parameter.normal_(0, 0.5)
        generator.fusion.describe[0].weight.mul_(40)  # so that no head is described as another
        x = images[:1, :, :16, :24]
        _, patches, _, *attention = generator.features(x)
        outputs = []
        handles = [
            block.attn.register_forward_hook(lambda _, args, out: outputs.append(out))
            for block in generator.body.blocks
        ]
        got = generator(x)[0]
        for handle in handles:
            handle.remove()
        heads, depth, tokens = 3, 2, K + 4 * 6
        describe, weigh = generator.fusion.describe, generator.fusion.weigh
        order = [(head, layer) for head in range(heads) for layer in range(depth)]
        scores = []
        for head, layer in order:
            of_head = outputs[layer][0][:, head::heads]  # every third channel
            assert of_head.shape == (tokens, 16)
            columns = [of_head[:, c] for c in range(16)]
            pooled = torch.stack([max(c) if pool == "max" else sum(c) / tokens for c in columns])
            hidden = [sum(describe[0].weight[j] * pooled) + describe[0].bias[j] for j in range(2)]
            scores.append(sum(describe[1].weight[0, j] * hidden[j] for j in range(2)) + describe[1].bias[0])
        inner = [max(torch.tensor(0.0), sum(weigh[0].weight[j] * torch.stack(scores))) for j in range(6 // 4)]
        assert inner[0] > 0
        w = [1 / (1 + torch.exp(-sum(weigh[2].weight[i, j] * inner[j] for j in range(6 // 4)))) for i in range(6)]
        maps = [attention[layer][0, head] for head, layer in order]
        coarse = torch.relu(generator.head(patches))[0].flatten(1)
        for k in range(K):
            cam = [
                sum(w[i] * maps[i][k, K + p] for i in range(6)) / 6 * coarse[k, p] for p in range(tokens - K)
            ]  # Cross * CAM_coarse
            for p in range(0, tokens - K, 5):
                affinity = [sum(w[i] * maps[i][K + p, K + q] for i in range(6)) / 6 for q in range(tokens - K)]
                fine = sum(a * c for a, c in zip(affinity, cam, strict=True))
                assert got[k].flatten()[p] == pytest.approx(float(fine), rel=1e-4, abs=1e-9)


def test_the_official_checkpoint_fits(tmp_path: Path, images: Tensor) -> None:
    """The names of the official network, worked out backwards from a network of ours."""
    config = WeakTrConfig(kind="weaktr", pretrained=False)
    trained: WeakTr = generators.build(config, K).eval()
    official = {}
    for name, value in trained.state_dict().items():
        ours = next(new for new in OFFICIAL_NAMES.values() if name.startswith(new))
        old = next(o for o, n in OFFICIAL_NAMES.items() if n == ours)
        official[old + name.removeprefix(ours)] = value
    assert {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "head.weight"} < set(official)
    assert "adaptive_attention_fusion.attn_head_ffn.2.weight" in official
    path = tmp_path / "checkpoint_best_mIoU.pth"
    torch.save({"model": {**official, "norm.weight": torch.ones(96), "norm.bias": torch.zeros(96)}, "epoch": 3}, path)
    taken = generators.build(config.model_copy(update={"weights": str(path)}), K, initial=True).eval()
    assert torch.equal(taken(images), trained(images))
    with pytest.raises(UserError, match="not the weights of this WeakTr"):
        generators.build(config.model_copy(update={"weights": str(path)}), K + 1, initial=True)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        generators.build(config.model_copy(update={"weights": str(path)}), K, initial=True)
    with pytest.raises(UserError, match="no such file"):
        generators.build(config.model_copy(update={"weights": "nowhere"}), K, initial=True)
