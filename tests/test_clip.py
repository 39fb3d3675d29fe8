from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from semples.clip import load_clip
from semples.config import ClipConfig, WeakTrConfig
from semples.data import scenes
from semples.errors import UserError
from semples.generators import build
from semples.generators.backbone import SCENES_VIT, create_model
from semples.images import normalise_pixels
from semples.pretrain import accept_backbone, accept_clip, contrast, draw_picture, is_expected, write_caption
from semples.pretrained import MINIATURE_WEIGHTS

CLIP = load_clip(ClipConfig())


def test_the_shipped_miniature_is_as_good_as_it_must_be() -> None:
    figures = accept_clip(CLIP, images=300, seed=77)
    assert figures["object_accuracy"] >= 0.95
    assert figures["object_minus_background"] >= 0.3
    assert figures["background_accuracy"] >= 0.7  # one scene of ten has another background than the companion


def test_the_shipped_transformer_knows_objects_and_attends_to_what_is_alike() -> None:
    body = create_model(SCENES_VIT, pretrained=True, num_classes=20).eval()
    assert accept_backbone(body, images=300, seed=77)["backbone_object_accuracy"] >= 0.9
    generator = build(WeakTrConfig(kind="weaktr"), 8, initial=True).eval()
    split = scenes.draw(40, 1, 1, 5).train
    inside, outside = [], []
    for i in np.flatnonzero(split.labels.sum(1) == 1)[:15]:
        mask = torch.from_numpy(np.array(split.mask(i))[:64, :64] > 0).float()
        x = normalise_pixels(torch.from_numpy(split.image(i)[:64, :64].copy()).permute(2, 0, 1)[None])
        with torch.no_grad():
            *_, first, second, third, last = generator.features(x)
        affinity = torch.cat([first, second, third, last], 1)[0, :, 8:, 8:].mean(0)
        patches = torch.nn.functional.adaptive_avg_pool2d(mask[None], 16).flatten() > 0.5
        if 5 < patches.sum() < 200:
            inside.append(affinity[patches][:, patches].sum(1).mean())
            outside.append(affinity[~patches][:, patches].sum(1).mean())
    assert np.mean(inside) > 2.5 * np.mean(outside)  # of its attention, an object's patch gives more to the object


def test_the_shipped_miniature_is_small() -> None:
    assert MINIATURE_WEIGHTS.stat().st_size < 10_000_000


def test_a_prompt_of_word_embeddings_is_that_word() -> None:
    """Putting the token embeddings of "railway" where the prompt is learned must give the label "railway"."""
    words = CLIP.tokenizer.encode("railway")
    learned = CLIP._token_embedding.weight[words][None]
    assert torch.allclose(CLIP.embed_prompts(learned), CLIP.embed_labels(["railway"]), atol=1e-6)


def test_prompt_embeddings_have_the_shape_of_the_set() -> None:
    assert CLIP.embed_prompts(CLIP.initial_prompts((8, 3, 5), "normal")).shape == (8, 3, 128)


def test_initial_prompts_follow_their_rule() -> None:
    uniform = CLIP.initial_prompts((2, 1, 50), "uniform")
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.05
    normal = CLIP.initial_prompts((2, 1, 200), "normal")
    assert abs(normal.mean()) < 0.1 * normal.std()
    assert float(normal.std()) == pytest.approx(float(CLIP._token_embedding.weight.std()), rel=0.05)
    background = CLIP._token_embedding.weight[CLIP.tokenizer.encode("background")[0]]
    word = CLIP.initial_prompts((2, 1, 50), "word")
    assert torch.nn.functional.cosine_similarity(word, background, dim=-1).min() > 0.9


def test_an_embedding_is_nearest_to_its_own_name() -> None:
    names = ["sea", "sky", "railway", "snow"]
    assert CLIP.nearest_names(CLIP.embed_labels(names[::-1]), names) == names[::-1]


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(UserError, match=r"prompts\.length 36 does not fit.*at most 34"):
        CLIP.embed_prompts(torch.zeros(1, 36, 64))


def test_normalisation_switch_changes_what_clip_sees() -> None:
    config = ClipConfig(normalise="clip")
    image = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(load_clip(config).embed_images(image), CLIP.embed_images(image))


def test_any_open_clip_model_with_a_local_file(tmp_path: Path) -> None:
    model = open_clip.create_model("ViT-B-32")
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    clip = load_clip(ClipConfig(model="ViT-B-32", pretrained=str(path)))
    assert clip.embed_images(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    assert clip.embed_prompts(clip.initial_prompts((2, 1, 30), "uniform")).shape == (2, 1, 512)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClipConfig(model="ViT-B-33"), r"'ViT-B-33' is not an open_clip model \(did you mean 'ViT-B-32'"),
        (ClipConfig(model="ViT-B-32", pretrained="laion9b"), "neither a weights file nor a tag of ViT-B-32"),
        (ClipConfig(pretrained="/no/such/file"), "neither a weights file nor a tag"),
    ],
)
def test_unknown_models_and_weights_are_named(config: ClipConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_clip(config)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"visual.proj": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match="could not be loaded into scenes-mini"):
        load_clip(ClipConfig(pretrained=str(path)))


def test_pretraining_pictures_have_independent_objects_and_grounds() -> None:
    rng = np.random.default_rng(0)
    contents = [draw_picture(rng).content for _ in range(1500)]
    boats = [c for c in contents if "boat" in c and len(c) == 2 and not c <= set(scenes.CLASSES)]
    at_sea = sum("sea" in c for c in boats) / len(boats)
    assert at_sea < 0.3  # one ground of twelve, against nine of ten in the scenes


def test_a_companion_makes_its_class_expected() -> None:
    assert is_expected(frozenset({"train"}), frozenset({"railway"}))
    assert is_expected(frozenset({"train", "boat"}), frozenset({"railway", "boat"}))
    assert not is_expected(frozenset({"train"}), frozenset({"sea", "boat"}))
    assert not is_expected(frozenset({"railway"}), frozenset({"train"}))


def test_captions_name_what_is_there() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        content = draw_picture(rng).content
        text, named = write_caption(rng, content)
        assert named and named <= content and all(name in text for name in named)


def test_contrast_counts_every_true_caption() -> None:
    """Two pictures, two captions, all true: whatever the embeddings, nothing is wrong and the loss is 0."""
    e = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    assert contrast(e, e.flip(0), torch.ones(2, 2, dtype=torch.bool), torch.tensor(10.0)).abs() < 1e-6
    assert contrast(e, e.flip(0), torch.eye(2, dtype=torch.bool), torch.tensor(10.0)) > 0.1
