"""Some of the bad inputs of benchmarks/attack.py, every seventh of each kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "attack.py"


@pytest.mark.slow
def test_bad_input_is_one_sentence_and_nothing_around_it_changes(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--every", "7", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    figures = json.loads((tmp_path / "figures.json").read_text())
    bad = ("traceback", "last_resort", "several_lines", "accepted_nonsense", "hang", "files_changed")
    assert {name: figures[name] for name in bad} == dict.fromkeys(bad, 0), done.stdout
    assert figures["tried"] > 200 and figures["one_sentence"] > figures["tried"] / 2
