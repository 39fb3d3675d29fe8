"""Choosing without a single mask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semples.config import Config, parse, with_changes
from semples.data import load_data, voc
from semples.data.dataset import Dataset
from semples.errors import UserError
from semples.output import write_run
from semples.pipeline.keys import key_parts
from semples.pipeline.run import run
from semples.proxy import agreement
from semples.stages.prompts import load_prompts
from semples.store import Store


def quiet(event: object) -> None:
    pass


def test_true_masks_agree_better_than_wrong_ones(tiny: Config, tmp_path: Path) -> None:
    config = with_changes(tiny, {"selection": "proxy", "data.holdout": 24, "runtime.device": "cpu"}, "test")
    data = load_data(config.data)
    with Store(tmp_path) as store:
        prompts = load_prompts(run(config, store, quiet, until="prompts").folders["prompts"])

        def truth(i: int) -> np.ndarray:
            mask = data.holdout.mask(i)
            assert mask is not None
            return mask

        right = agreement(config, data, prompts, truth)
        nothing = agreement(config, data, prompts, lambda i: np.zeros_like(truth(i)))
        shifted = agreement(config, data, prompts, lambda i: np.roll(truth(i), 24, (0, 1)))
        whole = agreement(config, data, prompts, lambda i: np.full_like(truth(i), truth(i)[truth(i) > 0].min()))
    assert right > shifted + 10 and right > nothing + 10 and right > whole + 10


def write_folder(data: Dataset, root: Path) -> dict[str, object]:
    (root / "images").mkdir(parents=True)
    lines = ["image,labels"]
    for i, name in enumerate(data.train.names):
        Image.fromarray(data.train.image(i)).save(root / "images" / f"{name}.png")
        lines.append(f"{name}.png,{';'.join(data.classes[k] for k in np.flatnonzero(data.train.labels[i]))}")
    (root / "labels.csv").write_text("\n".join(lines))
    return {"kind": "folder", "root": str(root), "holdout": 8}


def write_voc(data: Dataset, root: Path) -> dict[str, object]:
    voc.write(data, root)
    shutil.rmtree(root / "SegmentationClass")
    return {"kind": "voc", "root": str(root), "holdout": 8, "classes": data.classes}


@pytest.mark.parametrize("write", [write_folder, write_voc])
def test_a_run_without_a_single_mask_goes_to_its_end(
    tiny: Config, tmp_path: Path, write: Callable[[Dataset, Path], dict[str, object]]
) -> None:
    of_folder = write(load_data(tiny.data), tmp_path / "data")
    dump = tiny.model_dump(mode="json")
    with pytest.raises(UserError, match="add a few, or take selection=proxy"), Store(tmp_path / "store") as store:
        run(parse({**dump, "data": of_folder}, "test"), store, quiet)
    config = parse({**dump, "data": of_folder, "selection": "proxy"}, "test")
    with Store(tmp_path / "store") as store:
        result = run(config, store, quiet)
        write_run(result, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert {"proxy/pseudo_miou", "proxy/seg_miou"} <= set(metrics)
    assert not [name for name in metrics if name.endswith("_miou") and not name.startswith("proxy/")]
    assert (tmp_path / "run" / "gallery.png").exists()


def test_masks_are_reported_but_choose_nothing_under_proxy(tiny: Config, tmp_path: Path) -> None:
    config = with_changes(tiny, {"selection": "proxy"}, "test")
    with Store(tmp_path) as store:
        metrics = run(config, store, quiet).metrics
    assert {"proxy/pseudo_miou", "pseudo_miou", "seg_miou"} <= set(metrics)
    assert metrics["classify/cam_miou_background"] == pytest.approx(0.5, abs=0.01)
    assert metrics["seg_epoch"] == config.segment.epochs


def test_only_under_proxy_do_masks_depend_on_the_prompts_that_judge_them(tiny: Config) -> None:
    inputs = {
        selection: key_parts(with_changes(tiny, {"selection": selection}, "test"), "")["masks"]["inputs"]
        for selection in ("holdout", "proxy")
    }
    assert set(inputs["holdout"]) == {"heatmaps"} and set(inputs["proxy"]) == {"heatmaps", "prompts"}
