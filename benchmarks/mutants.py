"""Mutation testing of the core modules: which small changes of the code go unnoticed by the tests?

    python benchmarks/mutants.py [MODULE ...] [--json FILE] [--work FOLDER]

mutmut changes one operator, constant or argument at a time and runs the tests that the table below names for the
module, of these only what calls the changed function. Each module is done in a copy of the tree in the folder --work,
where the same command goes on after an interruption and `mutmut show NAME` shows a mutant that was left; take a copy
away to begin it anew with today's code and tests. MODULE: only these, as they stand in the table.

Figures by module and in all: mutants, and the share that is killed (a test fails, or takes far too long). The mutants
that are left are printed. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from faults import ROOT, copy_tree

KILLED = ("killed", "timeout")
# by module the tests that run, as words: tests/promises/test_WORD.py, or tests/test_WORD.py
TESTS = {
    "semples/losses.py": "losses",
    "semples/metrics.py": "metrics properties_masks",
    "semples/stages/cutouts.py": "losses losses_wired",
    "semples/stages/heatmaps.py": "geometry trained_as_tested choosing pipeline",
    "semples/stages/masks.py": "properties_masks trained_as_tested choosing pipeline",
    "semples/sources.py": "code other_package",
    "semples/pipeline/graph.py": "keys stale code other_package",
    "semples/pipeline/keys.py": "keys stale code other_package",
    "semples/pipeline/run.py": "seeds code pipeline run_faults other_package",
    "semples/timm_parts.py": "timm_parts generators",
    "tune/messages.py": "messages records searcher",
    "tune/records.py": "records searcher parameters",
    "tune/parts.py": "parts space other_search",
    "tune/objectives.py": "parts choosing other_search parameters",
    "tune/samplers.py": "search properties_space other_search reference",
    "tune/stopping.py": "stopping limits other_search",
    "tune/scheduler.py": "stopping limits",
    "tune/study.py": "study searcher limits several_launches parameters",
    "tune/warm_start.py": "study searcher several_launches sweep_folder",
    "tune/searcher.py": "searcher limits several_launches parameters tracking exit_codes",
    "tune/confirm.py": "confirm choosing parameters differences",
    "tune/cost_aware.py": "cost_aware properties_space search",
}


def mutate(module: str, work: Path) -> dict[str, str]:
    """The state of every mutant of a module by its name: killed, timeout, survived, no tests, ..."""
    tree = work / module.removesuffix(".py").replace("/", "-")
    if not tree.exists():
        promises = {path.stem.removeprefix("test_") for path in (copy_tree(tree) / "tests" / "promises").glob("*.py")}
        settings = {
            "source_paths": ["semples", "tune"],
            "only_mutate": [module],
            "also_copy": ["benchmarks", "cluster", "cluster.yaml", "README.md", "Makefile"],
            "pytest_add_cli_args": ["-n", "0"],
            "pytest_add_cli_args_test_selection": [
                f"tests/promises/test_{word}.py" if word in promises else f"tests/test_{word}.py"
                for word in TESTS[module].split()
            ],
            "process_isolation": "forkserver",  # threads of torch do not survive a fork
            "use_setproctitle": False,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        project = tree / "pyproject.toml"
        project.write_text(f"{project.read_text()}\n[tool.mutmut]\n" + "\n".join(lines) + "\n")
    mutmut = str(Path(sys.executable).parent / "mutmut")
    subprocess.run([mutmut, "run", "--max-children", "2"], cwd=tree, check=True, stdout=sys.stderr)
    listed = subprocess.run([mutmut, "results", "--all", "true"], cwd=tree, check=True, capture_output=True, text=True)
    return dict(re.findall(r"^ *(\S+): (.+)$", listed.stdout, re.MULTILINE))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", choices=[*TESTS, []])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "mutants")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = {module: mutate(module, arguments.work.resolve()) for module in arguments.modules or TESTS}
    figures: dict[str, float] = {}
    for module, mutants in [*found.items(), ("all", {k: v for of in found.values() for k, v in of.items()})]:
        states = Counter(mutants.values())
        figures[f"mutants/{module}"] = states.total()
        figures[f"killed/{module}"] = round(sum(states[state] for state in KILLED) / states.total(), 3)
        print(f"{module:28} {states.total():5} mutants  {figures[f'killed/{module}']:.3f} killed  {dict(states)}")
        if module != "all":
            print("".join(f"    {state}: {name}\n" for name, state in mutants.items() if state not in KILLED), end="")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
