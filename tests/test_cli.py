"""The commands as a user calls them; mistakes are one sentence on stderr and exit code 2."""

from __future__ import annotations

import errno
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import MADE, SMALL, TINY, Command
from PIL import Image

from semples.data import scenes, voc


def tiny_file(**changes: object) -> Path:
    path = Path("tiny.yaml")
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def small_file() -> Path:
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_run_predict_evaluate(command: Command) -> None:
    code, out, err = command("semples", "run", tiny_file(), "segment.epochs=1", "--out", "r")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[: len(MADE)]] == list(MADE)  # in a log a line for each
    assert "pseudo mask mIoU" in out and "chosen on holdout masks" in out
    for name in ("result.json", "config.yaml", "gallery.png", "network.safetensors", "prompts.safetensors"):
        assert (Path("r") / name).stat().st_size > 0
    assert yaml.safe_load(Path("r/config.yaml").read_text())["segment"]["epochs"] == 1
    before = Path("r/result.json").read_text()
    code, out, _ = command("semples", "run", tiny_file(), "segment.epochs=1", "--out", "r")
    assert code == 0 and out.count("(stored)") == len(MADE)
    assert yaml.safe_load(before)["metrics"] == yaml.safe_load(Path("r/result.json").read_text())["metrics"]

    split = scenes.draw(24, 8, 8, 0).test
    voc.write(scenes.draw(24, 8, 8, 0), Path("tree"))
    pictures = [f"tree/JPEGImages/{name}.png" for name in split.names]
    assert command("semples", "predict", *pictures, "--run", "r", "--out", "all")[0] == 0
    code, out, _ = command("semples", "evaluate", "all", "tree/SegmentationClass")
    reported = yaml.safe_load(before)["metrics"]["seg_miou"]  # the masks written are those that were measured
    assert f"{reported:.2f}" in out.splitlines()[-2]
    Image.fromarray(split.image(0)).save("photo.jpg")
    code, out, _ = command("semples", "predict", "photo.jpg", "--run", "r", "--out", "p")
    assert code == 0 and np.asarray(Image.open("p/photo.png")).shape == split.image(0).shape[:2]
    picture = Path(pictures[0])
    before_it = picture.read_bytes()
    code, _, err = command("semples", "predict", picture, "--run", "r", "--out", picture.parent)
    assert code == 2 and "no prediction has written" in err and picture.read_bytes() == before_it
    code, out, _ = command("semples", "evaluate", "p", "p", "--run", "r")
    assert code == 0 and "100.00" in out and "precision" in out and "recall" in out and "background" in out
    code, out, _ = command("semples", "prompts", "r", "--top", 3)
    assert code == 0 and all(name in out for name in scenes.CLASSES)


def test_stages_and_store(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = command("semples", "stages", small_file(), "--out", "r")
    assert code == 0 and out.count("missing") == len(MADE)
    assert command("semples", "run", small_file(), "--out", "r")[0] == 0
    code, out, _ = command("semples", "stages", small_file(), "masks.background=0.7", "--out", "r")
    assert code == 0 and out.count("stored") == 6 and out.count("missing") == 3
    code, facts, err = command("semples", "stages", small_file(), "masks.background=0.7", "--out", "r", "--json")
    rows = json.loads(facts)["stages"]
    assert (code, err, [row["stage"] for row in rows]) == (0, "", list(MADE))
    missing = {"masks", "measured_masks", "segment"}
    assert [row["state"] for row in rows] == ["missing" if name in missing else "stored" for name in MADE]
    assert rows[5]["reads"] == ["heatmaps"] and rows[-1]["reads"] == ["measured_masks"]
    kept = {path.name: json.loads((path / "result.json").read_text()) for path in Path("r/store").glob("?" * 32)}
    stored = [row for row in rows if row["stage"] not in missing]
    for row in stored:
        assert (row["seconds"], row["bytes"]) == tuple(kept[row["key"]][what] for what in ("seconds", "bytes"))
        assert row["key"][:12] in out and 0 <= time.time() - row["last_used"] < 600
    assert {row["bytes"] for row in rows if row["stage"] in missing} == {None}
    new = next(line.split("│")[2].strip() for line in out.splitlines() if "│ masks" in line)
    _, out, _ = command("semples", "store", "ls", "r/store")
    keys = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if "│" in line}
    assert len(keys) == len(MADE)
    why = ("semples", "stages", small_file(), "masks.background=0.7", "--out", "r", "--why")
    assert command(*why, keys["masks"], new) == (0, "masks.background: 0.5, 0.7\n", "")
    code, facts, _ = command(*why, keys["masks"], new, "--json")
    assert code == 0 and json.loads(facts) == {"differences": ["masks.background: 0.5, 0.7"]}
    assert command("semples", "run", small_file(), "match.lambda_b=2", "--out", "r")[0] == 0
    _, out, _ = command("semples", "store", "ls", "r/store")
    refined = [line.split("│")[2].strip() for line in out.splitlines() if "refine" in line]
    code, out, _ = command(*why, *refined)
    assert (code == 0 and sorted(out.split()) == sorted(["match.lambda_b:", "1.0,", "2.0"])) or "2.0, 1.0" in out
    code, _, err = command(*why, "zz", new)
    assert code == 2 and "--why zz: 0 known keys" in err

    code, out, _ = command("semples", "store", "du", "r/store")
    assert code == 0 and "all" in out and " 17 " in out
    assert command("semples", "store", "verify", "r/store") == (0, "17 results are as they were written\n", "")
    weights = next(path for path in Path("r/store").rglob("generator.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, out, err = command("semples", "store", "verify", "r/store")
    assert code == 2 and "16 results" in out and "1 damaged" in err
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # nobody died here who would have to be waited for
    code, out, _ = command("semples", "store", "prune", "r/store", "--keep", 0)
    assert code == 0 and "dropped 16 results" in out
    code, _, err = command("semples", "store", "ls", "nowhere")
    assert code == 2 and "nowhere: no such folder" in err


def test_evaluate_by_hand(command: Command) -> None:
    for folder, rows in (("truth", [[1, 1, 2, 255]]), ("made", [[1, 0, 1, 2]])):
        Path(folder).mkdir()
        Image.fromarray(np.array(rows, np.uint8)).save(f"{folder}/a.png")
    code, out, _ = command("semples", "evaluate", "made", "truth")
    lines = {line.split("│")[1].strip(): line.split("│")[2:5] for line in out.splitlines() if line.startswith("│")}
    assert code == 0
    assert [float(x) for x in lines["class 1"]] == [33.33, 50, 50]  # IoU 1 of 3, precision 1 of 2, recall 1 of 2
    assert [x.strip() for x in lines["class 2"]] == ["0.00", "nan", "0.00"]
    assert float(lines["mean over 1 masks"][0]) == 11.11
    Image.fromarray(np.zeros((2, 2), np.uint8)).save("made/a.png")
    code, _, err = command("semples", "evaluate", "made", "truth")
    assert code == 2 and "size (2, 2) differs from the true mask's (1, 4)" in err


def test_ablate(command: Command) -> None:
    words = ("semples", "ablate", tiny_file(), "--seeds", 2, "--out", "a", "--json", "a.json")
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    figures = json.loads(Path("a.json").read_text())
    for step in ("classify_cam", "match_cam", "refine_cam", "masks", "segment", "segment_true_masks"):
        assert figures[f"{step}_min"] <= figures[step] <= figures[f"{step}_max"]
    assert figures["refine_minus_match"] == pytest.approx(figures["refine_cam"] - figures["match_cam"])
    assert figures["refine_minus_match_low"] <= figures["refine_minus_match"] <= figures["refine_minus_match_high"]
    assert figures["seeds"] == 2 and all(isinstance(value, int | float) for value in figures.values())
    assert Path("a/ablation.md").read_text().strip() in out and "| refine - match |" in out
    stored = sorted(path.name for path in Path("a/store").iterdir())
    assert command(*words)[0] == 0 and sorted(path.name for path in Path("a/store").iterdir()) == stored


def test_data_check(command: Command) -> None:
    command("semples", "scenes", "write", "tree", "--train", 24, "--holdout", 8, "--test", 4)
    classes = yaml.safe_dump(list(scenes.CLASSES), default_flow_style=True, width=999).strip()
    words = ("semples", "data", "check", "tree", f"classes={classes}", "holdout=8")
    code, out, err = command(*words)
    assert (code, err) == (0, "") and "layout: voc" in out and "cls_labels.npy" in out and "nothing is missing" in out
    section = yaml.safe_load(out[out.index("data:") : out.index("For photographs")])
    assert section["data"]["kind"] == "voc" and section["data"]["classes"] == list(scenes.CLASSES)
    assert "semples run voc data.kind=voc data.root=tree\n" in out
    facts = json.loads(command(*words, "--json")[1])
    assert facts["data"] == section["data"] and facts["command"] == "semples run voc data.kind=voc data.root=tree"
    assert (facts["layout"], facts["problems"], facts["classes"]) == ("voc", [], list(scenes.CLASSES))
    train = facts["images"]["train"]
    assert (train["all"], train["with_mask"]) == (24, 24) and 24 <= sum(train["by_class"].values()) <= 24 * 5
    broken, gone = sorted(Path("tree/JPEGImages").iterdir())[:2]
    broken.write_bytes(broken.read_bytes()[:99])
    gone.unlink()
    code, out, err = command(*words)
    assert code == 2 and f"{broken.name}: broken image" in err and f"'{gone.stem}' is on a list but" in err
    code, out, err = command(*words, "--json")
    problems = json.loads(out)["problems"]
    assert code == 2 and len(problems) > 1 and all(problem in err for problem in problems)
    assert command("semples", "data", "check", ".")[2].startswith("error: .: no layout that is known")


def test_a_data_set_without_a_mask(command: Command) -> None:
    command("semples", "scenes", "write", "tree", "--train", 24, "--holdout", 8, "--test", 4)
    shutil.rmtree("tree/SegmentationClass")
    classes = yaml.safe_dump(list(scenes.CLASSES), default_flow_style=True, width=999).strip()
    code, out, err = command("semples", "data", "check", "tree", f"classes={classes}", "holdout=8")
    assert (code, err) == (0, "") and "it needs selection=proxy" in out
    tiny = {k: v for k, v in TINY.items() if k != "data"}
    Path("tree/config.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(Path("tree/config.yaml").read_text()), **tiny})
    )
    code, out, err = command("semples", "run", "tree/config.yaml", "selection=proxy", "--out", "r")
    assert (code, err) == (0, "") and "no mask to measure by (PROXY" in out
    code, _, err = command("semples", "ablate", "tree/config.yaml", "selection=proxy", "--out", "a")
    assert code == 2 and "an ablation needs true masks" in err
    again = ("semples", "run", "tree/config.yaml", "selection=proxy", "segment.train_on=ground_truth", "--out", "r")
    assert command(*again)[0] == 2


def test_masks_that_no_run_has_written_are_kept(command: Command) -> None:
    Path("mine/masks").mkdir(parents=True)
    Path("mine/masks/a.png").write_text("true")
    code, _, err = command("semples", "run", tiny_file(), "--out", "mine")
    assert code == 2 and "holds files that no run has written ('masks')" in err
    assert Path("mine/masks/a.png").read_text() == "true"


def test_written_scenes_run_as_a_voc_tree(command: Command) -> None:
    code, out, _ = command("semples", "scenes", "write", "tree", "--train", 24, "--holdout", 8, "--test", 4)
    assert code == 0 and "semples run tree/config.yaml" in out
    tiny = {k: v for k, v in TINY.items() if k != "data"}
    config = {**yaml.safe_load(Path("tree/config.yaml").read_text()), **tiny}
    Path("tree/config.yaml").write_text(yaml.safe_dump(config))
    code, out, err = command("semples", "run", "tree/config.yaml", "--out", "r")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["run", "mtach.lr=1"], "command line: unknown key 'mtach' (did you mean 'match'?)"),
        (["run", "match.lr=-1"], "command line: match.lr = -1 is not allowed: input should be greater than 0"),
        (["run", "clip.model=ViT-B-33"], "'ViT-B-33' is not an open_clip model"),
        (["run", "clip.pretrained=none.pt"], "clip.pretrained 'none.pt' is neither a weights file nor a tag"),
        (["run", "kind=voc"], "command line: unknown key 'kind'"),
        (["run", "data.seed=-1"], "data.seed = -1 is not allowed"),
        (["run", "augment.randaugment=foo"], "augment.randaugment 'foo' is nothing that timm knows"),
        (["run", f"data.classes=[{'x' * 300}]", "data.kind=voc", "data.root=none"], "data.root 'none' is not a folder"),
        (["scenes", "write", "file/tree"], "Not a directory; choose another"),
        (["run", "data.train=1", "data.seed=1"], "no training image shows the class 'aeroplane'"),
        (["run", "data.kind=voc", "data.root=none"], "data.root 'none' is not a folder"),
        (["run", "voc"], "voc.yaml: key 'data.root' is missing"),
        (["run", "data.kind=coco", "data.root=none"], "data.root 'none' is no COCO 2014 folder"),
        (
            ["run", "generator.kind=sam", "generator.out_indices=[1]"],
            "generator.out_indices': only the kinds cnn and weaktr can have it",
        ),
        (["run", "generator.kind=sam"], "generator.kind 'sam' is neither cnn, weaktr"),
        (["run", "generator.out_indices=[4, 1]"], "from the finest to the coarsest"),
        (["run", "generator.out_indices=[9]"], "generator.backbone 'resnet10t' cannot be built"),
        (["run", "segment.architecture=Nonet"], "segment.architecture 'Nonet'"),
        pytest.param(
            ["run", "runtime.device=cuda"],
            "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["run", "prompts.length=40"], "prompts.length 40 does not fit this CLIP's text tower; choose at most 34"),
        (["predict", "x.png"], "runs/run: no finished run here"),
        (["evaluate", "none", "none"], "none: no NAME.png here"),
    ],
)
def test_mistakes_of_semples(command: Command, words: list[str], message: str) -> None:
    if words[0] == "run" and not any(w.startswith("data.") for w in words):
        words = [*words, "data.train=24", *(f"{stage}.epochs=1" for stage in ("classify", "match", "prompts"))]
    Path("file").write_text("")
    code, _, err = command("semples", *words)
    assert code == 2
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1


def test_a_broken_image_is_named(command: Command) -> None:
    voc.write(scenes.draw(24, 8, 8, 0), Path("tree"))
    path = next(Path("tree/JPEGImages").glob("train-*.png"))
    path.write_bytes(b"not an image")
    data = {"kind": "voc", "root": "tree", "classes": list(scenes.CLASSES), "holdout": 8}
    code, _, err = command("semples", "run", tiny_file(data=data))
    assert code == 2 and f"{path.name}: broken image" in err and err.count("\n") == 1


def test_a_full_disk_is_said_and_nothing_is_lost(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("semples.generators.save_weights", full)
        code, _, err = command("semples", "run", tiny_file(), "--out", "r")
    assert code == 2 and "No space left on device; make room" in err and err.count("\n") == 1
    assert list(Path("r/store").glob("*/result.json")) == []
    (checkpoint,) = Path("r/store/work").glob("*/checkpoint.pt")
    assert command("semples", "run", tiny_file(), "--out", "r")[0] == 0
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch", "none.yaml"], "none.yaml: no such file"),
        (["launch", "scenes", "trials=0"], "trials is not allowed: input should be greater than or equal to 1"),
        (["launch", "scenes", "match.lamda_b=1"], "base: unknown key 'match.lamda_b' (did you mean 'match.lambda_b'?)"),
        (["launch", "scenes", "masks.background=0.9"], "space: masks.background does not include its base value 0.9"),
        (["status"], "sweeps: no sweeps here"),
        (["best", "none"], "sweeps/none: no sweep here"),
        (["export", "to"], "sweeps: no sweeps here"),
        (["ui"], "sweeps: no sweeps here"),
        (["launch", "scenes", "clip.model=ViT-B-33"], "'ViT-B-33' is not an open_clip model"),
        (["launch", "scenes", "data.kind=voc", "data.root=none"], "data.root 'none' is not a folder"),
        (["launch", "scenes", "generator.backbone=resnet999"], "generator.backbone 'resnet999' is not a timm model"),
    ],
)
def test_mistakes_of_semples_tune(command: Command, words: list[str], message: str) -> None:
    code, _, err = command("semples-tune", *words)
    assert code == 2
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1
    assert not list(Path("sweeps").glob("*/sweep.yaml"))  # the mistake is not remembered


@pytest.mark.parametrize("program", ["semples", "semples-tune"])
def test_help_says_what_each_command_does(command: Command, program: str) -> None:
    code, out, _ = command(program, "--help")
    assert code == 0
    names = {
        "semples": ["run", "predict", "evaluate", "prompts", "ablate", "data", "scenes"],
        "semples-tune": ["launch", "status", "best", "export", "ui"],
    }
    for name in names[program]:
        assert name in out
        assert command(program, name, "--help")[0] == 0
