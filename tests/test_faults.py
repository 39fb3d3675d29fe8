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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_an_edit_of_code_that_is_there(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    assert text.count(fault.old) == 1, f"{fault.file} has these lines {text.count(fault.old)} times"
    edited = text.replace(fault.old, fault.new)
    if fault.file.endswith(".py"):
        assert ast.dump(ast.parse(edited)) != tree(text)
    assert fault.tests and all((ROOT / test.partition("::")[0]).is_file() for test in fault.tests)


def test_faults_are_many_and_each_is_there_once() -> None:
    assert len(FAULTS) >= 150
    twice = [pair for pair, n in Counter((f.file, f.old, f.new) for f in FAULTS).items() if n > 1]
    promises = [breaks for breaks, n in Counter((f.kind, f.breaks) for f in FAULTS).items() if n > 1]
    assert not twice and not promises
