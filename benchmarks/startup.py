"""How long commands take before they do anything, and those that only look at a sweep.

    python benchmarks/startup.py [--repeats 5] [--trials 1000] [--json FILE]

CPU seconds (user and system, of the process and its children), the median over `repeats` calls. `help`: both programs;
`import`: both packages. `status` and `best` look at a sweep of 1,000 trials: a replay of the built-in scenes by random
search, written into a temporary folder as a launch writes it.

Bars: 0.4 s for --help, 1.5 s for `status` and `best`; above one, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from semples.config import dump, with_changes
from semples.run_folder import CONFIG, RESULT, RESULT_FORMAT
from tune.environment import quiet
from tune.places import trial_folder
from tune.replay import TABLE, Table, replay
from tune.study import create_study, ranked
from tune.sweep_folder import record

PROGRAM = "import sys; from {}.commands.app import main; main()"
BARS = {"help_cpu_s": 0.4, "semples_help_cpu_s": 0.4, "status_cpu_s": 1.5, "best_cpu_s": 1.5}


def make_sweep(folder: Path, trials: int) -> None:
    """A sweep of that many trials in `folder`, of which the best has the files of a finished run."""
    table = Table(TABLE, {"trials": trials, "sampler": "random"})
    sweep = table.sweep.model_copy(update={"name": folder.name})
    folder.mkdir(parents=True)
    record(sweep, folder)
    replayed = replay(table.sweep, table, 4).study
    create_study(folder, sweep).add_trials(replayed.get_trials(deepcopy=False))
    best = ranked(replayed, sweep)[0]
    place = trial_folder(folder, best.number)
    place.mkdir(parents=True)
    (place / CONFIG).write_text(dump(with_changes(sweep.base_config(), best.params, "trial")))
    result = {"selection": sweep.selection, "metrics": {}, "keys": {}, "classes": ["a"]}
    (place / RESULT).write_text(json.dumps(RESULT_FORMAT.stamp() | result))


def cpu_seconds(code: str, *words: str) -> float:
    """Of a Python process that runs `code` with these words as its command line."""
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join([code, *words])} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    scratch = Path(tempfile.mkdtemp(dir=memory))
    try:
        with quiet():
            make_sweep(scratch / "s", arguments.trials)
        semples, tune, looked_at = PROGRAM.format("semples"), PROGRAM.format("tune"), ("s", "--out", str(scratch))
        calls = {
            "help_cpu_s": (tune, "--help"),
            "semples_help_cpu_s": (semples, "--help"),
            "status_cpu_s": (tune, "status", *looked_at),
            "best_cpu_s": (tune, "best", *looked_at),
            "import_tune_cpu_s": ("import tune",),
            "import_semples_cpu_s": ("import semples",),
        }
        figures = {
            name: round(statistics.median(cpu_seconds(*words) for _ in range(arguments.repeats)), 3)
            for name, words in calls.items()
        }
    finally:
        shutil.rmtree(scratch)
    for name, value in figures.items():
        print(f"{name:<22} {value:.3f}{f'  (bar {BARS[name]})' if name in BARS else ''}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"trials": arguments.trials, **figures}, indent=2) + "\n")
    raise SystemExit(int(any(figures[name] > bar for name, bar in BARS.items())))


if __name__ == "__main__":
    main()
