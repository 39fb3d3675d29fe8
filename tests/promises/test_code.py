"""A stored result is stale when the code or a library that made it changed, and only then.

Code: of the stage, of all that it imports, of what reads its images, and of its generator, also of another package's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import MADE, SMALL, Command
from launches import Machine, launched
from packages import install

from semples import sources
from semples.config import Config, parse, with_changes
from semples.errors import UserError
from semples.manifest import USED
from semples.pipeline import keys
from semples.pipeline.graph import graph
from semples.pipeline.keys import declared, differences, key_parts, stage_keys, view
from semples.pipeline.run import Result, run
from semples.pipeline.work import Work
from semples.results import make_key
from semples.store import Store
from tune.mlflow_writer import entries

CONFIG = parse(SMALL, "small")
ALL = [*graph(CONFIG)]
WEAKTR = {"kind": "weaktr"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, to be edited: its code is what counts."""
    root = tmp_path / "semples"
    shutil.copytree(sources.ROOT, root, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    monkeypatch.setattr(sources, "ROOT", root)
    monkeypatch.setattr(sources, "_sources", {**sources._sources})
    return root


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    write(file, text.replace(old, new))


def write(file: Path, text: str) -> None:
    """As a new process would find it."""
    file.write_text(text)
    for name in [name for name in sources._sources if name.endswith(file.stem)]:
        del sources._sources[name]


def append(file: Path) -> None:
    write(file, (file.read_text() if file.exists() else "") + "LATER = 1\n")


def changed(before: dict[str, str], config: Config = CONFIG) -> list[str]:
    after = stage_keys(config, "data")
    return [stage for stage in ALL if after[stage] != before[stage]]


def made_after(first: str) -> list[str]:
    """A stage, what is made from it, and the same for other images; nothing for ""."""
    found: set[str] = set()
    for name, stage in graph(CONFIG).items():
        if (first and first in (name, stage.of)) or found & {*stage.sources.values()}:
            found.add(name)
    return [name for name in ALL if name in found]


LOSS = ("return -torch.log(1 - similarity(v_f, u)).mean()", "return -torch.log(1 - similarity(v_f, u)).sum()")
# file, an edit of a line in it, and the first stage of which it is code: those after it have it as an input
EDITS = {
    "losses.py": (*LOSS, "match"),
    "training.py": ("return (1 - done) ** 0.9", "return (1 - done) ** 0.8", "classify"),
    "crf.py": ("crf.addPairwiseGaussian(sxy=", "crf.addPairwiseGaussian(2 + 0 * len(unary), sxy=", "masks"),
    "clip.py": ('LABEL_TEMPLATE = "a photo of {}."', 'LABEL_TEMPLATE = "a picture of {}."', "match"),
    "images.py": ("return (maps - low) / (high - low + eps)", "return (maps - low) / (high + eps)", "classify"),
    "metrics.py": ("import numpy as np", "import numpy as np\nLATER = 1", "classify"),
    "generators/cnn.py": ("return tuple(self.body(images))", "return tuple(self.body(-images))", "classify"),
    "generators/weaktr.py": ("coarse = self.head(patches)", "coarse = 2 * self.head(patches)", ""),
    "stages/prompts.py": ("u = clip.embed_prompts(prompts)", "u = -clip.embed_prompts(prompts)", "prompts"),
    "stages/segment.py": ("MULTIPLE = 32", "MULTIPLE = 64", "segment"),
    "data/scenes.py": ("COMPANION_RATE = 0.9", "COMPANION_RATE = 0.8", "classify"),
    "data/voc.py": ("from __future__ import annotations", "from __future__ import annotations\nLATER = 1", ""),
    "commands/data.py": ("MOST_PROBLEMS = 20", "MOST_PROBLEMS = 21", ""),
    "store.py": ("UPLOADS = 3", "UPLOADS = 4", ""),
    "config/tree.py": ("from __future__ import annotations", "LATER = 1", ""),
}


@pytest.mark.parametrize("file", EDITS)
def test_an_edit_makes_stale_what_depends_on_it_and_nothing_else(file: str, tree: Path) -> None:
    old, new, first = EDITS[file]
    before = stage_keys(CONFIG, "data")
    edit(tree / file, old, new)
    assert changed(before) == made_after(first)


@pytest.mark.parametrize("kind", ["cnn", "weaktr"])
def test_of_the_generators_that_in_use_counts(kind: str, tree: Path) -> None:
    config = with_changes(CONFIG, {"generator.kind": kind}, "test")
    before = stage_keys(config, "data")
    edit(tree / "generators" / "weaktr.py", "coarse = self.head(patches)", "coarse = 2 * self.head(patches)")
    assert changed(before, config) == (ALL if kind == "weaktr" else [])


@pytest.mark.parametrize("kind", ["voc", "coco", "folder"])
def test_of_the_layouts_that_in_use_counts(kind: str, tree: Path) -> None:
    config = with_changes(CONFIG, {"data.kind": kind, "data.root": "."}, "test")
    before = stage_keys(config, "data")
    edit(tree / "data" / "folder.py", "from __future__ import annotations", "LATER = 1")
    assert changed(before, config) == (ALL if kind == "folder" else [])
    edit(tree / "data" / "files.py", "from __future__ import annotations", "LATER = 1")
    assert changed(before, config) == ALL


SILENT = {
    "a docstring": ("losses.py", '"""', '"""Really. ', 1),
    "a comment": ("training.py", "CHECKPOINT = ", "# what is under way\nCHECKPOINT = ", 1),
    "white space": ("training.py", "CHECKPOINT = ", "\n\nCHECKPOINT   =   ", 1),
    "what only type checkers see": ("training.py", "if TYPE_CHECKING:\n", "if TYPE_CHECKING:\n    import abc\n", 1),
}


@pytest.mark.parametrize("what", SILENT)
def test_what_does_nothing_in_a_run_makes_nothing_stale(what: str, tree: Path) -> None:
    file, old, new, count = SILENT[what]
    before = stage_keys(CONFIG, "data")
    write(tree / file, (tree / file).read_text().replace(old, new, count))
    assert changed(before) == []


LIBRARIES = {
    "torch": "classify",
    "timm": "classify",
    "numpy": "classify",
    "Pillow": "classify",
    "open_clip_torch": "match",
    "pydensecrf2": "masks",
    "segmentation-models-pytorch": "segment",
    "torchvision": "segment",
    "mlflow": "",
    "pydantic": "",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_of_a_library_makes_stale_what_was_computed_with_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, installed = stage_keys(CONFIG, "data"), sources._version
    monkeypatch.setattr(sources, "_version", lambda name: "99" if name == library else installed(name))
    first = LIBRARIES[library]
    assert changed(before) == made_after(first)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a generator, as an editable install leaves it: its files stay where they are written."""
    site = tmp_path / "site"
    install(site, "theirs", "1", {"semples.generators": {"theirs": "theirs.model:build"}})
    package = site / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text('"""Theirs."""\n')
    (package / "model.py").write_text("from theirs.scale import SCALE\n\n\ndef build(config, classes, initial): ...\n")
    (package / "scale.py").write_text("from semples.vocabulary import NOUNS\n\nSCALE = 1\n")
    (package / "table.csv").write_text("1,2\n")
    monkeypatch.syspath_prepend(str(site))
    return package


@pytest.mark.parametrize("file", ["model.py", "scale.py", "table.csv", "later.py"])
def test_every_file_of_a_package_with_a_generator_counts(file: str, tree: Path, theirs: Path) -> None:
    config = with_changes(CONFIG, {"generator.kind": "theirs"}, "test")
    before = stage_keys(config, "data")
    append(theirs / file)
    assert changed(before, config) == ALL
    assert changed(stage_keys(CONFIG, "data")) == []


def test_so_does_what_it_takes_from_here(tree: Path, theirs: Path) -> None:
    config = with_changes(CONFIG, {"generator.kind": "theirs"}, "test")
    before = stage_keys(config, "data")
    edit(theirs / "__init__.py", '"""Theirs."""', '"""Ours."""')
    (theirs / "__pycache__").mkdir()
    (theirs / "__pycache__" / "model.pyc").write_bytes(b"1")
    assert changed(before, config) == []
    append(tree / "vocabulary.py")
    assert changed(before, config) == ALL


def test_what_a_running_process_has_loaded_counts(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that it does not know of changes nothing, until the module is loaded again."""
    loaded = ModuleType("semples.losses")
    loaded.__spec__ = object()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "semples.losses", loaded)
    before = stage_keys(CONFIG, "data")
    (tree / "losses.py").write_text((tree / "losses.py").read_text() + "LATER = 1\n")
    assert changed(before) == []
    loaded.__spec__ = object()  # type: ignore[assignment]
    assert changed(before) == ALL[1:]


def test_why_tells_the_file_and_the_library(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_parts(CONFIG, "data")
    edit(tree / "losses.py", *LOSS)
    monkeypatch.setattr(sources, "_version", lambda name: "99")
    after = key_parts(CONFIG, "data")
    told = [line.partition(":")[0] for line in differences(before["match"], after["match"], {})]
    assert told[0] == "code of losses.py" and {"version of torch", "version of timm"} <= {*told}


def test_a_stage_is_given_what_it_declares_to_read_and_no_more() -> None:
    given = view(CONFIG, "refine")
    assert (given.refine, given.seed, given.runtime) == (CONFIG.refine, CONFIG.seed, CONFIG.runtime)
    assert given.match.lambda_b == CONFIG.match.lambda_b
    for read in (lambda: given.match.epochs, lambda: given.masks, lambda: given.data):
        with pytest.raises(AttributeError, match="which its `reads` does not name"):
            read()


def test_stages_are_given_nothing_else(small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def watched(self: Any) -> Callable[..., dict[str, float]]:
        def compute(config: Any, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
            given.append(config)
            (out / "result").touch()
            return {}

        return compute

    monkeypatch.setattr("semples.pipeline.graph.Stage.load", watched)
    with Store(tmp_path / "store") as store:
        run(CONFIG, store, lambda event: None)
    assert len(given) == len(MADE) and all(isinstance(config, keys.View) for config in given)


@pytest.fixture
def other_code(small_run: Result, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with results of the code as it is; from now on losses.py is another, and nothing can be computed."""
    shutil.copytree(next(iter(small_run.folders.values())).parent, tmp_path / "store")
    edit(tree / "losses.py", *LOSS)

    def computed(*_: Any) -> Any:
        raise UserError("computed")

    monkeypatch.setattr("semples.pipeline.compute.seed_stream", computed)
    return tmp_path / "store"


def test_results_of_other_code_are_computed_again(other_code: Path) -> None:
    with Store(other_code) as store, pytest.raises(UserError, match="computed"):
        run(CONFIG, store, lambda event: None)


def test_they_are_taken_where_that_is_asked_for_and_the_run_says_so(other_code: Path, small_run: Result) -> None:
    with Store(other_code) as store:
        result = run(CONFIG, store, lambda event: None, reuse="declared")
    assert result.reused == MADE and result.metrics == small_run.metrics
    assert result.to_dict()["reuse"] == "declared" and "reuse" not in small_run.to_dict()


@pytest.mark.parametrize("used", [1.0, None])
def test_even_then_the_result_of_this_code_comes_first(small_run: Result, tmp_path: Path, used: float | None) -> None:
    """Whether it was used before the other or after it."""
    shutil.copytree(next(iter(small_run.folders.values())).parent, tmp_path / "store")
    parts = key_parts(small_run.config, small_run.data.fingerprint)["classify"]

    def write(out: Path) -> dict[str, Any]:
        (out / "file").touch()
        return {"metrics": {}, "curves": [], "seconds": 1.0, "stage": "classify", "key": other}

    with Store(tmp_path / "store") as store:
        other = {**parts, "code": {"losses.py": "another"}}
        store.get_or_compute(make_key(**other), write)
        os.utime(tmp_path / "store" / make_key(**parts) / USED, (used, used) if used else None)
        result = run(CONFIG, store, lambda event: None, until="classify", reuse="declared")
    assert result.folders["classify"].name == small_run.folders["classify"].name


def test_what_is_then_made_from_them_has_their_keys(other_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another background score: the masks are new, made from heatmaps of other code, and say so."""
    made: dict[str, Any] = {}

    def computing(work: Work, data: Any, report: Any) -> dict[str, Any]:
        (work.out / "file").write_text(work.stage)
        made[work.stage] = {i: folder.name for i, folder in work.inputs.items()}
        return {"metrics": {}, "curves": [], "seconds": 1.0}

    config = with_changes(CONFIG, {"masks.background": 0.3, "runtime.device": "cpu"}, "test")
    with Store(other_code) as store:
        result = run(config, store, lambda event: None, reuse="declared", computing=computing)
        stored = {entry.key: entry.manifest["key"] for entry in store.entries()}
    assert [*made] == ["masks", "measured_masks", "segment"]
    for name, inputs in made.items():
        assert stored[result.folders[name].name]["inputs"] == inputs
    assert made["masks"]["heatmaps"] != stage_keys(config, result.data.fingerprint)["heatmaps"]


def test_results_are_alike_where_only_code_and_libraries_differ() -> None:
    parts = key_parts(CONFIG, "data")
    other = {name: {**part, "code": {}, "libraries": {}} for name, part in parts.items()}
    old = {name: {**part, "version": 2} for name, part in parts.items()}  # as 0.1.0 has it
    for part in old.values():
        del part["code"], part["libraries"], part["stream"]
    known = {make_key(**part): part for of in (parts, other, old) for part in of.values()}
    for name in ALL:
        assert len({declared(of[name], known) for of in (parts, other, old)}) == 1
    changed = key_parts(with_changes(CONFIG, {"classify.lr": 0.1}, "test"), "data")
    known |= {make_key(**part): part for part in changed.values()}
    for name in ALL:
        assert declared(changed[name], known) != declared(parts[name], known)


def test_a_run_says_with_which_versions_its_results_were_computed(
    small_run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with those of the process that reports."""
    shutil.copytree(next(iter(small_run.folders.values())).parent, tmp_path / "store")
    there = small_run.to_dict()["versions"]
    installed = sources._version
    monkeypatch.setattr(sources, "_version", lambda name: "99" if name == "torch" else installed(name))
    with Store(tmp_path / "store") as store:
        result = run(CONFIG, store, lambda event: None, reuse="declared")
    assert result.reused == MADE and result.to_dict()["versions"] == there
    assert there["torch"] == installed("torch") and there["pydensecrf2"] == installed("pydensecrf2")


def test_the_commands_say_what_other_code_made_and_take_it_when_asked(other_code: Path, command: Command) -> None:
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    code, out, _ = command("semples", "stages", "small.yaml", "--store", other_code)
    assert code == 0 and "8 more results of this configuration that other code" in out
    code, _, err = command("semples", "run", "small.yaml", "--store", other_code)
    assert code == 2 and "computed" in err
    code, _, _ = command("semples", "run", "small.yaml", "--store", other_code, "--reuse", "declared")
    assert code == 0 and json.loads(Path("runs/run/result.json").read_text())["reuse"] == "declared"


def test_a_sweep_takes_what_other_code_made_when_asked_and_every_trial_says_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, out = Machine(monkeypatch), tmp_path / "out"
    space = {"match.lambda_b": {"choice": [1.0, 2.0, 3.0]}}
    launched(out, space=space, trials=1)
    edit(tree / "losses.py", *LOSS)
    machine.computed.clear()
    launched(out, space=space, trials=2)
    assert machine.computed.count("match") == 1 and machine.computed.count("refine") == 1  # none of classify is stale
    append(tree / "training.py")
    machine.computed.clear()
    launched(out, space=space, trials=3, reuse="declared")
    assert "classify" not in machine.computed and machine.computed.count("match") == 1
    said = [json.loads((out / "s" / "trials" / f"000{n}" / "result.json").read_text()) for n in range(3)]
    assert [of.get("reuse") for of in said] == [None, None, "declared"]
    begun = [entry for _, entry in entries(out / "s") if entry["what"] == "start" and entry["parent"]]
    assert [entry["tags"]["reuse"] for entry in begun] == ["exact", "exact", "declared"]
