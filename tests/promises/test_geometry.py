"""What is at a place stays at that place: through scales, mirror images, crops, resizing, padding, EXIF rotation, the
dense CRF and the files in between, for images of odd and of unequal sides too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from semples import generators, output
from semples.config import CnnConfig, Config, CrfConfig, WeakTrConfig, parse
from semples.crf import smooth_labels, smooth_probabilities
from semples.data import png_archive
from semples.data.dataset import IGNORE, Dataset, Split
from semples.data.files import GroundTruth, read_ground_truth, read_image
from semples.generators.cnn import Cnn
from semples.image_sets import ImageSet
from semples.stages import heatmaps, masks, segment

CLASSES = ("red", "green", "blue")
OFF: dict[str, Any] = {"iterations": 0}
CPU: dict[str, Any] = {"runtime": {"device": "cpu"}, "masks": {"crf": OFF}}
CONFIG: Config = parse({**CPU, "heatmaps": {"scales": [1.0, 1.3], "flip": True}}, "geometry")
SIZES = [(33, 50), (50, 33), (41, 41), (64, 96)]


def blob(size: tuple[int, int], y: float, x: float, width: float = 5.0) -> np.ndarray:
    """A smooth spot of height 1 at the place, as shares of the sides."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.exp(-((rows - y * size[0]) ** 2 + (columns - x * size[1]) ** 2) / (2 * width**2))


def picture(size: tuple[int, int], places: dict[int, tuple[float, float]]) -> np.ndarray:
    """uint8 (h, w, 3): a spot of the colour k at places[k]."""
    channels = [blob(size, *places[k]) if k in places else np.zeros(size) for k in range(3)]
    return (20 + 220 * np.stack(channels, -1)).astype(np.uint8)


PLACES: list[dict[int, tuple[float, float]]] = [
    {0: (0.2, 0.85)},
    {2: (0.85, 0.3)},
    {0: (0.75, 0.75), 1: (0.2, 0.2)},
    {1: (0.5, 0.9), 2: (0.9, 0.1)},
    {0: (0.1, 0.5), 1: (0.6, 0.1), 2: (0.8, 0.9)},
    {1: (0.15, 0.8)},
]


def true_mask(image: np.ndarray) -> np.ndarray:
    return np.where(image.max(2) > 130, 1 + image.argmax(2), 0).astype(np.uint8)


def make_split(name: str, places: list[dict[int, tuple[float, float]]]) -> Split:
    """Pictures of several sizes, out of order."""
    images = [picture(SIZES[i % 4], at) for i, at in enumerate(places)]
    labels = np.array([[k in at for k in range(3)] for at in places])
    truth = [true_mask(image) for image in images]
    names = tuple(f"{name}-{i}" for i in range(len(images)))
    return Split(names, labels, images.__getitem__, truth.__getitem__, tuple(range(len(images))))


SETS: tuple[ImageSet, ...] = ("holdout", "measured", "rest")
WHOLE, HOLDOUT = make_split("t", PLACES), make_split("h", PLACES[::-1])
MASKED = (0, 2, 3, 5)  # training images that have a true mask
TRAIN = replace(WHOLE, mask=lambda i: WHOLE.mask(i) if i in MASKED else None, annotated=MASKED)
DATA = Dataset(CLASSES, TRAIN, HOLDOUT, make_split("v", PLACES[:2]), "")


def truth_of(name: str) -> np.ndarray:
    split = HOLDOUT if name in HOLDOUT.names else WHOLE
    return np.asarray(split.mask(split.names.index(name)))


class Picture(nn.Module):
    """The CAMs, or scores, are the picture itself."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def centre(values: np.ndarray) -> np.ndarray:
    """Centre of gravity (y, x)."""
    weights = np.clip(values.astype(float) - 80, 0, None)
    return np.array([(axis * weights).sum() for axis in np.indices(weights.shape)]) / weights.sum()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (1.2,), (0.8, 1.0, 1.7)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_heatmap_lies_where_the_cam_is(size: tuple[int, int], scales: tuple[float, ...], flip: bool) -> None:
    image = picture(size, {0: (0.8, 0.85), 1: (0.15, 0.7), 2: (0.6, 0.15)})
    split = Split(("a",), np.ones((1, 3), bool), lambda i: image, lambda i: None, ())
    ((_, maps, present),) = heatmaps.compute_heatmaps(Picture(), split, [0], CONFIG, scales, flip)
    assert present.tolist() == [0, 1, 2] and maps.shape == (3, *size)
    for k in range(3):
        expected = 255 * (image[..., k] - 20.0) / 220
        assert centre(maps[k]) == pytest.approx(centre(expected), abs=0.15)
        assert np.abs(maps[k] - expected).mean() < 3


def test_the_smallest_image_has_heatmaps_at_the_smallest_scale() -> None:
    split = Split(("a",), np.ones((1, 3), bool), lambda i: np.zeros((7, 9, 3), np.uint8), lambda i: None, ())
    ((_, maps, _),) = heatmaps.compute_heatmaps(Picture(), split, [0], CONFIG, (0.05, 1.0), True)
    assert maps.shape == (3, 7, 9)


def test_every_image_gets_its_own_heatmaps_of_its_own_classes() -> None:
    """Images of several sizes are computed together, and some are left out."""
    found = list(heatmaps.compute_heatmaps(Picture(), DATA.train, [5, 0, 3, 4], CONFIG, (1.0,), False))
    assert sorted(i for i, _, _ in found) == [0, 3, 4, 5]
    for i, maps, present in found:
        assert present.tolist() == sorted(PLACES[i])
        for k, of_class in zip(present, maps, strict=True):
            assert centre(of_class) == pytest.approx(centre(DATA.train.image(i)[..., k]), abs=0.3)


def test_heatmaps_come_in_the_order_of_the_pairs_even_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmaps, "PIXELS", 1)
    monkeypatch.setattr(heatmaps, "CHUNK", 2)
    found = list(heatmaps.compute_heatmaps(Picture(), DATA.train, range(6), CONFIG, (1.0,), False))
    assert sorted(i for i, _, _ in found) == [*range(6)]
    assert all(maps.shape == (len(PLACES[i]), *SIZES[i % 4]) for i, maps, _ in found)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Heatmaps and pseudo masks of all pictures, through their files; the metrics of both stages, by set of images."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generators, "load", lambda *args: Picture())
        result: dict[str, Any] = {}
        for images in SETS:
            own = folder / images
            for stage, run in (("heatmaps", heatmaps.run), ("masks", masks.run)):
                (own / stage).mkdir(parents=True)
                inputs = {"refine": folder, "heatmaps": own / "heatmaps", "judged": folder / "holdout" / stage}
                if images == "holdout":
                    del inputs["judged"]
                metrics = run(CONFIG, DATA.treating(images), inputs, own / stage, lambda *a, **k: None)
                result[images, stage] = own / stage / png_archive.FILE, metrics
    return result


def test_every_training_image_is_in_one_set() -> None:
    sets = [DATA.treating(images).images for images in ("measured", "rest")]
    assert sorted(name for split in sets for name in split.names) == sorted(DATA.train.names)
    assert [*map(len, sets)] == [4, 2] and [len(split.annotated) for split in sets] == [4, 0]


@pytest.mark.parametrize("images", SETS)
def test_an_image_of_a_set_is_itself(images: ImageSet) -> None:
    whole = DATA.holdout if images == "holdout" else DATA.train
    split = DATA.treating(images).images
    for i, name in enumerate(split.names):
        there = whole.names.index(name)
        assert (split.image(i) == whole.image(there)).all() and (split.labels[i] == whole.labels[there]).all()
        one, other = split.mask(i), whole.mask(there)
        assert (i in split.annotated) == (one is not None) == (other is not None)
        assert one is None or (one == other).all()


@pytest.mark.parametrize("images", SETS)
def test_stored_heatmaps_lie_where_they_were(made: dict[Any, Any], images: ImageSet) -> None:
    split, stored = DATA.treating(images).images, png_archive.Reader(made[images, "heatmaps"][0])
    for i in range(len(split)):
        maps, present = heatmaps.read_heatmaps(stored, split, i)
        for k, of_class in zip(present, maps, strict=True):
            assert centre(of_class) == pytest.approx(centre(split.image(i)[..., k]), abs=0.3)


@pytest.mark.parametrize("images", SETS)
def test_the_pseudo_mask_of_an_image_has_its_name_and_its_objects(made: dict[Any, Any], images: ImageSet) -> None:
    split, stored = DATA.treating(images).images, png_archive.Reader(made[images, "masks"][0])
    for i, name in enumerate(split.names):
        mask, truth = stored.read(name), truth_of(name)
        assert mask.shape == split.image(i).shape[:2] and (mask == truth).mean() > 0.97


def test_pictures_that_are_their_own_cams_are_measured_as_good(made: dict[Any, Any]) -> None:
    found = made["measured", "heatmaps"][1] | made["measured", "masks"][1] | made["holdout", "masks"][1]
    assert min(found[name] for name in ("cam_miou", "pseudo_miou", "holdout/pseudo_miou")) > 90
    assert made["rest", "heatmaps"][1] == {} and not np.isfinite([*made["rest", "masks"][1].values()]).any()


def test_masks_that_people_get_are_those_of_the_training_images(made: dict[Any, Any], tmp_path: Path) -> None:
    output.write_masks([made[images, "masks"][0].parent for images in ("measured", "rest")], tmp_path)
    assert {path.stem for path in (tmp_path / "masks").iterdir()} == {*DATA.train.names}
    for name in DATA.train.names:
        with Image.open(tmp_path / "masks" / f"{name}.png") as mask:
            assert mask.mode == "P" and (np.asarray(mask) == truth_of(name)).mean() > 0.97


@pytest.mark.parametrize("smooth", ["labels", "probabilities"])
def test_the_crf_leaves_objects_where_they_are(smooth: str) -> None:
    image = np.full((24, 41, 3), (30, 40, 200), np.uint8)
    truth = np.zeros((24, 41), np.int64)
    truth[3:9, 28:38] = 1
    truth[14:22, 4:11] = 2
    image[truth == 1], image[truth == 2] = (210, 40, 40), (40, 210, 40)
    rough = np.roll(truth, (1, 1), (0, 1))
    crf = CrfConfig(gaussian_sxy=1.0, gaussian_compat=1.0)
    if smooth == "labels":
        smoothed = smooth_labels(rough, image, 3, crf)
    else:
        smoothed = smooth_probabilities(0.6 * np.eye(3, dtype=np.float32)[:, rough] + 0.4 / 3, image, crf)
    assert smoothed.shape == truth.shape and (smoothed != truth).sum() <= 4


def test_training_crops_image_and_mask_alike() -> None:
    """The picture says which pixel it is and so does the mask: bands of 16 columns and rows, told apart by colours."""
    rows, columns = np.indices((80, 112))
    image = np.stack([2 * columns, 3 * rows, np.zeros_like(rows)], -1).astype(np.uint8)
    mask = (8 * (rows // 16) + columns // 16).astype(np.uint8)
    split = Split(("a", "b"), np.ones((2, 1), bool), [np.zeros_like(image), image].__getitem__, lambda i: None, ())
    items = segment.MaskedImages(split, [np.full_like(mask, IGNORE), mask].__getitem__, [1], 64)
    torch.manual_seed(0)
    mirrored, corners = set(), set()
    assert len(items) == 1
    for _ in range(24):
        crop, target = items[0]
        back = 255 * (
            crop * torch.tensor(segment.IMAGENET_STD).view(3, 1, 1) + torch.tensor(segment.IMAGENET_MEAN).view(3, 1, 1)
        )
        x, y = back[0] / 2, back[1] / 3
        assert crop.shape == (3, 64, 64) and target.shape == (64, 64)
        said = (8 * (y // 16) + x // 16).long()
        assert (said == target).float().mean() > 0.8  # all but the borders of the bands
        inner = ((x % 16 - 8).abs() < 6) & ((y % 16 - 8).abs() < 6)
        assert bool((said == target)[inner].all())
        mirrored.add(bool(x[32, 0] > x[32, -1]))
        corners.add(int(target[0, 0]))
    assert mirrored == {False, True} and len(corners) > 3


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.75,), (1.0, 1.3)], ids=str)
@pytest.mark.parametrize("size", [(64, 96), (51, 70), (70, 33)], ids=str)
def test_what_the_network_sees_is_predicted_at_its_place(
    size: tuple[int, int], scales: tuple[float, ...], flip: bool
) -> None:
    image = picture(size, {0: (0.8, 0.85), 1: (0.15, 0.7), 2: (0.6, 0.15)})
    network = nn.Conv2d(3, 4, 1)
    with torch.no_grad():  # background where no colour is above the middle
        network.weight[:] = torch.cat([torch.zeros(1, 3), 20 * torch.eye(3)]).view(4, 3, 1, 1)
        network.bias[:] = torch.tensor(
            [
                0.0,
                *(-20 * (130 / 255 - m) / s for m, s in zip(segment.IMAGENET_MEAN, segment.IMAGENET_STD, strict=True)),
            ]
        )
    test = parse({"segment": {"test": {"scales": scales, "flip": flip, "crf": OFF}}}, "geometry").segment.test
    seen: list[tuple[int, ...]] = []
    network.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape[2:])))
    mask, truth = segment.predict(network.eval(), image, CONFIG.runtime, test), true_mask(image)
    assert mask.shape == size and (mask != truth).mean() < 0.03
    for k in range(1, 4):
        assert centre(255 * (mask == k)) == pytest.approx(centre(255 * (truth == k)), abs=0.35)
    assert len(seen) == len(scales) * (1 + flip) and all(h % 32 == w % 32 == 0 for h, w in seen)


def test_maps_of_a_cnn_lie_upon_each_other() -> None:
    """Coarse maps are enlarged to the finest and added: the same spot in all of them is one spot."""
    cnn: Cnn = generators.build(CnnConfig(out_indices=(1, 2, 3)), 2).eval()
    spot = torch.from_numpy(blob((32, 48), 0.75, 0.2, 6.0)).float()[None, None]
    for head in cnn.heads:
        with torch.no_grad():
            head.weight.zero_()
            head.weight[1, 0] = 1.0
    features = tuple(
        F.pad(F.avg_pool2d(spot, 2**n), (0, 0, 0, 0, 0, head.in_channels - 1)) for n, head in enumerate(cnn.heads)
    )
    cams = cnn.cams(features)
    assert cams.shape == (1, 2, 32, 48) and not cams[0, 0].any()
    assert centre(85 * cams[0, 1].detach().numpy()) == pytest.approx(centre(255 * spot[0, 0].numpy()), abs=0.2)
    assert torch.allclose(cams[0, 1], 3 * spot[0, 0], atol=0.3)


def test_a_patch_of_weaktr_stays_at_its_place() -> None:
    torch.manual_seed(0)
    generator = generators.build(WeakTrConfig(kind="weaktr", pretrained=False), 3).eval()
    images = torch.zeros(1, 3, 24, 40)
    images[:, :, 8:12, 28:32] = 2.0  # of 6 x 10 patches the one at 2, 7
    with torch.no_grad():
        (_, there, outputs, *attention), (_, before, *_) = generator.features(images), generator.features(0 * images)
        moved = (there - before).norm(dim=1)[0]
        assert moved.shape == (6, 10) and divmod(int(moved.argmax()), 10) == (2, 7)
        # every patch attends to itself alone, every class token to all patches: the CAM is what the convolution says
        k = generator.classes
        alike = [torch.cat([torch.ones(k, k + 60), torch.eye(k + 60)[k:]]).expand_as(a) for a in attention]
        generator.head.weight.zero_()
        generator.head.weight[1, 0, 1, 1] = 1.0
        spot = torch.zeros(1, there.shape[1], 6, 10)
        spot[0, 0, 4, 1] = 1.0
        cam = generator.cams((torch.zeros(1), spot, outputs, *alike))
    assert cam.shape == (1, 3, 6, 10) and divmod(int(cam[0, 1].argmax()), 10) == (4, 1)
    assert int((cam > 0).sum()) == 1


SEEN: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # what is stored so that a viewer shows the image
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: np.rot90, 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", SEEN)
def test_an_image_and_its_mask_are_as_one_sees_them(tmp_path: Path, orientation: int) -> None:
    image = picture((20, 31), {0: (0.2, 0.8), 1: (0.8, 0.2)})
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.png"
    Image.fromarray(np.ascontiguousarray(SEEN[orientation](image))).save(path, exif=exif)
    assert (read_image(path) == image).all()
    assert read_ground_truth(GroundTruth(lambda: true_mask(image), path), path).shape == (20, 31)
