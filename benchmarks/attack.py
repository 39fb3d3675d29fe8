"""Bad inputs over every command and option: is each answered in one sentence, and is everything around left as it was?

    python benchmarks/attack.py [--json FILE] [--only WORD] [--every N] [--show]

A small world is made first (a finished run, a sweep, a store, three data sets). Every case of attack_cases.py then runs
in a process and a folder of its own, up to the point where a command would begin to work. Figures: tried; one_sentence,
refused by one line on stderr and exit code 2; handled, came through or refused where both are right; traceback,
last_resort (the sentence for what should not happen), several_lines, accepted_nonsense, hang (no answer in 40 s);
files_changed, cases in which a file was changed, removed or made outside of the product's own folders. All but the
first three must be 0. --only: cases whose kind contains the word; --every: each Nth of them; --show: print the answer
to every case. About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import yaml
from attack_case import SWEEP, Case
from attack_cases import cases
from PIL import Image

import semples.ablation
import semples.api
import semples.clip
import semples.commands.app
import semples.preflight
import semples.pretrain
import tune.commands.app
import tune.driver
from semples.config import ClipConfig
from semples.data import scenes, voc
from semples.data.scenes import CLASSES
from semples.folders import MARKER
from semples.guard import guard

AT_ONCE, PATIENCE, MEMORY = 2, 40.0, 12 * 10**9
BAD = ("traceback", "last_resort", "several_lines", "accepted_nonsense", "hang", "files_changed")
TINY: dict[str, Any] = {
    "data": {"train": 24, "holdout": 8, "test": 8},
    **{stage: {"epochs": 1} for stage in ("classify", "match", "refine")},
    "prompts": {"epochs": 1, "length": 8}, "heatmaps": {"scales": [1.0]}, "segment": {"epochs": 1},
}  # fmt: skip


class Begun(BaseException):
    """The command took its input and would begin to work."""


def begin(*args: Any, **kwargs: Any) -> Any:
    """In the place of what works."""
    raise Begun


# ------------------------------------------------------------------------------------------------ the world
def make_world(world: Path) -> None:
    """A finished run, a sweep of two trials, a store and three data sets, in the folder `world`."""
    world.mkdir()
    (world / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (world / "mine.txt").write_text("mine")
    tiny = {**TINY, "segment": {"epochs": 1}}
    (world / "sweep-tiny.yaml").write_text(yaml.safe_dump({**SWEEP, "name": "tiny", "base": tiny}))
    data = scenes.draw(24, 8, 8, 0)
    voc.write(data, world / "voc")
    section = {"kind": "voc", "root": "voc", "classes": list(CLASSES), "holdout": 8}
    (world / "voc/config.yaml").write_text(yaml.safe_dump({**TINY, "data": section}))
    write_folder(world)
    write_coco(world)
    Image.fromarray(data.test.image(0)).save(world / "photo.png")
    call(world, "semples", "run", "tiny.yaml", "--out", "run")
    call(world, "semples-tune", "launch", "sweep-tiny.yaml", "--out", "sweeps")
    shutil.copytree(world / "run/store", world / "store")
    (world / "masks").mkdir()
    for path in sorted((world / "run/masks").iterdir())[:4]:
        shutil.copy(path, world / "masks")
    for folder in ("run", "store", "sweeps/tiny"):
        (world / folder / "mine.txt").write_text("mine")  # of somebody, in a folder of ours


def call(folder: Path, *words: str) -> None:
    """A command in a process of its own that must come through."""
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr}")


def write_folder(world: Path) -> None:
    """The scenes of world/voc as a plain folder."""
    root, table = world / "folder", np.load(world / "voc/cls_labels.npy", allow_pickle=True).item()
    shutil.copytree(world / "voc/JPEGImages", root / "images")
    shutil.copytree(world / "voc/SegmentationClass", root / "masks")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    rows = [(name, ";".join(c for c, x in zip(CLASSES, labels, strict=True) if x)) for name, labels in table.items()]
    lines = [f"{name}.png,{words},{'test' if name.startswith('test') else 'train'}" for name, words in rows]
    (root / "labels.csv").write_text("\n".join(["image,labels,split", *lines]) + "\n")


def write_coco(world: Path) -> None:
    """The same in COCO's layout, each class of an image as the run lengths of one object."""
    root = world / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, tests in (("train2014", False), ("val2014", True)):
        (root / split).mkdir()
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for path in sorted((world / "voc/JPEGImages").iterdir()):
            if path.name.startswith("test") != tests:
                continue
            shutil.copy(path, root / split)
            mask = np.asarray(Image.open(world / "voc/SegmentationClass" / path.name))
            h, w = mask.shape
            images.append({"id": len(images), "file_name": path.name, "height": h, "width": w})
            for k in set(np.unique(mask).tolist()) - {0, 255}:
                edges = np.flatnonzero(np.diff(np.concatenate([[0], (mask == k).ravel(order="F").astype(int), [0]])))
                counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
                outline = {"counts": counts, "size": [h, w]}
                number = len(objects)
                objects.append({"id": number, "image_id": len(images) - 1, "category_id": k, "segmentation": outline})
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------ one case
@dataclass
class Running:
    """A case that is being tried: its process, its folder, the files in it before, when it began."""

    case: Case
    process: int
    folder: Path
    before: dict[str, str]
    begun: float


def start(case: Case, number: int, world: Path, scratch: Path) -> Running:
    """Copy what the case needs, spoil it, and run the command in a new process."""
    folder = scratch / f"{number:04d}" / "here"
    folder.mkdir(parents=True)
    for name in case.needs:
        source = world / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    back = os.getcwd()
    os.chdir(folder)
    case.prepare()
    os.chdir(back)
    before = look(folder)
    process = os.fork()
    if process == 0:
        try:
            perform(case, folder)
        finally:
            os._exit(99)
    return Running(case, process, folder, before, time.monotonic())


def perform(case: Case, folder: Path) -> None:
    """The command, in the child; its exit code, or 77 where it would begin to work."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(folder)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = list(case.words)
    code = 99
    try:
        guard(semples.commands.app.app if case.words[0] == "semples" else tune.commands.app.app)
    except Begun:
        code = 77
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def judge(running: Running, status: int | None) -> tuple[str, str]:
    """The name of the figure that the case counts for, and what the command answered."""
    said = (running.folder.parent / "err").read_text(errors="replace")
    if status is None:
        return "hang", said
    code = os.waitstatus_to_exitcode(status)
    if "Traceback" in said or code < 0 or code not in (0, 1, 2, 77):
        return "traceback", f"{code} {said}"
    if "should not happen" in said:
        return "last_resort", said
    if code in (0, 77):
        return ("handled" if running.case.handled else "accepted_nonsense"), said
    lines = said.splitlines()
    problems = running.case.words[:3] == ("semples", "data", "check")  # one sentence each
    one = len(lines) == 1 or (problems and all(line.startswith("       ") for line in lines[1:]))
    clean = said.startswith("error: ") and all(len(line) < 1000 and line.isprintable() for line in lines)
    return ("one_sentence" if one and clean and code == 2 else "several_lines"), f"{code} {said}"


def look(folder: Path) -> dict[str, str]:
    """Everything below a folder with what it is and a digest of its content; no link is followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(folder).as_posix()
        if stat.S_ISLNK(mode):
            found[name] = os.readlink(path)
        elif stat.S_ISREG(mode):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = str(stat.S_IFMT(mode))
    return found


def changed(running: Running) -> list[str]:
    """Names of what was changed, removed or made and is not the product's own.

    Its own are files below a folder with a marker, but for those that lay there and were nobody's but "mine".
    """
    after, before = look(running.folder), running.before
    marked = {Path(name).parent for name in (*before, *after) if Path(name).name == MARKER}
    own = {"sweeps": ("mlflow.db", "mlartifacts")}
    wrong = []
    for name in {*before, *after}:
        if before.get(name) == after.get(name):
            continue
        path = Path(name)
        if name in before and path.name.startswith("mine"):
            wrong.append(name)
        if any(folder in (path, *path.parents) for folder in marked if folder != Path()) or Path() in marked:
            continue
        if path.parts[0] in own and (len(path.parts) == 1 or path.parts[1].startswith(own[path.parts[0]])):
            continue
        if stat.S_ISDIR(int(after[name])) if after.get(name, "").isdigit() else False:
            continue  # an empty folder on the way to one of ours
        wrong.append(name)
    return wrong


# ------------------------------------------------------------------------------------------------ all cases
def try_all(chosen: list[Case], world: Path, scratch: Path, show: bool) -> Counter[str]:
    """Run the cases, some at a time; counts by figure. Prints those that are not as they should be."""
    counts: Counter[str] = Counter()
    waiting, running = list(enumerate(chosen)), dict[int, Running]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, case = waiting.pop(0)
            new = start(case, number, world, scratch)
            running[new.process] = new
        for process, one in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            late = time.monotonic() - one.begun > PATIENCE
            if not ended and not late:
                continue
            if late and not ended:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
            del running[process]
            figure, said = judge(one, status if ended else None)
            touched = changed(one)
            counts.update([figure, *(["files_changed"] if touched else [])])
            if show or figure in BAD or touched:
                print(
                    f"{figure:<17} {one.case.kind}: {' '.join(one.case.words)[:160]!r}  {said.strip()[-500:]}",
                    flush=True,
                )
                if touched:
                    print(f"                  changed: {touched[:5]}", flush=True)
            shutil.rmtree(one.folder.parent, ignore_errors=True)
        time.sleep(0.005)
    return counts


def main() -> None:
    """Make the world, try everything, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--world", type=Path, help="keep the world here, and use it where it is there")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = (arguments.world or Path(folder) / "world").resolve()
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            os.environ[name] = str(Path(folder, name))
        if not world.exists():
            make_world(world)
        torch.set_num_threads(1)
        semples.clip.load_clip(ClipConfig())  # once, for all children
        semples.api.run_pipeline = begin  # type: ignore[assignment]
        semples.ablation.ablate = begin  # type: ignore[assignment]
        semples.pretrain.train_clip = semples.pretrain.train_backbone = begin  # type: ignore[assignment]
        ray.init = begin
        os.execv = begin  # type: ignore[assignment]
        chosen = [case for case in cases() if arguments.only in case.kind][:: arguments.every]
        scratch = Path(folder, "cases")
        counts = try_all(chosen, world, scratch, arguments.show)
    figures = {"tried": len(chosen), **{name: counts[name] for name in ("one_sentence", "handled", *BAD)}}
    figures["seconds"] = round(time.monotonic() - begun)
    for name, value in figures.items():
        print(f"{name:<18} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if any(figures[name] for name in BAD) else 0)


if __name__ == "__main__":
    main()
