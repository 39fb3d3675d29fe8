"""One contract for every data layout, that of another package included."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import (
    report_of,
    write_coco_official,
    write_coco_toco,
    write_coco_weaktr,
    write_folder,
    write_tiles,
    write_voc,
    write_voc_with_masks_only,
    write_voc_with_xml,
)

from semples.config import DataConfig, OtherData, ScenesData
from semples.data import layout, load_data
from semples.data.check import check, recognise
from semples.errors import UserError
from semples.testing.layouts import LayoutContract


def draw_scenes(root: Path) -> DataConfig:
    return ScenesData(train=24, holdout=4, test=4)


@pytest.mark.usefixtures("other_package")
class TestEveryLayout(LayoutContract):
    @pytest.fixture(
        params=[draw_scenes, write_voc, write_voc_with_xml, write_voc_with_masks_only, write_folder, write_tiles]
    )
    def config(self, request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
        config: DataConfig = request.param(tmp_path / "data")
        return config


class TestCoco(LayoutContract):
    """Of COCO's 80 categories the scenes have 8."""

    @pytest.fixture(params=[write_coco_official, write_coco_toco, write_coco_weaktr])
    def config(self, request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
        config: DataConfig = request.param(tmp_path / "data")
        return config

    def test_a_layout_of_files_is_recognised_and_found_good(self, config: DataConfig) -> None:
        assert recognise(Path(getattr(config, "root", ""))).kind == "coco"
        assert report_of(config).problems == ()


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(UserError, match=r"data.kind 'vocc' is neither voc, .* nor an entry point.*mean 'voc'"):
        load_data(OtherData(kind="vocc"))


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("other_broken", "import nowhere_at_all", r"data.kind 'tiles': its package gives no other_broken \(No module"),
        ("other_broken", "", "data.kind 'tiles': its package gives no layout, for there is no `load` in it"),
        ("other_broken:gone", "", r"data.kind 'tiles': its package gives no other_broken:gone \(module"),
    ],
)
def test_a_package_that_gives_no_layout_is_named(other_package: Path, module: str, text: str, message: str) -> None:
    (other_package / "other_broken.py").write_text(text)
    (file,) = other_package.rglob("entry_points.txt")
    file.write_text(file.read_text().replace("tiles = other_layout", f"tiles = {module}"))
    with pytest.raises(UserError, match=message):
        layout(OtherData(kind="tiles"))


def test_data_that_list_no_files_cannot_be_looked_through(other_package: Path) -> None:
    (other_package / "other_layout.py").write_text("def load(config): ...")
    for config in (ScenesData(), OtherData(kind="tiles")):
        with pytest.raises(UserError, match=f"data of the kind {config.kind} lists no files"):
            check(config)
