"""Every module imports only what lies below it, and importing one changes nothing in the process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from semples.sources import imports_of

ROOT = Path(__file__).parents[2]
LONGEST = 400  # lines of a file

Graph = Mapping[str, set[str]]


def files_of(package: str) -> dict[str, Path]:
    """The files of a package by the full names of their modules."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports(package: str, *seen: str) -> Graph:
    """By module of `package` the modules of the packages `seen` that it imports, wherever in its file but where only
    type checkers see it, and the packages around these, which are loaded first."""
    own, there = files_of(package), {name for other in seen for name in files_of(other)}
    graph: dict[str, set[str]] = {}
    for name, path in own.items():
        found = graph[name] = set[str]()
        for imported in imports_of(ast.parse(path.read_bytes()), name, path):
            parts = imported.split(".")
            chain = {".".join(parts[:n]) for n in range(1, len(parts) + 1)} & there
            direct = max(chain, key=len, default=name)
            around = {other for other in chain - {direct} if not f"{name}.".startswith(f"{other}.")}
            found |= around | ({direct} - {name})
    return graph


def parts(graph: Graph, package: str) -> Graph:
    """The same between what lies directly in the package: files and whole folders."""

    def part(name: str) -> str:
        return ".".join(name.split(".")[: 1 + len(package.split("."))])

    names = {part(name) for name in graph}
    return {
        name: {part(other) for own in graph if part(own) == name for other in graph[own]} - {name} for name in names
    }


def circle(graph: Graph) -> list[str]:
    """A circle of imports, [] where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_seen_wherever_the_import_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").mkdir()
    texts = {
        "a": "from p import b",
        "b": "def f():\n    import p.c",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x",
        "__init__": "",
    }
    for name, text in texts.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert circle(imports("p", "p")) == []
    (tmp_path / "p" / "c.py").write_text("class C:\n    def f(self):\n        from .a import x")
    assert sorted(set(circle(imports("p", "p")))) == ["p.a", "p.b", "p.c"]


def test_a_circle_of_folders_is_seen() -> None:
    graph = {"p.a": {"p.b.x"}, "p.b.x": set(), "p.b.y": {"p.a"}}
    assert circle(graph) == [] and sorted(set(circle(parts(graph, "p")))) == ["p.a", "p.b"]


@pytest.mark.parametrize("package", ["semples", "tune"])
def test_nothing_imports_what_imports_it(package: str) -> None:
    graph = imports(package, package)
    assert circle(graph) == []
    assert circle(parts(graph, package)) == []


def test_tests_of_others_alone_need_pytest() -> None:
    names = {name for name, path in files_of("semples").items() if "pytest" in path.read_text()}
    assert names == {name for name in files_of("semples") if name.startswith("semples.testing")}


def test_one_run_knows_nothing_of_a_search() -> None:
    graph = imports("semples", "semples", "tune")
    assert [name for name, found in graph.items() if any(other.startswith("tune") for other in found)] == []


PROBE = """
import importlib, json, logging, os, signal, sys

def state():
    loggers = {name: getattr(one, "level", 0) for name, one in logging.root.manager.loggerDict.items()}
    handlers = {str(one): str(signal.getsignal(one)) for one in signal.valid_signals()}
    return {
        "environment": dict(os.environ), "levels": {"": logging.root.level, **{k: v for k, v in loggers.items() if v}},
        "handlers": {"root": len(logging.root.handlers)}, "signals": handlers,
    }

libraries, modules = json.loads(sys.stdin.read())
for name in libraries:
    importlib.import_module(name)
changed, before = {}, state()
for name in modules:
    importlib.import_module(name)
    after = state()
    if after != before:
        changed[name] = [[part, key] for part in after for key in {**after[part], **before[part]}
                         if after[part].get(key) != before[part].get(key)]
    before = after
json.dump(changed, sys.stdout)
"""


@pytest.mark.parametrize("package", ["semples", "tune"])
def test_importing_changes_nothing_in_the_process(package: str) -> None:
    """No environment variable, no log level and no signal handler. What the libraries that are imported do by
    themselves was done before."""
    modules = [name for name in files_of(package) if not name.rpartition(".")[2].startswith("_")]
    libraries = {
        imported
        for path in [*files_of("semples").values(), *files_of(package).values()]
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for imported in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "semples"]
        )
        if imported.partition(".")[0] not in ("semples", "tune", "__future__")
    }
    asked = json.dumps([sorted(libraries), modules])
    done = subprocess.run([sys.executable, "-c", PROBE], input=asked, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_every_file_can_be_read_at_once() -> None:
    paths = [path for folder in ("semples", "tune", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert [name for name, count in lines.items() if count > LONGEST] == []


def test_a_trial_which_computes_nothing_imports_nothing_that_computes() -> None:
    """torch takes seconds and a quarter of a GB, in every process of a trial."""
    heavy = ("torch", "timm", "open_clip", "segmentation_models_pytorch", "matplotlib", "mlflow", "sklearn")
    text = f"import sys, tune.trial; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
