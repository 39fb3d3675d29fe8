"""Mutation testing of the core modules: which small changes of the code go unnoticed by the tests?

    python benchmarks/mutants.py [--json FILE]

Runs mutmut as pyproject.toml says ([tool.mutmut]: modules and tests), which goes on where an earlier run was stopped,
and counts by module: mutants, and the share that is killed (a test fails, or takes far too long). `mutmut results`
lists those that are left, `mutmut show NAME` shows one. About an hour and a half on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

KILLED = ("killed", "timeout")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mutmut = str(Path(sys.executable).parent / "mutmut")
    subprocess.run([mutmut, "run", "--max-children", "2"], check=True)
    listed = subprocess.run([mutmut, "results", "--all", "true"], check=True, capture_output=True, text=True).stdout
    modules: dict[str, Counter[str]] = defaultdict(Counter)
    for line in listed.splitlines():
        name, _, state = line.strip().partition(": ")
        modules[name.partition(".x")[0]][state] += 1
    total = sum(modules.values(), Counter[str]())
    figures: dict[str, float] = {}
    for module, states in [*sorted(modules.items()), ("all", total)]:
        figures[f"mutants/{module}"] = states.total()
        figures[f"killed/{module}"] = round(sum(states[state] for state in KILLED) / states.total(), 3)
        print(f"{module:28} {states.total():5} mutants  {figures[f'killed/{module}']:.3f} killed  {dict(states)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
