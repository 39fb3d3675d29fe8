"""The list of faults fits the code; whether the tests notice them is `make faults`."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from faults import ROOT, Fault, read_faults

FAULTS = read_faults()


@cache
def tree(text: str) -> str:
    """The syntax tree of code, as text."""
    return ast.dump(ast.parse(text))


@cache
def names(path: Path) -> set[str]:
    """Of the functions and classes of a file, and what is assigned in it."""
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    made = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return made | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def there(test: str) -> bool:
    """Whether a test can be found in its file, or in a contract that its file takes over."""
    file, *parts = test.partition("[")[0].split("::")
    contracts = (*(ROOT / "semples" / "testing").glob("*.py"), ROOT / "tune" / "testing.py")
    files = [ROOT / file, *(contracts if len(parts) > 1 else ())]
    return (ROOT / file).is_file() and {*parts} <= set().union(*map(names, files))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_an_edit_of_code_that_is_there(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    assert text.count(fault.old) == 1, f"{fault.file} has these lines {text.count(fault.old)} times"
    edited = text.replace(fault.old, fault.new)
    if fault.file.endswith(".py"):
        assert ast.dump(ast.parse(edited)) != tree(text)
    assert fault.tests and not [test for test in fault.tests if not there(test)]


def test_faults_are_many_and_each_is_there_once() -> None:
    assert len(FAULTS) >= 150
    twice = [pair for pair, n in Counter((f.file, f.old, f.new) for f in FAULTS).items() if n > 1]
    promises = [breaks for breaks, n in Counter((f.kind, f.breaks) for f in FAULTS).items() if n > 1]
    assert not twice and not promises
