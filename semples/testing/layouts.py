"""The contract of a data layout, see semples.data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semples.config import DataConfig
from semples.data import layout
from semples.data.check import check, recognise
from semples.data.classes import check_classes
from semples.data.dataset import IGNORE, Dataset, Split
from semples.errors import UserError


def splits(data: Dataset) -> Iterator[Split]:
    yield from (data.train, data.holdout, data.test)


class LayoutContract:
    """What a run relies on. Take it as base class and give the fixture `config`, the section `data` of a configuration
    for a small data set in this layout, written anew for every test: tests change its files."""

    @pytest.fixture
    def config(self) -> DataConfig:
        raise NotImplementedError

    @pytest.fixture
    def data(self, config: DataConfig) -> Dataset:
        found: Dataset = layout(config).load(config)
        return found

    def test_every_image_is_in_one_split(self, data: Dataset) -> None:
        names = [name for split in splits(data) for name in split.names]
        assert len(names) == len({*names}) and all(len(split) for split in splits(data))

    def test_images_are_rgb_of_8_bits(self, data: Dataset) -> None:
        for split in splits(data):
            for i in range(len(split)):
                image = split.image(i)
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
                assert (image == split.image(i)).all()

    def test_labels_are_one_row_an_image(self, data: Dataset) -> None:
        check_classes(data.classes, "the classes")
        for split in splits(data):
            assert split.labels.shape == (len(split), data.num_classes) and split.labels.dtype == bool

    def test_masks_have_the_size_of_their_image_and_the_values_of_classes(self, data: Dataset) -> None:
        for split in splits(data):
            assert list(split.annotated) == [i for i in range(len(split)) if split.mask(i) is not None]
            for i in split.annotated:
                mask = split.mask(i)
                assert mask is not None and mask.dtype == np.uint8 and mask.shape == split.image(i).shape[:2]
                assert {*np.unique(mask)} <= {*range(data.num_classes + 1), IGNORE}

    def test_it_is_the_same_when_it_is_loaded_again(self, config: DataConfig, data: Dataset) -> None:
        again: Dataset = layout(config).load(config)
        assert (again.fingerprint, again.classes) == (data.fingerprint, data.classes)
        for one, other in zip(splits(data), splits(again), strict=True):
            assert one.names == other.names and (one.labels == other.labels).all() and one.annotated == other.annotated

    def test_what_is_no_data_set_is_one_sentence(self, config: DataConfig, tmp_path: Path) -> None:
        if not getattr(config, "root", ""):
            pytest.skip("it has no folder")
        (tmp_path / "empty").mkdir()
        for root in (tmp_path / "empty", tmp_path / "nowhere"):
            with pytest.raises(UserError) as error:
                layout(config).load(config.model_copy(update={"root": str(root)}))
            assert "\n" not in str(error.value)

    def test_a_layout_of_files_is_recognised_and_found_good(self, config: DataConfig) -> None:
        if not hasattr(layout(config), "read_listing"):
            pytest.skip("it lists no files")
        assert recognise(Path(getattr(config, "root", ""))).kind == config.kind
        assert check(config).problems == ()

    def test_an_image_that_was_changed_makes_other_data(self, config: DataConfig, data: Dataset) -> None:
        if not hasattr(layout(config), "read_listing"):
            pytest.skip("it lists no files")
        path = layout(config).read_listing(config).image(data.train.names[0])
        Image.fromarray(255 - data.train.image(0)).save(path)
        assert layout(config).load(config).fingerprint != data.fingerprint
