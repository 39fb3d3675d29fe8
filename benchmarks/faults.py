"""Do the tests notice broken code? Every fault of tests/faults/ is put into a copy of the code; its tests run there.

    python benchmarks/faults.py [WORD ...] [--json FILE] [--show] [--work FOLDER]

A fault is an edit of a few lines with the promise that it breaks and the tests that should notice. The tests run in a
fork of this process, which has the libraries loaded, in a copy of the tree in memory, two at a time. First they all run
on the code as it is, where they must pass. A run that computes for over 120 s hangs, and so does one that is not done
after 600 s; it is ended. WORD: only faults whose file of faults, edited file or promise contains one of the words;
--show: print what each run printed. With --work an interrupted run of the same code goes on where it was.

Figures: faults; noticed, their share that makes a test fail, or hang; by_limit, how many hang; unexplained, faults that
go unnoticed though tests/faults/ does not say why they may; tests, those that are named; never_failed, those of
tests/promises/ that no fault makes fail (a table of cases counts as one test). Some 700 faults, so it takes long.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

ROOT = Path(__file__).parent.parent
AT_ONCE = 2
COMPUTES, LASTS = 120.0, 600.0  # seconds of processors, and of the clock, after which a run hangs
SOUND = 20  # times as long for the run of all tests on the code as it is
COPIED = (
    "semples", "tune", "tests", "benchmarks", "cluster", "cluster.yaml", "constraints.txt", "pyproject.toml",
    "README.md", "LICENSE", "Makefile",
)  # fmt: skip
# loaded before the tests are forked, so that no run spends its time on them
LIBRARIES = (
    "torch", "torchvision", "timm", "open_clip", "segmentation_models_pytorch", "ray.tune", "optuna.samplers", "mlflow",
    "sklearn.gaussian_process", "scipy.stats", "matplotlib.pyplot", "pydantic", "typer", "fsspec",
    "pycocotools.mask", "pydensecrf.densecrf",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """An edit that breaks a promise. kind: name of its file in tests/faults/. old: text that is there once. tests: what
    should notice, as pytest takes it. unnoticed: why it may pass all tests, or ""."""

    kind: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    unnoticed: str = ""

    @property
    def name(self) -> str:
        """How it is called, and by which its outcome is kept."""
        return f"{self.kind}: {self.breaks}"


def read_faults(folder: Path = ROOT / "tests" / "faults") -> list[Fault]:
    """All faults of the folder's YAML files. Raises TypeError for one with missing or unknown keys."""
    return [
        Fault(kind=path.stem, **{**entry, "tests": tuple(entry["tests"])})
        for path in sorted(folder.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text())
    ]


def memory_of(folder: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The file of the folder in which the outcomes for this very code are kept, and those that are there, by fault."""
    code = hashlib.sha256()
    for path in sorted(path for name in COPIED for path in (ROOT / name, *(ROOT / name).rglob("*"))):
        if path.suffix in (".py", ".yaml", ".toml", ".md", ".sh", "") and path.is_file():
            code.update(path.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{code.hexdigest()[:16]}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return file, {line["fault"]: line["outcome"] for line in map(json.loads, lines)}


def copy_tree(to: Path) -> Path:
    """The code and its tests, without caches, in the folder `to`."""
    to.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)
    return to


class Recorder:
    """A plugin of pytest that keeps which tests passed and which failed, by node id."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


@dataclass
class Run:
    """Tests that run in a process of their own, and, once it has ended, what became of them. broken: the tests could
    not even be collected, or the process died. hung: it was ended."""

    fault: Fault | None
    tree: Path
    process: int
    begun: float
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    broken: bool = False
    hung: bool = False

    @property
    def noticed(self) -> bool:
        return bool(self.failed or self.broken or self.hung)

    @property
    def word(self) -> str:
        """What became of it."""
        if self.hung:
            return "by limit"
        if self.noticed:
            return "noticed"
        return "not noticed, explained" if self.fault and self.fault.unnoticed else "NOT NOTICED"

    @property
    def over(self) -> bool:
        """Whether it has taken more than it may."""
        times, lasted = 1 if self.fault else SOUND, time.monotonic() - self.begun
        if lasted * (os.cpu_count() or 1) < times * COMPUTES:  # not even on all processors
            return False
        return lasted > times * LASTS or computed(self.process) > times * COMPUTES


def computed(group: int) -> float:
    """Seconds of the processors that the processes of a group, and those that these have waited for, took so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # of one that ends just now
            _, _, of_group, *others = stat.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, others[8:12])) if int(of_group) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def start(fault: Fault | None, tests: tuple[str, ...], tree: Path) -> Run:
    """Put the fault into the tree and fork a process that runs the tests there."""
    if fault:
        path = tree / fault.file
        path.write_text(path.read_text().replace(fault.old, fault.new))
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            perform(tests, tree)
        finally:
            os._exit(99)
    return Run(fault, tree, process, time.monotonic())


def perform(tests: tuple[str, ...], tree: Path) -> None:
    """In the child: run pytest, and leave what it said and which tests failed beside the tree."""
    os.setsid()
    log = os.open(f"{tree}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    # of what the tests start in turn
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tree.parent)}
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    # that an example fails is enough, the smallest one that does is not needed
    hypothesis.settings.register_profile("faults", phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate))
    hypothesis.settings.load_profile("faults")
    recorder = Recorder()
    options = ["-q", "-n", "0", "-m", "not gpu", "-p", "no:cacheprovider", "--tb=short", f"--basetemp={tree}.tmp"]
    code = pytest.main([*options, *tests], plugins=[recorder])
    outcome = {"passed": recorder.passed, "failed": recorder.failed, "broken": code not in (0, 1)}
    Path(f"{tree}.json").write_text(json.dumps(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def end(run: Run, hung: bool) -> Run:
    """Read what the process left, and take the fault out of the tree again."""
    outcome = Path(f"{run.tree}.json")
    run.hung = hung
    if outcome.exists():
        found: dict[str, Any] = json.loads(outcome.read_text())
        run.passed, run.failed, run.broken = tuple(found["passed"]), tuple(found["failed"]), found["broken"]
        outcome.unlink()
    else:
        run.broken = not hung
    if run.fault:
        shutil.copy(ROOT / run.fault.file, run.tree / run.fault.file)
    return run


def run_all(
    work: list[tuple[Fault | None, tuple[str, ...]]], trees: list[Path], show: bool, memory: Path | None = None
) -> list[Run]:
    """Run each entry's tests with its fault, as many at once as there are trees. memory: file to which the outcomes are
    added."""
    free, left, running, done = list(trees), list(work), {}, []
    while left or running:
        while free and left:
            fault, tests = left.pop(0)
            run = start(fault, tests, free.pop())
            running[run.process] = run
        time.sleep(0.05)
        for process, run in list(running.items()):
            hung = False
            if os.waitpid(process, os.WNOHANG) == (0, 0):
                if not (hung := run.over):
                    continue
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
            del running[process]
            done.append(end(run, hung))
            free.append(run.tree)
            if memory and run.fault:
                outcome = {name: getattr(run, name) for name in ("passed", "failed", "broken", "hung")}
                with memory.open("a") as file:
                    file.write(json.dumps({"fault": run.fault.name, "outcome": outcome}) + "\n")
            seconds = time.monotonic() - run.begun
            if run.fault:
                print(f"{seconds:5.1f} s  {run.word:12} {run.fault.name}", flush=True)
            if show:
                print(Path(f"{run.tree}.log").read_text(), flush=True)
    return done


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    faults = [
        fault
        for fault in read_faults()
        if not arguments.words or any(w in f"{fault.kind} {fault.file} {fault.breaks}" for w in arguments.words)
    ]
    for name in LIBRARIES:
        importlib.import_module(name)
    begun = time.monotonic()
    scratch_in = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=scratch_in) as scratch:
        trees = [copy_tree(Path(scratch) / str(number)) for number in range(AT_ONCE)]
        named = sorted({test for fault in faults for test in fault.tests})
        halves = [tuple(named[i::AT_ONCE]) for i in range(min(AT_ONCE, len(named)))]
        sound = run_all([(None, tests) for tests in halves], trees, arguments.show)
        if wrong := [run for run in sound if run.noticed]:
            print("\n".join(Path(f"{run.tree}.log").read_text()[-4000:] for run in wrong))
            raise SystemExit("error: the tests fail on the code as it is; mend them first")
        memory, known = memory_of(arguments.work) if arguments.work else (None, {})
        runs = [Run(fault, trees[0], 0, 0.0, **known[fault.name]) for fault in faults if fault.name in known]
        left = [(fault, fault.tests) for fault in faults if fault.name not in known]
        runs += run_all(left, trees, arguments.show, memory)
    tests = {test.partition("[")[0] for run in sound for test in run.passed}
    failed = {test.partition("[")[0] for run in runs for test in run.failed}
    never = sorted(test for test in tests - failed if test.startswith("tests/promises/"))
    unexplained = [run.fault for run in runs if run.fault and not run.noticed and not run.fault.unnoticed]
    figures = {
        "faults": len(runs),
        "noticed": round(sum(run.noticed for run in runs) / max(1, len(runs)), 3),
        "by_limit": sum(run.hung for run in runs),
        "unexplained": len(unexplained),
        "tests": len(tests),
        "never_failed": len(never),
        "seconds": round(time.monotonic() - begun),
    }
    for fault in unexplained:
        print(f"not noticed: {fault.name} ({fault.file})")
    for test in never:
        print(f"no fault makes it fail: {test}")
    for name, value in figures.items():
        print(f"{name:14} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
