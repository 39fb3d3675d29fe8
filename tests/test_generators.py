"""One suite over every mask generator, that of another package included; then WeakTr's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import Tensor

from semples import generators
from semples.config import CnnConfig, Config, GeneratorConfig, OtherGenerator, WeakTrConfig, parse
from semples.errors import UserError
from semples.generators.weaktr import OFFICIAL_NAMES, WeakTr
from semples.pipeline.run import Result
from semples.testing.generators import GeneratorContract, K

ALL: list[GeneratorConfig] = [
    CnnConfig(),
    CnnConfig(backbone="resnet18", stride=16, out_indices=(4,), args={}),
    WeakTrConfig(kind="weaktr"),
    WeakTrConfig(kind="weaktr", pool="mean", reduction=4, pretrained=False),
    OtherGenerator(kind="patchwise", args={"width": 8}),
]


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 3, 64, 96)


@pytest.mark.usefixtures("other_package")
class TestEveryGenerator(GeneratorContract):
    @pytest.fixture(params=ALL, ids=lambda c: f"{c.kind}-{getattr(c, 'pool', '')}{getattr(c, 'backbone', '')}")
    def config(self, request: pytest.FixtureRequest) -> GeneratorConfig:
        config: GeneratorConfig = request.param
        return config


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
