"""Nothing of somebody's is written over, and of two things of one name none is lost without a word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TINY, Command
from launches import Machine, launched, sweep_of
from PIL import Image

from semples.errors import UserError
from semples.folders import MARKER, claim, kind_of
from tune.driver import launch
from tune.study import load_study
from tune.sweep_folder import load_launched


@pytest.fixture
def network(command: Command, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In the place of a finished run: every image is all of one class, the height of the image."""
    from semples.config import Config  # noqa: PLC0415

    seen: list[str] = []

    class Anything:
        def to(self, device: str) -> Anything:
            return self

    def predict(network: Any, image: np.ndarray, runtime: Any, test: Any) -> np.ndarray:
        seen.append(str(image.shape))
        return np.full(image.shape[:2], image.shape[0] % 3, np.uint8)

    Path("run").mkdir()
    Path("run/network.safetensors").write_text("x")
    monkeypatch.setattr("semples.api.read_run", lambda folder: (Config(), {"classes": ["a", "b"]}))
    monkeypatch.setattr("semples.stages.segment.load_network", lambda *words: Anything())
    monkeypatch.setattr("semples.stages.segment.predict", predict)
    for i, name in enumerate(("a/photo.png", "b/photo.jpg", "a/other.png")):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4 + i)).save(name)
    return seen


def test_two_images_of_one_name_are_refused_before_anything_is_written(command: Command, network: list[str]) -> None:
    for images in (["a/photo.png", "b/photo.jpg"], ["a/photo.png", "a/other.png", "a/photo.png"]):
        code, _, err = command("semples", "predict", *images, "--run", "run", "--out", "p")
        assert code == 2 and "two of the images have the same name" in err
    assert not network and not Path("p").exists()


def test_masks_of_several_calls_lie_side_by_side_and_each_is_of_its_own_image(
    command: Command, network: list[str]
) -> None:
    for images in (["a/photo.png", "a/other.png"], ["b/photo.jpg"]):
        assert command("semples", "predict", *images, "--run", "run", "--out", "p")[0] == 0
    sizes = {path.name: np.asarray(Image.open(path)).shape for path in Path("p").glob("*.png")}
    assert sizes == {"photo.png": (5, 4), "other.png": (6, 4)}, "the second call replaced what the first had made"
    Image.new("L", (9, 9)).save("p/other.png")  # by hand
    before = Path("p/other.png").read_bytes()
    code, _, err = command("semples", "predict", "a/photo.png", "a/other.png", "--run", "run", "--out", "p")
    assert code == 2 and "other.png: is not what was written there" in err
    assert Path("p/other.png").read_bytes() == before
    assert np.asarray(Image.open("p/photo.png")).shape == (5, 4), "and nothing was begun"


def test_a_prediction_is_no_place_for_anything_else(command: Command, network: list[str]) -> None:
    assert command("semples", "predict", "a/photo.png", "--run", "run", "--out", "p")[0] == 0
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    for words in (["run", "tiny.yaml", "--out", "p"], ["scenes", "write", "p"], ["ablate", "tiny.yaml", "--out", "p"]):
        code, _, err = command("semples", *words)
        assert code == 2 and "is the folder of a prediction" in err
    assert {path.name for path in Path("p").iterdir()} == {"photo.png", MARKER}


def test_a_best_that_was_changed_by_hand_is_kept(tmp_path: Path, machine: Machine) -> None:
    launched(tmp_path, trials=1)
    best = tmp_path / "s" / "best.yaml"
    best.write_text("mine")
    with pytest.raises(UserError, match=r"best\.yaml: is not what was written there"):
        launched(tmp_path, trials=2)
    assert best.read_text() == "mine" and len(machine.configs) == 1, "before anything was computed"
    best.unlink()
    machine.during = lambda: best.write_text("mine")
    why, study = launched(tmp_path, trials=2)
    assert why and len(study.get_trials()) >= 2 and best.read_text() == "mine"


def test_a_file_of_somebody_in_the_folder_of_a_trial_is_kept(tmp_path: Path, machine: Machine) -> None:
    launched(tmp_path, trials=1)
    trial = tmp_path / "s" / "trials" / "0001"
    trial.mkdir()
    (trial / "notes.txt").write_text("mine")
    launched(tmp_path, trials=2)
    assert (trial / "notes.txt").read_text() == "mine" and (trial / "result.json").exists()
    written = {"result.json", "config.yaml", "gallery.png", "by_image.npz", MARKER}
    assert {p.name for p in trial.iterdir()} == written | {"notes.txt"}


def test_an_export_replaces_an_export_only_and_none_that_was_changed(
    command: Command, tmp_path: Path, machine: Machine
) -> None:
    out = tmp_path / "sweeps"
    launched(out, trials=2, objective="seg_miou")
    export = ("semples-tune", "export", "to", "--out", out)
    assert command(*export)[0] == 0 and kind_of(Path("to")) == "export"
    first = Path("to/network.safetensors").read_text()
    assert command(*export, "--trial", 1)[0] == 0 and Path("to/network.safetensors").read_text() != first
    for name in ("network.safetensors", "config.yaml", "gallery.png", "result.json"):
        before = {path.name: path.read_bytes() for path in Path("to").iterdir()}
        kept = before[name]
        Path("to", name).write_bytes(b"mine")
        code, _, err = command(*export)
        assert code == 2 and f"{name}: is not what was written there" in err
        after = {path.name: path.read_bytes() for path in Path("to").iterdir()}
        assert after == {**before, name: b"mine"}
        Path("to", name).write_bytes(kept)
    for other in (out, out / "s", out / "s" / "store", out / "s" / "trials" / "0000"):
        code, _, err = command("semples-tune", "export", other, "--out", out)
        assert code == 2 and "not of a export" in err.replace("an export", "a export"), other


def test_an_export_of_results_that_are_gone_makes_nothing(command: Command, tmp_path: Path, machine: Machine) -> None:
    out = tmp_path / "sweeps"
    launched(out, trials=1)
    shutil.rmtree(next(p for p in (out / "s" / "store").iterdir() if (p / "generator.safetensors").exists()))
    code, _, err = command("semples-tune", "export", "to", "--out", out)
    assert code == 2 and "is gone; compute it with: semples run" in err
    assert not list(Path("to").glob("*.safetensors")) and not (Path("to") / "result.json").exists()


def test_two_sweeps_of_one_name_are_not_mixed(tmp_path: Path, machine: Machine) -> None:
    launched(tmp_path, trials=2)
    before = load_study(tmp_path / "s", load_launched(tmp_path / "s")).get_trials()
    sweep = (tmp_path / "s" / "sweep.yaml").read_text()
    with pytest.raises(UserError, match="holds a sweep with another 'space'"):
        launched(tmp_path, trials=2, space={"prompts.count": {"int": [1, 2]}})
    assert (tmp_path / "s" / "sweep.yaml").read_text() == sweep
    assert load_study(tmp_path / "s", load_launched(tmp_path / "s")).get_trials() == before
    launched(tmp_path, trials=2, name="s2", space={"prompts.count": {"int": [1, 2]}})
    assert (tmp_path / "s" / "sweep.yaml").read_text() == sweep


def test_a_sweep_of_which_the_file_is_gone_is_not_begun_anew(tmp_path: Path, machine: Machine) -> None:
    launched(tmp_path, trials=1)
    (tmp_path / "s" / "sweep.yaml").unlink()
    with pytest.raises(UserError, match=r"its sweep\.yaml is gone, but not its study or trials/"):
        launched(tmp_path, trials=1)
    assert not (tmp_path / "s" / "sweep.yaml").exists()


def test_the_data_are_no_place_for_a_sweep_or_its_store(tmp_path: Path, machine: Machine) -> None:
    from semples.data import scenes, voc  # noqa: PLC0415

    voc.write(scenes.draw(24, 8, 8, 0), tmp_path / "tree")
    tree = tmp_path / "tree"
    names = {p.name for p in tree.rglob("*")}
    data = {"kind": "voc", "root": str(tree), "classes": list(scenes.CLASSES), "holdout": 8}
    for out, store in ((tree, ""), (tree / "x", ""), (tmp_path, ""), (tmp_path / "o", str(tree))):
        sweep = sweep_of(base={**TINY, "data": data}, store=store)
        with pytest.raises(UserError, match="overlaps the data in"):
            launch(sweep, out, None, lambda *_: None)
    assert {p.name for p in tree.rglob("*")} == names


def test_of_two_files_of_one_name_that_differ_only_in_case_both_stay(tmp_path: Path) -> None:
    if os.path.exists(str(tmp_path).upper()):
        pytest.skip("this file system does not tell them apart")
    with claim(tmp_path / "out", "run").publishing() as new:
        (new / "A.png").write_text("1")
        (new / "a.png").write_text("2")
    assert [(tmp_path / "out" / name).read_text() for name in ("A.png", "a.png")] == ["1", "2"]


def test_masks_that_somebody_changed_stay_when_a_run_is_replaced(tmp_path: Path) -> None:
    """Where a mask is changed between the look at the folder and the end of the run."""
    folder = claim(tmp_path / "out", "run")
    for names in (("a.png", "b.png", "c.png"), ("a.png",)):
        with folder.publishing(replaced=("masks",)) as new:
            (new / "masks").mkdir()
            for name in names:
                (new / "masks" / name).write_text("ours")
            if len(names) == 1:
                (folder.path / "masks" / "b.png").write_text("mine")
    left = {path.name: path.read_text() for path in (folder.path / "masks").iterdir()}
    assert left == {"a.png": "ours", "b.png": "mine"}


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    folder = claim(tmp_path / "out", "run")
    (tmp_path / "theirs").mkdir()
    (folder.path / "masks").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="masks: is a link"), folder.publishing() as new:
        (new / "masks").mkdir()
        (new / "masks" / "a.png").write_text("ours")
    assert not list((tmp_path / "theirs").iterdir())


def test_what_tells_of_the_others_comes_last_and_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads result.json while a run is replaced finds the files of one and the same run, or no result."""
    moved: list[str] = []
    replace = os.replace

    def watch(source: Path, to: Path) -> None:
        names = {p.name for p in Path(to).parent.iterdir()}
        moved.append(Path(to).name)
        assert Path(to).name == "result.json" or "result.json" not in names
        replace(source, to)

    monkeypatch.setattr("semples.folders.os.replace", watch)
    for text in "12":
        with claim(tmp_path / "out", "run").publishing(last="result.json") as new:
            for name in ("config.yaml", "result.json", "zebra.png"):
                (new / name).write_text(text)
    assert moved[2::3] == ["result.json"] * 2


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)
